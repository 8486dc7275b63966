"""A data set's test split made ready for a trained network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from resnet_exp.data.bank import ImageBank, Normalisation
from resnet_exp.data.split import digest
from resnet_exp.interfaces import DatasetInfo, DataSource, Progress


@dataclass(frozen=True)
class TestData:
    """The test images, normalised as the network's training images were."""

    info: DatasetInfo
    digest: str  # of the split's bytes
    bank: ImageBank


def prepare_test(
    source: DataSource, name: str, normalisation: Normalisation, *, device: torch.device, progress: Progress
) -> TestData:
    """The data set's test split on the device.

    Raises:
        RunError: the data set cannot be read.
    """
    loaded = source.load(progress)
    images = loaded.test.images
    info = DatasetInfo(
        name=name,
        class_names=loaded.class_names,
        image_size=images.shape[1],
        in_channels=images.shape[3],
        num_train=0,
        num_val=0,
        num_test=len(loaded.test),
    )
    return TestData(info, digest(loaded.test), ImageBank(loaded.test, normalisation, device))
