"""`prepare`: a data set loaded, split and put on the device, ready for a run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import torch

from resnet_exp.config.schema import SplitConfig
from resnet_exp.data.bank import ImageBank, Normalisation
from resnet_exp.data.memory import memory_told
from resnet_exp.data.repeats import note_of_repeats
from resnet_exp.data.split import check_fit, digest, split
from resnet_exp.interfaces import DatasetInfo, DataSize, DataSource, Progress

_TOLD = memory_told("reading the images", "take fewer (data.limit_train) or smaller ones (data.image_size)")


@dataclass(frozen=True)
class EvaluationData:
    """A data set's test images; for a trained network, normalised as its training images were."""

    info: DatasetInfo
    normalisation: Normalisation
    digests: dict[str, str]  # of each split's bytes
    test: ImageBank


@dataclass(frozen=True)
class Data(EvaluationData):
    """The images of a run; `val` is held out of the training images, None where nothing is held out."""

    train: ImageBank
    val: ImageBank | None
    note: str | None = None  # what must be known of the images to judge an accuracy on them


@_TOLD
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
        ConfigError: `check_fit` refuses the settings for what was loaded.
        RunError: the data set cannot be read.
    """
    loaded = source.load(progress)
    classes = loaded.class_names
    # Checked before the run too, but by the listed files: unreadable images may have been left out since.
    check_fit(DataSize(len(loaded.train), len(classes)), settings, batch_size)
    train, val = split(loaded.train, settings, seed, len(classes))
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
    normalisation = Normalisation.of(train.images)  # of the training images alone: nothing may leak from the others
    banks = {
        which: ImageBank(images, normalisation, device, padding if which == "train" else 0)
        for which, images in splits.items()
    }
    digests = {which: digest(images) for which, images in splits.items()}
    note = note_of_repeats(train, {"test": loaded.test} | ({"held-out": val} if val is not None else {}))
    return Data(info, normalisation, digests, banks["test"], banks["train"], banks.get("val"), note)


@_TOLD
def prepare_test(
    source: DataSource, name: str, normalisation: Normalisation, *, device: torch.device, progress: Progress
) -> EvaluationData:
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
    bank = ImageBank(loaded.test, normalisation, device)
    return EvaluationData(info, normalisation, {"test": digest(loaded.test)}, bank)


_RESIDENT: OrderedDict[str, Data] = OrderedDict()
_MOST_RESIDENT = 4  # data sets; the seeds of a sweep take turns, and each seed has its own split


def resident(source: DataSource, name: str, settings: SplitConfig, **how: Any) -> Data:
    """What `prepare` returns, cached for later runs of this process; runs only read it, so they can share it."""
    determines = {key: value for key, value in how.items() if key != "progress"}
    key = repr((type(source), source.identity(), name, asdict(settings), sorted(determines.items(), key=str)))
    if key not in _RESIDENT:
        while len(_RESIDENT) >= _MOST_RESIDENT:
            _RESIDENT.popitem(last=False)
        _RESIDENT[key] = prepare(source, name, settings, **how)
    _RESIDENT.move_to_end(key)
    return _RESIDENT[key]
