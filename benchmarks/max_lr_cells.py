"""The cells of `max_lr.py`: settings that people train in, each with its grid of max_lr.

Those with `chooses` decide which rule becomes the default; the others confirm it, and nobody looks at them before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

_EXAMPLES, _NETWORKS = "plugins=examples/plugins", "plugins=benchmarks/networks"


def _data(data: str, holdout: int, batch: int, epochs: int, peak: int | None, *more: str) -> tuple[str, ...]:
    """The settings of images and schedule; a schedule without a peak epoch has None."""
    schedule = () if peak is None else (f"scheduler.peak_epoch={peak}",)
    of_data = {
        "digits": ("data=digits", "augmentation=crop", f"data.holdout={holdout}"),
        "letters": ("data=image_folder", "data.root={images}/letters", "augmentation=crop", f"data.holdout={holdout}"),
        "tiny": ("data=image_folder", "data.root={images}/tiny", "data.validation=test"),
        "cifar": ("data=image_folder", "data.root={cifar}", f"data.holdout={holdout}"),
    }[data]
    return (*of_data, f"train.batch_size={batch}", f"train.epochs={epochs}", *schedule, *more)


def _part(batch: int = 128, peak: int | None = 2, epochs: int = 6) -> tuple[str, ...]:
    """10,000 images of CIFAR-10 (JPEG)."""
    return _data("cifar", 5000, batch, epochs, peak, "data.limit_train=15000")


_DIGITS, _TINY = _data("digits", 400, 64, 10, 3), _data("tiny", 0, 64, 60, 12)
_LARGE = _data("cifar", 5000, 512, 8, 2, "data.limit_train=25000")
_LETTERS = _data("letters", 1500, 64, 8, 3)
_LONG = _data("cifar", 5000, 512, 24, 5, "data.limit_train=20000")


@dataclass(frozen=True)
class Cell:
    """One setting; the settings have the folders of images as `{cifar}` and `{images}`."""

    name: str
    settings: tuple[str, ...]
    lowest: float  # of the grid
    points: int  # each twice the one before
    num_classes: int = 10
    chooses: bool = True

    measured = ("accuracy/val", "accuracy/test_each_epoch")  # the second one where data.validation=test

    @property
    def max_lrs(self) -> list[float]:
        """The grid: all cells have their points on one lattice, 0.0375 times powers of two."""
        return [float(f"{self.lowest * 2**power:.3g}") for power in range(self.points)]


def _grid(power: int) -> float:
    return 0.0375 * 2.0**power


_confirms = partial(Cell, chooses=False)
_ALL = (
    # The fast ones first: what is wrong with the bench shows soon.
    Cell("tiny", (*_TINY, "model.width=8"), _grid(-4), 9, 256),
    Cell("digits", (*_DIGITS, "model.width=8"), _grid(-4), 8),
    Cell(
        "digits_lenet_adamw",
        (*_DIGITS, _EXAMPLES, "model=lenet", "optimizer=adamw"),
        _grid(-7),
        10,
    ),
    Cell("lenet", (*_part(), _EXAMPLES, "model=lenet"), _grid(-4), 7),
    Cell("w8_b128", (*_part(), "model.width=8"), _grid(-2), 7),
    Cell("w8_b128_24_epochs", (*_part(peak=5, epochs=24), "model.width=8"), _grid(-2), 7),
    Cell("lenet_24_epochs", (*_part(peak=5, epochs=24), _EXAMPLES, "model=lenet"), _grid(-3), 6),
    Cell("w8_b128_adamw", (*_part(), "model.width=8", "optimizer=adamw"), _grid(-7), 8),
    Cell(
        "w8_b128_cosine",
        (*_part(peak=None), "model.width=8", "scheduler=cosine"),
        _grid(-2),
        7,
    ),
    Cell("group_norm", (*_part(), _NETWORKS, "model=group_norm"), _grid(-3), 7),
    Cell("resnet18_w8", (*_part(), "model=resnet18", "model.width=8"), _grid(-2), 7),
    Cell("w16_b128", (*_part(), "model.width=16"), _grid(-2), 7),
    Cell("w8_b512", (*_LARGE, "model.width=8"), _grid(-1), 7),
    Cell("w16_b512", (*_LARGE, "model.width=16"), _grid(-2), 7),
    Cell("w32_b128", (*_part(), "model.width=32"), _grid(-3), 7),
    _confirms("letters", (*_LETTERS, "model.width=12"), _grid(-3), 8, 36),
    _confirms(
        "letters_lenet_adam",
        (*_LETTERS, _EXAMPLES, "model=lenet", "optimizer=adam"),
        _grid(-7),
        8,
        36,
    ),
    _confirms("w12_b128_adam", (*_part(), "model.width=12", "optimizer=adam"), _grid(-7), 8),
    _confirms("w8_b256_rmsprop", (*_part(256), "model.width=8", "optimizer=rmsprop"), _grid(-9), 9),
    _confirms("w24_b256", (*_part(256), "model.width=24"), _grid(-2), 7),
    _confirms(
        "w16_b512_24_epochs",
        (*_LONG, "model.width=16"),
        _grid(-1),
        6,
    ),
)
CELLS = {cell.name: cell for cell in _ALL}
