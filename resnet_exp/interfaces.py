"""What the parts of a run hand one another: plain data, and the protocols that plug-ins fulfil.

Nothing here imports torch: a config can be checked against these in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn
    from torch.optim import Optimizer

# What runs are compared by, side by side: figures and tables of the report, by name.
COMPARED_IMAGES = ("examples", "gradcam", "misclassified", "class_accuracy", "confusion_matrix")
COMPARED_TABLES = ("class_accuracy", "examples")


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key, the value, what is allowed and what to do."""


class RunError(RuntimeError):
    """A run that cannot go on for a reason its user can act on; the message says which."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a model and a report need to know of the data, so that neither holds a literal 10 or 32."""

    name: str
    class_names: tuple[str, ...]
    image_size: int  # pixels, of the square that the network sees
    in_channels: int
    num_train: int  # images that are trained on: the training split less what is held out
    num_val: int
    num_test: int

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class LabelledImages:
    """One split in host memory: images `[N, H, W, C], uint8, 0..255`, labels `[N], int64`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LoadedData:
    """A decoded data set: its training and its test split, and the classes' names in label order."""

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]


class Advance(Protocol):
    """Moves a progress display on by `n` units."""

    def __call__(self, n: int = 1) -> None: ...


class Progress(Protocol):
    """Opens a progress display with an ETA for `total` units of work, of which `done` were done before."""

    def __call__(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Advance]: ...


@dataclass(frozen=True)
class DataSize:
    """How much a data set holds, known before an image is decoded."""

    num_train: int  # images of the training split, before any is held out
    num_classes: int


class DataSource(Protocol):
    """A data set by name (`conf/data/*.yaml`); made from plain arguments, and checked when it is made."""

    image_size: int  # pixels of a side, as the network sees them

    def identity(self) -> str:
        """A short text that changes when the images or labels do, found without decoding them.

        It enters the run's signature. It holds no path: a copy of a folder has the same identity.
        """
        ...

    def size(self) -> DataSize:
        """What it holds, found without decoding it: settings that do not fit are refused before a run is begun."""
        ...

    def load(self, progress: Progress) -> LoadedData:
        """Both splits, decoded, at the size the network sees."""
        ...


@dataclass(frozen=True)
class Sampling:
    """Where each pixel of a batch is read from: the one index operation that crops, flips and erases.

    rows `[B, H], int64` and cols `[B, W], int64` point into the padded images; erase `[B, H, W], bool` marks
    pixels that become the data set's mean (zero after normalisation); mix is what is then mixed in. All on the
    device of the images.
    """

    rows: Tensor
    cols: Tensor
    erase: Tensor | None = None
    mix: Mix | None = None


@dataclass(frozen=True)
class Mix:
    """A second training image for each of a batch, in a view of its own, and how much of the first is kept.

    keys `[B], int64`, 0 or more: the second is training image `key % N`, so that it depends on its key alone; view has
    no mix itself; share of the first at each pixel `[B, H, W], float32`, 0..1, or `[B, 1, 1]` where it is the same at
    all. The labels share as the pixels do on average.
    """

    keys: Tensor
    view: Sampling
    share: Tensor


class Augmentation(Protocol):
    """A random view per image (`conf/augmentation/*.yaml`), drawn for a whole batch on the device."""

    padding: int  # pixels of black on each side of every stored image

    def sample(self, keys: Tensor, image_size: int) -> Sampling:
        """The views of the images whose random keys (`[B], int64`) these are; equal keys give equal views."""
        ...


class OptimizerFactory(Protocol):
    """Makes an optimizer for a model; the schedule sets its learning rate before every step."""

    def __call__(self, model: nn.Module) -> Optimizer: ...


@dataclass(frozen=True)
class Schedule:
    """The learning rate, and the momentum where it is cycled, of every optimizer step of a run."""

    lrs: tuple[float, ...]
    momenta: tuple[float, ...] | None
    max_lr: float
    min_lr: float


class Scheduler(Protocol):
    """A learning-rate schedule (`conf/scheduler/*.yaml`): a pure function of the step."""

    max_lr: float | None  # None: to be found by the range test
    find_factor: float | None  # a found max_lr is this many times the suggested LR; None: not given, as follows
    measured_factor: float  # taken by SGD on networks with batch normalisation; others take the suggestion itself

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where the schedule does not fit into the run; the steps are given once they are known."""
        ...

    def first_lr(self, max_lr: float) -> float:
        """The LR of the first step."""
        ...

    def comparable_after(self, epochs: int) -> int:
        """The epoch after which runs of this schedule may be compared with others; 0: after every epoch.

        Sweeps ask it before they stop poor runs early. It is the epoch in which the LR begins its last way down: a high
        LR hides how good a run is, and one whose LR is still high would look worse than one that is already falling.
        """
        ...

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The schedule over all steps of the run."""
        ...


@dataclass(frozen=True)
class Metric:
    """A number that is measured of a network's logits, declared once for everywhere it shows.

    A set of images gives it its key, `<name>/<images>`, such as `accuracy/val`: in the journal, the tracker and
    result.json.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor | float]  # of logits [N, C], float32, and labels [N], int64
    title: str  # in figures and on pages
    unit: Literal["fraction", "nats", "number"]  # a fraction, 0..1, is shown as percent
    higher_is_better: bool
    column: str = ""  # its header in the table on the terminal; empty: it is not shown there
    each_epoch: bool = True  # measured after each epoch, and drawn over them; else of the test images at the end
    least_classes: int = 2  # it is measured where there are as many classes

    def shown(self, value: float) -> str:
        """The value as people read it: `93.65%`, `0.231`."""
        return f"{value:.2%}" if self.unit == "fraction" else f"{value:.3f}"


class Mirror:
    """One run in a tracker, replayed from its journal. The journal is the truth: losing a mirror loses nothing.

    This one shows nothing; a tracker's own overrides what it needs. What its methods raise is reported, and the run
    goes on.
    """

    def begin(self) -> None:
        """Starts mirroring; returns soon, since training waits for it."""

    def wait_until_started(self, seconds: float) -> None:
        """Waits, so long at most, until other runs can refer to this one."""

    def sync(self) -> None:
        """Takes note that the journal has grown; returns at once, since training waits for it."""

    def end(self) -> Sequence[str]:
        """Mirrors what is left, within a bounded time, and returns how to look at it, in lines for the terminal.

        The journal's last status says how the run ended. What a mirror could not finish the same command completes:
        it begins and ends a mirror of the finished run once more.
        """
        return ()

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        """Writes the network into the run directory in the tracker's own form; the path, or None where it has none.

        Args:
            model: maps normalised images `[N, *input_shape], float32` to logits; it is left as it is.
            input_shape: channels, rows and columns of an image.
        """
        return None


class Tracker(Protocol):
    """Where people compare runs (`conf/tracker/*.yaml`); made from plain arguments, and checked when it is made."""

    def open(self, run_dir: Path, label: str) -> Mirror:
        """The mirror of a run.

        Args:
            run_dir: holds the run's journal, `journal.jsonl`, and the files that the journal names.
            label: how a job of a sweep differs from the others; empty for a run by itself.
        """
        ...
