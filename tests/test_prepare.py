"""Each data set made ready for a run: what is limited, held out and refused, on what was really loaded."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_exp.config.schema import SplitConfig
from resnet_exp.data.digits import Digits
from resnet_exp.data.image_folder import ImageFolder
from resnet_exp.data.prepare import prepare
from resnet_exp.data.split import check_fit
from resnet_exp.interfaces import ConfigError, DataSize, LabelledImages, LoadedData


class Colours:
    """A data set in memory, of the size of a CIFAR but for its images, which are one pixel large and say their class.

    Args:
        num_train: images of the training split, the classes in turn.
        num_classes: at most 256.
    """

    def __init__(self, num_train=50_000, num_classes=100):
        self.image_size, self.num_train, self.num_classes = 1, num_train, num_classes

    def identity(self):
        return f"colours-{self.num_train}-{self.num_classes}"

    def size(self):
        return DataSize(self.num_train, self.num_classes)

    def load(self, progress):
        train, test = self._images(self.num_train), self._images(2 * self.num_classes)
        return LoadedData(train, test, tuple(map(str, range(self.num_classes))))

    def _images(self, count):
        labels = np.arange(count) % self.num_classes
        return LabelledImages(np.repeat(labels, 3).reshape(-1, 1, 1, 3).astype(np.uint8), labels)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Makes a folder of images: 40 cats and 20 dogs to train on, 2 of each to test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, grey, count in (("cat", 60, 40), ("dog", 180, 20)):
        for split, images in (("train", count), ("test", 2)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(images):
                Image.new("L", (8, 8), grey).save(folder / f"{index:02}.png")
    return tmp_path / "photos"


@contextmanager
def silent(*_):
    yield lambda n=1: None


def prepared(source, validation="holdout", holdout=None, limit_train=None, batch_size=8, padding=0):
    return prepare(
        source, "mine", SplitConfig(validation, holdout, limit_train), seed=0, padding=padding, batch_size=batch_size,
        device=torch.device("cpu"), progress=silent,
    )  # fmt: skip


def per_class(bank, num_classes):
    return torch.bincount(bank.labels, minlength=num_classes).tolist()


# What comes out


def test_digits_are_ready_with_a_tenth_held_out():
    data = prepared(Digits(image_size=8), padding=2)
    info = data.info
    assert (info.name, info.class_names) == ("mine", tuple("0123456789"))
    assert (info.num_train, info.num_val, info.num_test) == (1_298, 144, 355)
    assert (info.image_size, info.in_channels, info.num_classes) == (8, 1, 10)
    assert tuple(data.train.images.shape) == (1_298, 12, 12, 1), "padded for the crops"
    assert tuple(data.val.images.shape) == (144, 8, 8, 1) and tuple(data.test.images.shape) == (355, 8, 8, 1)
    assert set(data.digests) == {"train", "val", "test"} and len(set(data.digests.values())) == 3


def test_the_statistics_are_those_of_the_images_trained_on_alone(photos):
    """Cats are 60, dogs 180; that dogs are held out in another share than cats moves the mean."""
    data = prepared(ImageFolder(str(photos), image_size=8), holdout=5)
    cats, dogs = per_class(data.train, 2)
    assert data.normalisation.mean == (pytest.approx((60 * cats + 180 * dogs) / (cats + dogs)),)
    assert cats + dogs == 55


@pytest.mark.parametrize("validation", ["none", "test"])
def test_without_held_out_images_all_are_trained_on(validation):
    data = prepared(Colours(300, 3), validation)
    assert data.val is None
    assert (data.info.num_train, data.info.num_val) == (300, 0)
    assert set(data.digests) == {"train", "test"}


# limit_train


@pytest.mark.parametrize(("num_classes", "kept", "held"), [(10, 900, 100), (100, 90, 10)])
def test_limit_train_takes_of_each_class_of_a_cifar_as_many(num_classes, kept, held):
    data = prepared(Colours(50_000, num_classes), limit_train=10_000)
    assert per_class(data.train, num_classes) == [kept] * num_classes
    assert per_class(data.val, num_classes) == [held] * num_classes


def test_limit_train_keeps_the_shares_of_the_digits():
    whole = prepared(Digits(image_size=8), "none")
    part = prepared(Digits(image_size=8), "none", limit_train=200)
    share = np.array(per_class(whole.train, 10)) * 200 / whole.info.num_train
    assert np.abs(per_class(part.train, 10) - share).max() < 1
    assert (part.info.num_train, part.info.num_test) == (200, 355), "the test set stays whole"


def test_limit_train_keeps_the_shares_of_a_folder(photos):
    data = prepared(ImageFolder(str(photos), image_size=8), "none", limit_train=30)
    assert per_class(data.train, 2) == [20, 10]
    data = prepared(ImageFolder(str(photos), image_size=8), "none", limit_train=2, batch_size=2)
    assert per_class(data.train, 2) == [1, 1], "none is left without an image"


# What cannot fit


@pytest.mark.parametrize("settings", [
    {}, {"limit_train": 100, "holdout": 30}, {"validation": "none"}, {"validation": "test", "limit_train": 77},
])  # fmt: skip
@pytest.mark.parametrize("make", [lambda: Digits(image_size=8), Colours])
def test_as_many_are_trained_on_as_was_said_before_anything_was_loaded(make, settings):
    if "limit_train" in settings and make is Colours:
        settings = settings | {"limit_train": 200}
    source, whole = make(), {"validation": "holdout", "holdout": None, "limit_train": None} | settings
    promised = check_fit(source.size(), SplitConfig(**whole), 8)
    assert prepared(source, **settings).info.num_train == promised


@pytest.mark.parametrize(("settings", "message"), [
    ({"limit_train": 61}, r"data\.limit_train=61: .* to the 60 training images"),
    ({"limit_train": 1}, r"data\.limit_train=1: a whole number from 2, one image for each class"),
    ({"holdout": 59}, r"data\.holdout=59: a whole number from 1 to 58"),
    ({"batch_size": 55}, r"train\.batch_size=55: a whole number up to the 54 images"),
    ({"holdout": 3}, r"train\.batch_size=8 leaves a last batch of one image of the 57"),
])  # fmt: skip
def test_what_cannot_fit_is_refused_before_and_after_loading_in_the_same_words(photos, settings, message):
    source = ImageFolder(str(photos), image_size=8)
    plain = {"validation": "holdout", "holdout": None, "limit_train": None, "batch_size": 8} | settings
    batch_size = plain.pop("batch_size")
    with pytest.raises(ConfigError, match=message) as before:
        check_fit(source.size(), SplitConfig(**plain), batch_size)
    with pytest.raises(ConfigError) as after:
        prepared(source, **settings)
    assert str(before.value) == str(after.value)


def test_images_that_were_left_out_count_no_more(photos):
    """60 files fit and are admitted; once three turn out to be unreadable, 57 do not."""
    for name in ("cat/00.png", "cat/01.png", "dog/00.png"):
        (photos / "train" / name).write_bytes(b"no image")
    source = ImageFolder(str(photos), image_size=8, unreadable="skip")
    settings = SplitConfig("none", None, 60)
    assert check_fit(source.size(), settings, 8) == 60
    with pytest.raises(ConfigError, match=r"data\.limit_train=60: .* to the 57 training images"):
        prepared(source, "none", limit_train=60)
    with pytest.raises(ConfigError, match=r"train\.batch_size=8 leaves a last batch of one image of the 57"):
        prepared(source, "none")
    assert prepared(source, "none", batch_size=9).info.num_train == 57
