"""Splits the training images into those trained on and those held out, and refuses settings that do not fit them."""

from __future__ import annotations

import hashlib

import numpy as np

from resnet_exp.config.ranges import shown
from resnet_exp.config.schema import SplitConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError, DataSize, LabelledImages

# Held out where the config does not say: 5,000 of 50,000 images or more, else a tenth.
HOLDOUT, HOLDOUT_SHARE = 5_000, 0.1
_SMALL = 50_000
_OTHERWISE = "take data.validation=none, or test"


def check_fit(size: DataSize, settings: SplitConfig, batch_size: int) -> int:
    """The number of images that will be trained on, if the settings fit a data set of this size.

    Few held-out images are allowed: if some classes have none among them, the choice of the best epoch is only coarser.

    Raises:
        ConfigError: more images are used, held out or put into a batch than there are; a class would have none to
            train on; or a batch would be of one image.
    """
    used, held = count_split(size, settings)
    trained = used - held
    if batch_size > trained:
        raise ConfigError(
            f"train.batch_size={batch_size}: a whole number up to the {trained:,} images trained on is needed"
        )
    if 1 in (batch_size, trained % batch_size):
        raise ConfigError(_batch_of_one(batch_size, trained))
    return trained


def count_split(size: DataSize, settings: SplitConfig) -> tuple[int, int]:
    """The number of training images that are used, and how many of these are held out.

    Raises:
        ConfigError: more than there are, or so many that not every class keeps an image to train on.
    """
    used, classes = settings.limit_train or size.num_train, size.num_classes
    if not classes <= used <= size.num_train:
        raise ConfigError(
            f"data.limit_train={used}: a whole number from {classes:,}, one image for each class, to the "
            f"{size.num_train:,} training images is needed; or null for all"
        )
    if VALIDATION[settings.validation].split != "val":
        return used, 0
    held = settings.holdout or _default_holdout(used, classes)
    if held > used - classes:
        raise ConfigError(_too_many_held_out(settings, held, used, classes))
    return used, held


def split(
    train: LabelledImages, settings: SplitConfig, seed: int, num_classes: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """The images to train on, and the held-out ones (None unless validation is `holdout`), stratified by class.

    Every class keeps an image to train on.

    Raises:
        ConfigError: `count_split` refuses the settings.
    """
    used, held = count_split(DataSize(len(train), num_classes), settings)
    if used < len(train):
        # `_shares` never takes a class's last image, so it counts what is left out: a rare class then keeps one. In
        # reverse order, so that a rounding favours the first classes in what is used.
        sizes = np.bincount(train.labels, minlength=num_classes)
        per_class = sizes - _shares(sizes[::-1], len(train) - used)[::-1]
        train = _take(train, _draw(train.labels, per_class, seed, "limit"))
    if not held:
        return train, None
    sizes = np.bincount(train.labels, minlength=num_classes)
    out = _draw(train.labels, _shares(sizes, held), seed, "holdout")
    return _take(train, ~out), _take(train, out)


def digest(images: LabelledImages) -> str:
    """Sixteen hex digits of the split's bytes."""
    hashed = hashlib.sha256()
    for array in (images.images, images.labels):
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]


def _default_holdout(used: int, classes: int) -> int:
    return HOLDOUT if used >= _SMALL else max(classes, round(used * HOLDOUT_SHARE))


def _too_many_held_out(settings: SplitConfig, held: int, used: int, classes: int) -> str:
    setting = f"data.holdout={shown(settings.holdout)}"
    images = f"{used:,} training images" + (" (data.limit_train)" if settings.limit_train else "")
    if used == classes:
        return f"{setting}: none of the {images} can be held out, one for each class is trained on; {_OTHERWISE}"
    meant = f", here {held:,}" if settings.holdout is None else ""
    return (
        f"{setting}{meant}: a whole number from 1 to {used - classes:,} is needed, so that of the {images} one of each "
        f"class is trained on; or {_OTHERWISE}"
    )


def _batch_of_one(batch_size: int, trained: int) -> str:
    fault = "makes batches of one image" if batch_size == 1 else f"leaves a last batch of one image of the {trained:,}"
    # Every batch size that leaves no last batch of one; the two nearest are suggested.
    fitting = (number for number in range(2, trained + 1) if trained % number != 1)
    nearest = sorted(sorted(fitting, key=lambda number: abs(number - batch_size))[:2])
    take = " or ".join(map(str, nearest))
    return f"train.batch_size={batch_size} {fault}: batch normalisation needs two; take {take}"


def part_of_one(trained: int, batch_size: int, parts: int) -> str | None:
    """Why a part of some batch has one image, with a number of parts that leaves none; None if no part has.

    Args:
        trained: images that are trained on.
        batch_size: the last batch may be smaller.
        parts: that each batch is cut into (`train.grad_accum_steps`).
    """
    sizes = [size for size in (batch_size, trained % batch_size) if size]
    alone = [size for size in sizes if _smallest_part(size, parts) == 1]
    if parts == 1 or not alone:
        return None
    whole = [n for n in range(parts, 0, -1) if -(-batch_size // -(-batch_size // n)) == n]  # others give fewer parts
    fitting = next(n for n in whole if all(_smallest_part(size, n) > 1 for size in sizes))
    return (
        f"train.grad_accum_steps={parts} leaves a part of one image of a batch of {alone[0]}: batch normalisation "
        f"needs two; take train.grad_accum_steps={fitting}"
    )


def _smallest_part(images: int, parts: int) -> int:
    """The images of the last part, which torch's `chunk` makes the smallest."""
    largest = -(-images // parts)
    return images % largest or largest


def _take(split: LabelledImages, which: np.ndarray) -> LabelledImages:
    return LabelledImages(split.images[which], split.labels[which])


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many of `count` images each class gives, `[C]`: in proportion to its `sizes` images, to within one image.

    No class gives its last image; where its share would take that, others give more.
    """
    assert count <= np.maximum(sizes - 1, 0).sum(), "every class can keep an image"
    # The method of largest remainders: whole shares first, then one image each where rounding down took most.
    share, remainder = np.divmod(sizes * count, sizes.sum())
    order = np.argsort(-remainder, kind="stable")  # of equal remainders the first classes, on every machine
    while left := count - share.sum():
        share[order[share[order] < sizes[order] - 1][:left]] += 1
    return share


def _draw(labels: np.ndarray, share: np.ndarray, seed: int, salt: str) -> np.ndarray:
    """A mask `[N], bool` that is true for `share[label]` random images of each class."""
    # One random order of all images; of each class its first ones are taken.
    rank = np.argsort(_noise(len(labels), seed, salt), kind="stable")
    mask = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(share):
        mask[rank[labels[rank] == label][:count]] = True
    return mask


def _noise(count: int, seed: int, salt: str) -> np.ndarray:
    """Numbers `[count], float64`, 0..1, that depend on seed and salt alone."""
    # Python's hash() of a text differs from process to process.
    key = int.from_bytes(hashlib.sha256(f"{salt}{seed}".encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=key)).random(count)
