"""`note_of_repeats`: whether images that accuracies are measured on are trained on too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from resnet_exp.interfaces import LabelledImages


def note_of_repeats(train: LabelledImages, measured: Mapping[str, LabelledImages]) -> str | None:
    """A sentence on images that are trained on and measured too, with equal pixels; None where there are none.

    Args:
        train: the images trained on.
        measured: the others, by what they are called.
    """
    trained = set(_hashes(train.images))
    counts = {name: sum(one in trained for one in _hashes(split.images)) for name, split in measured.items()}
    found = [f"{count:,} of {len(measured[name]):,} {name} images" for name, count in counts.items() if count]
    return f"{' and '.join(found)} are trained on too, so that their accuracy is too good" if found else None


def _hashes(images: np.ndarray) -> Iterator[int]:
    """Yields a number of 64 bits for each image, equal for equal pixels."""
    return (hash(image.tobytes()) for image in images)
