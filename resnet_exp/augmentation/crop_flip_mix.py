"""Crop after padding and horizontal flip of two images, which are then mixed: mixup or CutMix."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from resnet_exp.augmentation.views import crop_flip, square
from resnet_exp.config.ranges import Factor, Pixels
from resnet_exp.data.randomness import below
from resnet_exp.interfaces import Mix, Sampling

Probability = Annotated[float, Gt(0), Le(1)]

# Streams of the keys beside those of the views.
_SECOND, _KEPT, _WHETHER = 5, 6, 7
_ALL = 1 << 53  # of the numbers that a key can give
_QUANTILES = 1 << 14


class CropFlipMix:
    """A shifted, possibly mirrored view, mixed with such a view of another training image; the labels share likewise.

    The other image, the share and the box are drawn for each image, not for each batch as in the authors' code.

    Args:
        padding: black pixels added on each side before a crop of the original size is taken; 0 takes no crop.
        flip: mirrors half of the images.
        kind: `mixup` adds the two images up, share : 1 - share; `cutmix` puts a box of the second into the first. The
            box's area is 1 - share of the image before what lies outside is cut off; the labels share by what is left.
        alpha: the first image's share is drawn from Beta(alpha, alpha): 1 is uniform, less keeps nearer to one image.
        probability: of an image to be mixed at all.

    Source:
        Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization (ICLR 2018), section 2; alpha = 1
        for CIFAR-10, section 3.2.
        Yun, Han, Oh, Chun, Choe, Yoo: CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
        Features (ICCV 2019), section 3.1; alpha = 1, there too. The box in whole pixels is the authors' code's.
    """

    def __init__(
        self,
        padding: Pixels = 4,
        flip: bool = True,
        kind: Literal["mixup", "cutmix"] = "mixup",
        alpha: Factor = 1.0,
        probability: Probability = 1.0,
    ) -> None:
        self.padding, self.flip, self.kind, self.probability = padding, flip, kind, probability
        self._shares = _beta_quantiles(alpha)

    def sample(self, keys: Tensor, image_size: int) -> Sampling:
        """The views of the images with these keys, `[B], int64`, and what is mixed in."""
        others = below(keys, _SECOND, _ALL)
        first, second = (crop_flip(each, image_size, self.padding, self.flip) for each in (keys, others))
        return replace(first, mix=Mix(others, second, self._share(keys, image_size)))

    def _share(self, keys: Tensor, image_size: int) -> Tensor:
        """Of the first image, at each pixel of its own or, `[B, 1, 1]`, at all."""
        self._shares = self._shares.to(keys.device)  # copied once
        share = self._shares.take(below(keys, _KEPT, _QUANTILES))
        mixed = below(keys, _WHETHER, _ALL) < round(self.probability * _ALL)
        share = torch.where(mixed, share, 1.0)
        if self.kind == "mixup":
            return share[:, None, None]
        half = (image_size * (1 - share).sqrt() / 2).long()
        return (~square(keys, image_size, 2 * half)).float()


def _beta_quantiles(alpha: float) -> Tensor:
    """Numbers of equal probability under Beta(alpha, alpha), ascending, `[_QUANTILES], float32`.

    A number drawn from them is distributed as one drawn from the whole, to 1 / (2 * _QUANTILES) of probability.
    """
    from scipy.special import betaincinv

    middles = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return torch.from_numpy(betaincinv(alpha, alpha, middles.numpy())).float()
