"""As many images as CIFAR-10 has, small and grey: for tests that count the steps of whole runs."""

from __future__ import annotations

import numpy as np

from resnet_exp.config.ranges import Count, ImageSize
from resnet_exp.interfaces import DataSize, LabelledImages, LoadedData, Progress


class Blank:
    """`num_train` images of noise in ten classes, and ten to test."""

    def __init__(self, num_train: Count = 50_000, image_size: ImageSize = 8) -> None:
        self.num_train, self.image_size = num_train, image_size

    def identity(self) -> str:
        """Its two numbers."""
        return f"blank-{self.num_train}-{self.image_size}"

    def size(self) -> DataSize:
        """Ten classes."""
        return DataSize(self.num_train, 10)

    def load(self, progress: Progress) -> LoadedData:
        """Noise."""
        rng = np.random.default_rng(0)
        train, test = (
            LabelledImages(
                rng.integers(0, 256, (count, self.image_size, self.image_size, 1), dtype=np.uint8),
                np.arange(count, dtype=np.int64) % 10,
            )
            for count in (self.num_train, 10)
        )
        return LoadedData(train, test, tuple("abcdefghij"))
