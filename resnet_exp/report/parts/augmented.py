"""The augmentation part: training images, and the augmented views on which the network was trained."""

from __future__ import annotations

import numpy as np
import torch

from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch
from resnet_exp.report.drawing import GREY, save
from resnet_exp.report.parts.examples import example_indices
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.report.tiles import Tile, draw_tiles, short
from resnet_exp.run_dir.files import write_csv

_EPOCHS = 7  # columns at most, so that the picture fits a page


def draw_augmentation(subject: Subject) -> Section:
    """The part with one row for each image: as stored, then as the network saw it in the first epochs.

    Raises:
        Gap: the augmentation changes no image.
    """
    assert subject.train is not None and subject.augmentation is not None
    bank, names = subject.train, subject.info.class_names
    labels = bank.labels.cpu().numpy()
    chosen = example_indices(labels, subject.settings.augmentation)
    indices = torch.from_numpy(chosen).to(bank.store)
    epochs = range(1, min(subject.result["epochs"], _EPOCHS) + 1)
    stored = bank.pixels(indices)
    # Order and views are functions of (seed, epoch, image), so the views of the training can be computed again.
    batches = [bank.batch(indices, subject.augmentation, subject.seed, randomness.VIEW, epoch) for epoch in epochs]
    views = [bank.denormalised(batch.images) for batch in batches]
    if all((view == stored).all() for view in views):
        raise Gap("the augmentation changes nothing: in every epoch the network sees the images as they are stored")
    records, rows = [], []
    for row, index in enumerate(chosen):
        mixed = [_mixed(batch, row) for batch in batches]
        records += [
            (int(index), names[labels[index]], epoch, *_named(mix, names))
            for epoch, mix in zip(epochs, mixed, strict=True)
        ]
        rows.append(
            [
                Tile(stored[row]),
                *(_tile(view[row], mix, subject.drawn_names) for view, mix in zip(views, mixed, strict=True)),
            ]
        )
    columns = ("index", "class", "epoch", "mixed_with", "share")
    data = write_csv(subject.folder / "augmentation.csv", columns, records)
    canvas = draw_tiles(
        rows,
        heads=["as stored", *(f"epoch {epoch}" for epoch in epochs)],
        sides=[f"{short(subject.drawn_names[labels[index]], 1.3, 9)}\n#{index}" for index in chosen],
        side_inches=1.5,
    )
    image = save(canvas, subject.folder / "augmentation.png")
    alt = f"{len(rows)} training images as they are stored, and as the network saw each in {len(epochs)} epochs."
    caption = "These are the views used in training, not new samples: they are a function of seed, epoch and image."
    return Section("Augmentation", figures=(Figure(image, alt, caption, data, wide=True),))


def _mixed(batch: Batch, row: int) -> tuple[int, float] | None:
    """The class that was mixed into an image, and the image's own share, 0..1; None if nothing was mixed in."""
    if batch.mixed is None or float(batch.mixed.share[row]) == 1.0:
        return None
    return int(batch.mixed.labels[row]), float(batch.mixed.share[row])


def _named(mix: tuple[int, float] | None, names: tuple[str, ...]) -> tuple[str, str]:
    return ("", "") if mix is None else (names[mix[0]], f"{mix[1]:.4f}")


def _tile(image: np.ndarray, mix: tuple[int, float] | None, names: tuple[str, ...]) -> Tile:
    if mix is None:
        return Tile(image)
    return Tile(image, ((f"{1 - mix[1]:.0%} {short(names[mix[0]], 0.8)}", GREY),))
