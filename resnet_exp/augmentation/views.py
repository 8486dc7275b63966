"""What the augmentations share: a crop that may be mirrored, and a square at a random place.

They use streams 0 to 4 of the images' keys (`randomness.below`); an augmentation that needs more takes other streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_exp.data.randomness import below
from resnet_exp.interfaces import Sampling


def crop_flip(keys: Tensor, image_size: int, padding: int, flip: bool) -> Sampling:
    """Random crops of the padded images of these keys, `[B], int64`; with `flip` half of them are mirrored."""
    pixels = torch.arange(image_size, device=keys.device)
    shifts = 2 * padding + 1
    rows = below(keys, 0, shifts)[:, None] + pixels
    columns = pixels.expand(len(keys), -1)
    # Indices are mirrored instead of pixels: crop and flip are then one look-up in the bank.
    if flip:
        columns = torch.where(below(keys, 2, 2).bool()[:, None], columns.flip(1), columns)
    return Sampling(rows, below(keys, 1, shifts)[:, None] + columns)


def square(keys: Tensor, image_size: int, side: int | Tensor) -> Tensor:
    """The pixels of a random square in each image, `[B, H, W], bool`.

    Its centre is any pixel of the image; what lies outside is cut off.

    Args:
        keys: `[B], int64`.
        image_size: pixels of a side.
        side: pixels of a side of the square: one for all images, or one for each, `[B], int64`.
    """
    rows, columns = (_span(below(keys, stream, image_size), image_size, side) for stream in (3, 4))
    return rows[:, :, None] & columns[:, None, :]


def _span(centre: Tensor, image_size: int, side: int | Tensor) -> Tensor:
    pixels = torch.arange(image_size, device=centre.device)
    start = centre - side // 2
    return (pixels >= start[:, None]) & (pixels < (start + side)[:, None])
