"""Test images that are the same for every run on the same data, with what this run takes them for."""

from __future__ import annotations

import numpy as np

from resnet_exp.report.drawing import BLUE, INK, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, in_rows, short
from resnet_exp.run_dir.files import write_csv

_COLUMNS = 8


def draw_examples(subject: Subject) -> Section:
    """Some test images, chosen by their labels alone, with what this run takes each for."""
    predictions = subject.predictions
    indices = example_indices(predictions.labels, subject.settings.examples)
    told = predictions.told(indices, subject.info.class_names)
    columns = ("index", "true", "predicted", "confidence")
    data = write_csv(subject.folder / "examples.csv", columns, ((*each[:3], f"{each[3]:.4f}") for each in told))
    tiles = [_tile(image, *each[1:]) for image, each in zip(subject.test_images(indices), told, strict=True)]
    image = save(draw_tiles(in_rows(tiles, min(_COLUMNS, len(tiles)))), subject.folder / "examples.png")
    right = sum(true == taken for _, true, taken, _ in told)
    alt = f"{len(told)} test images with their predictions, {right} of them right."
    caption = (
        "The same images in the same places for every run on these data: lay two runs side by side. Blue frame and ✓: "
        "right; red frame and ✗: the true class, and → what it is taken for."
    )
    return Section("The same images in every run", figures=(Figure(image, alt, caption, data, wide=True),))


def _tile(image: np.ndarray, true: str, taken: str, confidence: float) -> Tile:
    if true == taken:
        return Tile(image, ((f"✓ {true}", INK), (f"{confidence:.1%}", INK)), BLUE)
    return Tile(
        image, ((f"✗ {true}", VERMILLION), (f"→ {short(taken, 0.72)} {confidence:.0%}", VERMILLION)), VERMILLION
    )


def example_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """So many images that show all classes alike, by class, `[M], int64`: of each the first ones.

    Where there are more classes than images, evenly spaced classes have one each.
    """
    present = np.unique(labels)
    if len(present) > count:
        present = present[np.linspace(0, len(present) - 1, count).round().astype(int)]
    ranked = [
        (rank, label, index) for label in present for rank, index in enumerate(np.flatnonzero(labels == label)[:count])
    ]
    chosen = sorted(sorted(ranked)[:count], key=lambda one: one[1:])
    return np.array([index for *_, index in chosen], dtype=np.int64)
