"""The pairs of classes that are most often confused, with the images."""

from __future__ import annotations

import numpy as np

from resnet_exp.files import write_csv
from resnet_exp.report.classes import confusion_of
from resnet_exp.report.drawing import GREY, save
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, short

_PAIRS, _IMAGES = 6, 8


def draw_confused_pairs(subject: Subject) -> Section:
    """The pairs (true class, predicted class) of most mistakes, and the most confident of these.

    Raises:
        Gap: there is no mistake.
    """
    pairs = confused_pairs(confusion_of(subject))
    if not pairs:
        raise Gap(f"all {len(subject.predictions.labels):,} test images are classified right")
    names, counts = (
        subject.info.class_names,
        np.bincount(subject.predictions.labels, minlength=subject.info.num_classes),
    )
    rows = (
        (names[true], names[taken], count, int(counts[true]), round(count / counts[true], 6))
        for true, taken, count in pairs
    )
    columns = ("true", "predicted", "count", "of", "share")
    data = write_csv(subject.folder / "confused_pairs.csv", columns, rows)
    drawn = [(true, taken, _of_pair(subject, true, taken), count) for true, taken, count in pairs[:_PAIRS]]
    sides = [_told(names[true], names[taken], count, int(counts[true])) for true, taken, _, count in drawn]
    widest = max(len(indices) for *_, indices, _ in drawn)
    empty = Tile(np.full((subject.info.image_size,) * 2 + (1,), 255, np.uint8))
    tiles = [
        [*(_tile(subject, index) for index in indices), *[empty] * (widest - len(indices))] for *_, indices, _ in drawn
    ]
    image = save(draw_tiles(tiles, sides=sides), subject.folder / "confused_pairs.png")
    true, taken, count = pairs[0]
    alt = f"The most confused pairs; first {names[true]} taken for {names[taken]}, {count:,} of {counts[true]:,}."
    caption = "A row is a true class and what it was taken for; its most confident mistakes, each with its confidence."
    return Section("Most confused pairs", figures=(Figure(image, alt, caption, data, wide=True),))


def confused_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """Every (true, predicted, count) with a mistake, the most frequent first, then in the order of the classes."""
    found = [(int(t), int(p), int(confusion[t, p])) for t, p in np.argwhere(confusion) if t != p]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _told(true: str, taken: str, count: int, of: int) -> str:
    return f"{short(true, 1.55, 9)}\n→ {short(taken, 1.55, 9)}\n{count:,} of {of:,}, {count / of:.1%}"


def _of_pair(subject: Subject, true: int, taken: int) -> list[int]:
    """The pair's images, the most confident mistakes first."""
    predictions = subject.predictions
    wrong = predictions.wrong
    mine = wrong[(predictions.labels[wrong] == true) & (predictions.predicted[wrong] == taken)]
    return mine[:_IMAGES].tolist()


def _tile(subject: Subject, index: int) -> Tile:
    confidence = subject.predictions.confidence[index]
    return Tile(subject.test_images([index])[0], ((f"{confidence:.1%}  #{index}", GREY),))
