"""A narrow network with group instead of batch normalisation, for the cells of `max_lr.py`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class GroupNormNet(nn.Module):
    """Five 3x3 convolutions, each with GroupNorm and ReLU, in three stages; a mean over the pixels; a linear layer.

    Args:
        num_classes: logits per image; set from the data set.
        in_channels: 1 for grey, 3 for colour images; set from the data set.
        image_size: pixels; set from the data set.
        width: channels of the first stage, a multiple of 4: one group has 4 channels.

    Source: Wu, He: Group Normalization (2018), section 3.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: Annotated[int, Ge(4)] = 16):
        super().__init__()
        widths = (in_channels, width, 2 * width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(after // 4, after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (1, 3) else []
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """The logits `[B, num_classes]` of images `[B, C, H, W]`, normalised."""
        return self.classifier(self.features(images))
