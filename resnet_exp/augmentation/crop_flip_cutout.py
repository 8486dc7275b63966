"""Crop after padding, horizontal flip, and cutout; each can be left out."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from resnet_exp.augmentation.views import crop_flip, square
from resnet_exp.config.ranges import Pixels
from resnet_exp.interfaces import Sampling


class CropFlipCutout:
    """A shifted, possibly mirrored view with one square erased.

    Args:
        padding: black pixels added on each side before a crop of the original size is taken; 0: no crop.
        flip: mirrors half of the images.
        cutout: pixels, the side of the erased square; 0: nothing is erased. The square's centre is anywhere in the
            image, so that part of the square may lie outside. Erased pixels become the data set's mean.

    Source: DeVries, Taylor: Improved Regularization of Convolutional Neural Networks with Cutout (2017), section 3.2.
    """

    def __init__(self, padding: Pixels = 4, flip: bool = True, cutout: Pixels = 8) -> None:
        self.padding, self.flip, self.cutout = padding, flip, cutout

    def sample(self, keys: Tensor, image_size: int) -> Sampling:
        """The views of the images with these keys, `[B], int64`."""
        view = crop_flip(keys, image_size, self.padding, self.flip)
        return replace(view, erase=square(keys, image_size, self.cutout)) if self.cutout else view
