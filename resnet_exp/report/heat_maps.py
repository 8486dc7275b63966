"""Heat maps: laid over images, and written into data files."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F

COLOURS = "inferno"  # evenly rising in lightness, so that it is read without colour vision and in grey too
STRENGTH = 0.6  # of the colours over an image
_GREY = np.array([0.299, 0.587, 0.114])  # Source: ITU-R BT.601, luma
_CELL = 128  # pixels of an image laid under a heat map, at least about so many
_MOST = 32  # numbers of a side that a data file holds


def overlaid(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images in grey under the colours of maps, `[N, P, P, 3], uint8`.

    Args:
        images: `[N, P, P, 3], uint8`, as `enlarged` gives them.
        maps: `[N, S, S], float32`, 0..1; drawn smooth, each value in the middle of its square.
    """
    size = images.shape[1:3]
    smooth = F.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    colours = mpl.colormaps[COLOURS](smooth.numpy())[..., :3]
    grey = (images @ _GREY / 255)[..., None]
    return np.rint(255 * (STRENGTH * colours + (1 - STRENGTH) * grey)).astype(np.uint8)


def enlarged(images: np.ndarray) -> np.ndarray:
    """Images `[N, S, S, 3], uint8` with each pixel repeated, so that small ones can carry a smooth map."""
    times = max(1, round(_CELL / images.shape[1]))
    return images.repeat(times, axis=1).repeat(times, axis=2)


def as_rows(values: np.ndarray) -> list[str]:
    """A map `[S, S]`, 0..1, as text: a row each, in thousandths; of more than 32 a side, the means of as many squares.

    Numbers of a JSON list would each take a line.
    """
    side = min(values.shape[0], _MOST)
    means = F.adaptive_avg_pool2d(torch.from_numpy(values)[None].float(), side)[0].numpy()
    return [" ".join(str(round(1000 * float(value))) for value in row) for row in means]
