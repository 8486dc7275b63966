"""The part with example images: the same test images in every run on the same data, with this run's predictions."""

from __future__ import annotations

import numpy as np

from resnet_exp.report.drawing import BLUE, INK, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, in_rows, short
from resnet_exp.run_dir.files import write_csv

_COLUMNS = 8


def draw_examples(subject: Subject) -> Section:
    """The part with some test images, chosen by their labels alone, and this run's prediction for each."""
    predictions = subject.predictions
    indices = example_indices(predictions.labels, subject.settings.examples)
    predicted = predictions.details(indices, subject.info.class_names)
    columns = ("index", "true", "predicted", "confidence")
    data = write_csv(subject.folder / "examples.csv", columns, ((*each[:3], f"{each[3]:.4f}") for each in predicted))
    drawn = predictions.details(indices, subject.drawn_names)
    tiles = [_tile(image, *each[1:]) for image, each in zip(subject.test_images(indices), drawn, strict=True)]
    image = save(draw_tiles(in_rows(tiles, min(_COLUMNS, len(tiles)))), subject.folder / "examples.png")
    right = sum(true == taken for _, true, taken, _ in predicted)
    alt = f"{len(predicted)} test images with their predictions, {right} of them right."
    caption = (
        "Every run on these data shows the same images in the same places, so that two runs can be compared. Blue "
        "frame and ✓: right. Red frame: ✗ true class, → predicted class."
    )
    return Section("The same images in every run", figures=(Figure(image, alt, caption, data, wide=True),))


def _tile(image: np.ndarray, true: str, taken: str, confidence: float) -> Tile:
    if true == taken:
        return Tile(image, ((f"✓ {true}", INK), (f"{confidence:.1%}", INK)), BLUE)
    return Tile(
        image, ((f"✗ {true}", VERMILLION), (f"→ {short(taken, 0.72)} {confidence:.0%}", VERMILLION)), VERMILLION
    )


def example_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` images, `[M], int64`, sorted by class: the first ones of each class, equally many of all.

    If there are more classes than `count`, evenly spaced classes have one image each.
    """
    present = np.unique(labels)
    if len(present) > count:
        present = present[np.linspace(0, len(present) - 1, count).round().astype(int)]
    ranked = [
        (rank, label, index) for label in present for rank, index in enumerate(np.flatnonzero(labels == label)[:count])
    ]
    # Sorted by rank first: the first image of every class, then the second of every class, and so on.
    chosen = sorted(sorted(ranked)[:count], key=lambda one: one[1:])
    return np.array([index for *_, index in chosen], dtype=np.int64)
