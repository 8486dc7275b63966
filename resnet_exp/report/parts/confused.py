"""The part on confused pairs: which classes are taken for which most often, with the images."""

from __future__ import annotations

import numpy as np

from resnet_exp.report.drawing import GREY, save
from resnet_exp.report.parts.classes import confusion_of
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, short
from resnet_exp.run_dir.files import write_csv

_PAIRS, _IMAGES = 6, 8  # rows and columns of the picture; the CSV file has all pairs


def draw_confused_pairs(subject: Subject) -> Section:
    """The part with the most frequent pairs (true class, predicted class), each with its most confident mistakes.

    Raises:
        Gap: no test image is misclassified.
    """
    confusion, names = confusion_of(subject), subject.info.class_names
    pairs, counts = confused_pairs(confusion), confusion.sum(1)
    if not pairs:
        raise Gap(f"all {confusion.sum():,} test images are classified right")
    rows = (
        (names[true], names[taken], count, int(counts[true]), round(count / counts[true], 6))
        for true, taken, count in pairs
    )
    columns = ("true", "predicted", "count", "of", "share")
    data = write_csv(subject.folder / "confused_pairs.csv", columns, rows)
    drawn = pairs[:_PAIRS]
    shown = subject.drawn_names
    sides = [_label(shown[true], shown[taken], count, int(counts[true])) for true, taken, count in drawn]
    tiles = [_tiles(subject, true, taken) for true, taken, _ in drawn]
    image = save(draw_tiles(tiles, sides=sides), subject.folder / "confused_pairs.png")
    true, taken, count = pairs[0]
    alt = f"The most confused pairs; first {names[true]} taken for {names[taken]}, {count:,} of {counts[true]:,}."
    caption = "Each row: true class → predicted class; the most confident mistakes of this pair, with their confidence."
    return Section("Most confused pairs", figures=(Figure(image, alt, caption, data, wide=True),))


def confused_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """Every (true, predicted, count) with a mistake, the most frequent first, then in the order of the classes."""
    found = [(int(t), int(p), int(confusion[t, p])) for t, p in np.argwhere(confusion) if t != p]
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _label(true: str, taken: str, count: int, of: int) -> str:
    return f"{short(true, 1.55, 9)}\n→ {short(taken, 1.55, 9)}\n{count:,} of {of:,}, {count / of:.1%}"


def _tiles(subject: Subject, true: int, taken: int) -> list[Tile]:
    """The pair's images, the most confident mistakes first."""
    predictions, wrong = subject.predictions, subject.predictions.wrong
    mine = wrong[(predictions.labels[wrong] == true) & (predictions.predicted[wrong] == taken)][:_IMAGES]
    return [
        Tile(image, ((f"{predictions.confidence[index]:.1%}  #{index}", GREY),))
        for image, index in zip(subject.test_images(mine), mine, strict=True)
    ]
