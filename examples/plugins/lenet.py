"""A model of your own, outside the package: LeNet-5 with ReLU and max-pooling."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions and two linear layers.

    Args:
        num_classes: logits per image; set from the data set.
        in_channels: 1 for grey, 3 for colour images; set from the data set.
        image_size: pixels; set from the data set.
        hidden: units of the layer before the logits. `model.hidden=0` is refused before anything is imported.

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998), section II.B.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, hidden: Annotated[int, Ge(1)] = 84):
        super().__init__()
        side = image_size // 4
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * side * side, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """The logits `[B, num_classes]` of images `[B, C, H, W]`, normalised."""
        return self.classifier(self.features(images))
