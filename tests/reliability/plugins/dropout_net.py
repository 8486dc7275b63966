"""A network with dropout and batch normalisation, of two kinds, for trials of resuming."""

from __future__ import annotations

from torch import nn


class DropoutNet(nn.Sequential):
    """Logits `[N, num_classes]` of small images."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int = 4):
        super().__init__(
            nn.Conv2d(in_channels, width, 3, stride=2),
            nn.BatchNorm2d(width, momentum=None),  # its running mean depends on how many batches it has counted
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.BatchNorm1d(16 * width),
            nn.Dropout(0.3),
            nn.Linear(16 * width, num_classes),
        )
