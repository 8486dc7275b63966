"""The training images, divided into those trained on and those held out."""

from __future__ import annotations

import hashlib

import numpy as np

from resnet_exp.interfaces import ConfigError, LabelledImages

# What is held out where the config does not say.
HOLDOUT, HOLDOUT_SHARE = 5_000, 0.1
_SMALL = 50_000


def split(
    train: LabelledImages, validation: str, holdout: int | None, limit: int | None, seed: int, num_classes: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """The images to train on, and the held-out ones (None unless validation is `holdout`), stratified by class.

    Raises:
        ConfigError: more images asked for than there are.
    """
    if limit is not None:
        if limit > len(train):
            raise ConfigError(
                f"data.limit_train={limit}: a whole number up to the {len(train)} training images is needed"
            )
        train = _take(train, _stratified(train.labels, limit, seed, num_classes, "limit"))
    if validation != "holdout":
        return train, None
    if holdout is None:
        holdout = HOLDOUT if len(train) >= _SMALL else max(num_classes, round(len(train) * HOLDOUT_SHARE))
    if holdout >= len(train):
        raise ConfigError(f"data.holdout={holdout}: fewer than the {len(train)} training images are needed")
    held = _stratified(train.labels, holdout, seed, num_classes, "holdout")
    return _take(train, ~held), _take(train, held)


def digest(images: LabelledImages) -> str:
    """Sixteen hex digits of the split's bytes."""
    hashed = hashlib.sha256()
    for array in (images.images, images.labels):
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]


def _take(split: LabelledImages, which: np.ndarray) -> LabelledImages:
    return LabelledImages(split.images[which], split.labels[which])


def _stratified(labels: np.ndarray, count: int, seed: int, num_classes: int, salt: str) -> np.ndarray:
    """A mask of `count` images: of each class its share, to within one image."""
    rank = np.argsort(_noise(len(labels), seed, salt), kind="stable")
    # The largest remainders: whole shares first, and what is left one by one to where the rounding took most.
    share, remainder = np.divmod(np.bincount(labels, minlength=num_classes) * count, len(labels))
    share[np.argsort(-remainder, kind="stable")[: count - share.sum()]] += 1
    mask = np.zeros(len(labels), dtype=bool)
    for label in range(num_classes):
        mask[rank[labels[rank] == label][: share[label]]] = True
    return mask


def _noise(count: int, seed: int, salt: str) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{salt}{seed}".encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=key)).random(count)
