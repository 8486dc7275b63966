"""Crop after padding and horizontal flip of two images, which are then mixed by mixup or CutMix."""

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

# Streams of random numbers, after the 0 to 4 of the views: the other image, its share, whether to mix at all.
_OTHER, _SHARE, _WHETHER = 5, 6, 7
_RANGE = 1 << 53  # a random number of a key is below this
_QUANTILES = 1 << 14  # 64 KiB of float32, and a resolution of 0.00003 in probability


class CropFlipMix:
    """A shifted, possibly mirrored view, mixed with such a view of another training image; the labels are mixed alike.

    The other image, the share and the box are drawn for each image; the authors' code draws share and box once a batch.

    Args:
        padding: black pixels added on each side before a crop of the original size is taken; 0: no crop.
        flip: mirrors half of the images.
        kind: `mixup` adds share times the first image and 1 - share times the second; `cutmix` puts a box of the second
            into the first. The box's area is 1 - share of the image before the part outside is cut off; the labels are
            mixed by the area that is left.
        alpha: the first image's share is drawn from Beta(alpha, alpha): 1 is uniform, less is nearer to one of the two.
        probability: that an image is mixed at all.

    Source:
        Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization (ICLR 2018), section 2; alpha = 1
        for CIFAR-10, section 3.2.
        Yun, Han, Oh, Chun, Choe, Yoo: CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
        Features (ICCV 2019), section 3.1, where alpha = 1 too. The box of whole pixels is that of the authors' code.
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
        others = below(keys, _OTHER, _RANGE)
        first, second = (crop_flip(each, image_size, self.padding, self.flip) for each in (keys, others))
        return replace(first, mix=Mix(others, second, self._share(keys, image_size)))

    def _share(self, keys: Tensor, image_size: int) -> Tensor:
        """The share of the first image at each pixel, `[B, H, W]`, or at all pixels alike, `[B, 1, 1]`; 0..1."""
        self._shares = self._shares.to(keys.device)  # a copy in the first step only
        share = self._shares.take(below(keys, _SHARE, _QUANTILES))
        mixed = below(keys, _WHETHER, _RANGE) < round(self.probability * _RANGE)
        share = torch.where(mixed, share, 1.0)
        if self.kind == "mixup":
            return share[:, None, None]
        half = (image_size * (1 - share).sqrt() / 2).long()
        return (~square(keys, image_size, 2 * half)).float()


def _beta_quantiles(alpha: float) -> Tensor:
    """The quantiles of Beta(alpha, alpha) at equal steps, ascending, `[_QUANTILES], float32`.

    One of them chosen at random is distributed as Beta(alpha, alpha), to within 1 / (2 * _QUANTILES) of probability.
    """
    # A table, because torch.distributions.Beta draws from a stream; a share must be a function of the image's key.
    from scipy.special import betaincinv

    middles = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return torch.from_numpy(betaincinv(alpha, alpha, middles.numpy())).float()
