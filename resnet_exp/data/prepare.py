"""A data set made ready for a run: split, normalised, resident."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from resnet_exp.data.bank import ImageBank, Normalisation
from resnet_exp.data.split import digest, split
from resnet_exp.interfaces import ConfigError, DatasetInfo, DataSource, Progress
from resnet_exp.settings import SplitConfig


@dataclass(frozen=True)
class Data:
    """The images of a run. `val` are held out of the training images; None where nothing is."""

    info: DatasetInfo
    normalisation: Normalisation
    digests: dict[str, str]  # of each split's bytes
    train: ImageBank
    val: ImageBank | None
    test: ImageBank


def prepare(
    source: DataSource,
    name: str,
    settings: SplitConfig,
    *,
    seed: int,
    padding: int,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> Data:
    """The data set, loaded and split, on the device; training images padded for the augmentation's crops.

    Raises:
        ConfigError: more images are held out, used or put into a batch than there are.
        RunError: the data set cannot be read.
    """
    loaded = source.load(progress)
    classes = loaded.class_names
    train, val = split(loaded.train, settings.validation, settings.holdout, settings.limit_train, seed, len(classes))
    if batch_size > len(train):
        raise ConfigError(f"train.batch_size={batch_size}: a number up to the {len(train)} training images is needed")
    if len(train) % batch_size == 1:
        raise ConfigError(
            f"train.batch_size={batch_size} leaves a last batch of one image of the {len(train)}: batch normalisation "
            f"needs two; take {batch_size - 1} or {batch_size + 1}"
        )
    splits = {"train": train, "test": loaded.test} | ({"val": val} if val is not None else {})
    info = DatasetInfo(
        name=name,
        class_names=classes,
        image_size=train.images.shape[1],
        in_channels=train.images.shape[3],
        num_train=len(train),
        num_val=0 if val is None else len(val),
        num_test=len(loaded.test),
    )
    normalisation = Normalisation.of(train.images)
    banks = {
        which: ImageBank(images, normalisation, device, padding if which == "train" else 0)
        for which, images in splits.items()
    }
    digests = {which: digest(images) for which, images in splits.items()}
    return Data(info, normalisation, digests, banks["train"], banks.get("val"), banks["test"])
