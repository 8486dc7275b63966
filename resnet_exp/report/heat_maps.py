"""Heat maps drawn over images, and as text for data files."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F

COLOURS = "inferno"  # its lightness rises evenly, so that it can be read without colour vision and in grey
STRENGTH = 0.6  # of the colours over an image
_GREY = np.array([0.299, 0.587, 0.114])  # Source: ITU-R BT.601, luma
_CELL = 128  # pixels: small images under a heat map are enlarged to about this side
_MAX_SIDE = 32  # numbers a side in a data file


def overlaid(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Grey images under the colours of maps, `[N, P, P, 3], uint8`.

    Args:
        images: `[N, P, P, 3], uint8`, from `enlarged`.
        maps: `[N, S, S], float32`, 0..1; interpolated, each value in the middle of its square.
    """
    size = images.shape[1:3]
    smooth = F.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    colours = mpl.colormaps[COLOURS](smooth.numpy())[..., :3]
    grey = (images @ _GREY / 255)[..., None]
    return np.rint(255 * (STRENGTH * colours + (1 - STRENGTH) * grey)).astype(np.uint8)


def enlarged(images: np.ndarray) -> np.ndarray:
    """Images `[N, S, S, 3], uint8` with each pixel repeated, so that a smooth map can be drawn over small ones."""
    times = max(1, round(_CELL / images.shape[1]))
    return images.repeat(times, axis=1).repeat(times, axis=2)


def as_rows(values: np.ndarray) -> list[str]:
    """The rows of a map `[S, S]`, 0..1, as texts of thousandths; a map of more than 32 a side is averaged to 32."""
    # Texts, since `write_json` would put each number of a list on its own line.
    side = min(values.shape[0], _MAX_SIDE)
    means = F.adaptive_avg_pool2d(torch.from_numpy(values)[None].float(), side)[0].numpy()
    return [" ".join(str(round(1000 * float(value))) for value in row) for row in means]
