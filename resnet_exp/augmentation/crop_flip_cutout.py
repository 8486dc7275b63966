"""Crop after padding, horizontal flip, and cutout; each can be left out."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from resnet_exp.interfaces import Sampling
from resnet_exp.randomness import below

Pixels = Annotated[int, Ge(0)]


class CropFlipCutout:
    """A shifted, possibly mirrored view with one square erased.

    Args:
        padding: black pixels added on each side before a crop of the original size is taken; 0 takes no crop.
        flip: mirrors half of the images.
        cutout: pixels, the side of the erased square; 0 erases nothing. The square's centre is anywhere in the image,
            so that its edge may lie outside. Erased pixels become the data set's mean.

    Source: DeVries, Taylor: Improved Regularization of Convolutional Neural Networks with Cutout (2017), section 3.2.
    """

    def __init__(self, padding: Pixels = 4, flip: bool = True, cutout: Pixels = 8) -> None:
        self.padding, self.flip, self.cutout = padding, flip, cutout

    def sample(self, keys: Tensor, image_size: int) -> Sampling:
        """The views of the images with these keys, `[B], int64`."""
        pixels = torch.arange(image_size, device=keys.device)
        shifts = 2 * self.padding + 1
        rows = below(keys, 0, shifts)[:, None] + pixels
        columns = pixels.expand(len(keys), -1)
        if self.flip:
            columns = torch.where(below(keys, 2, 2).bool()[:, None], columns.flip(1), columns)
        cols = below(keys, 1, shifts)[:, None] + columns
        return Sampling(rows, cols, self._erase(keys, pixels) if self.cutout else None)

    def _erase(self, keys: Tensor, pixels: Tensor) -> Tensor:
        size = len(pixels)
        return (
            (self._span(below(keys, 3, size), pixels)[:, :, None])
            & (self._span(below(keys, 4, size), pixels)[:, None, :])
        )

    def _span(self, centre: Tensor, pixels: Tensor) -> Tensor:
        start = centre[:, None] - self.cutout // 2
        return (pixels >= start) & (pixels < start + self.cutout)
