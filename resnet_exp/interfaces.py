"""The data that the folders pass to one another, and the protocol of each kind of plug-in.

Nothing here imports torch, which takes seconds: a wrong setting is refused before that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn
    from torch.optim import Optimizer

# The signals that ask a process to end; each of them is caught, what was done is saved, and the process ends. Batch
# systems send the last three before they kill.
STOP_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
# The figures and tables of the report that a tracker can show for several runs side by side, by name.
COMPARED_IMAGES = ("examples", "gradcam", "misclassified", "class_accuracy", "confusion_matrix")
COMPARED_TABLES = ("class_accuracy", "examples")


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key, the value, what is allowed and what to do."""


class RunError(RuntimeError):
    """A run that cannot go on; the message gives the reason, on which the user can act."""


class Interrupted(KeyboardInterrupt):
    """A signal has asked the process to end: Ctrl-C, a batch system, a terminal that was closed."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.signal = number

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that models and reports need, so that neither hard-codes 10 classes or 32 pixels."""

    name: str
    class_names: tuple[str, ...]
    image_size: int  # pixels: the side of the square image that the network gets
    in_channels: int
    num_train: int  # images trained on: the training split without the held-out images
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
    """A decoded data set: its training and test splits, and the names of the classes in label order."""

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]


class Advance(Protocol):
    """Advances a progress display by `n` units."""

    def __call__(self, n: int = 1) -> None: ...


class Progress(Protocol):
    """Opens a progress display with an ETA for `total` units of work, of which `done` are done already."""

    def __call__(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Advance]: ...


@dataclass(frozen=True)
class DataSize:
    """The size of a data set, known before any image is decoded."""

    num_train: int  # images of the training split, held-out images included
    num_classes: int


class DataSource(Protocol):
    """A data set (`conf/data/*.yaml`); its constructor takes plain arguments and checks them."""

    image_size: int  # pixels: the side of the square image that the network gets

    def identity(self) -> str:
        """A short text that changes when the images or labels do, found without decoding them.

        It is part of the run's signature. It contains no path: a copy of a folder has the same identity. It is asked
        for often, by a sweep for each job: what takes long belongs in `ReadsContent.read_content`.
        """
        ...

    def size(self) -> DataSize:
        """The numbers of images and classes, without decoding: settings that do not fit are refused before a run."""
        ...

    def load(self, progress: Progress) -> LoadedData:
        """Both splits, decoded, at the size that the network gets."""
        ...


@runtime_checkable
class ReadsContent(Protocol):
    """What a `DataSource` may have besides: files to read before it knows its identity."""

    def read_content(self, progress: Progress, *, verify: bool = False) -> None:
        """Reads what `identity()` is made of, with a progress display.

        Args:
            progress: opened where reading takes long.
            verify: nothing that is remembered of the files is trusted: a stored result is about to be used.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """The source of each pixel of a batch: one index operation with it crops, flips and erases.

    rows `[B, H], int64` and cols `[B, W], int64` point into the padded images; erase `[B, H, W], bool` marks
    pixels that become the data set's mean (zero after normalisation); mix holds the images to mix in afterwards. All
    are on the device of the images.
    """

    rows: Tensor
    cols: Tensor
    erase: Tensor | None = None
    mix: Mix | None = None


@dataclass(frozen=True)
class Mix:
    """The second training images that are mixed into a batch, and each first image's share of the result.

    keys `[B], int64`, 0 or more: the second image is training image `key % N`, so that it depends on its key alone.
    view is that of the second images, and has no mix itself. share of the first image `[B, H, W], float32`, 0..1, for
    each pixel, or `[B, 1, 1]` where all pixels have the same. The labels are mixed by the mean share of the pixels.
    """

    keys: Tensor
    view: Sampling
    share: Tensor


class Augmentation(Protocol):
    """Random views of images (`conf/augmentation/*.yaml`), for a whole batch at once, on the device."""

    padding: int  # black pixels added on each side of every stored image

    def sample(self, keys: Tensor, image_size: int) -> Sampling:
        """The view of each image, from its random key; keys are `[B], int64`, and equal keys give equal views."""
        ...


class OptimizerFactory(Protocol):
    """Makes the optimizer of a model; its learning rate is set from the schedule before every step."""

    def __call__(self, model: nn.Module) -> Optimizer: ...


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every optimizer step of a run, and its momentum where that is cycled."""

    lrs: tuple[float, ...]
    momenta: tuple[float, ...] | None
    max_lr: float
    min_lr: float


class Scheduler(Protocol):
    """A learning-rate schedule (`conf/scheduler/*.yaml`): a pure function of the step."""

    max_lr: float | None  # None: from the range test
    find_factor: float | None  # max_lr is this many times the suggested LR; None: `measured_factor` times, or 1
    measured_factor: float  # for SGD on networks with batch normalisation; for all others the factor is 1

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where the schedule does not fit the run; the steps are passed once they are known."""
        ...

    def first_lr(self, max_lr: float) -> float:
        """The LR of the first step."""
        ...

    def comparable_after(self, epochs: int) -> int:
        """The epoch after which runs of this schedule may be compared with others; 0: after every epoch.

        Sweeps that stop poor runs early wait for it. It is the epoch in which the LR starts its final descent: a high
        LR hides how good a run is, and a run whose LR is still high would look worse than one whose LR falls already.
        """
        ...

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The schedule over all steps of the run."""
        ...


@dataclass(frozen=True)
class Metric:
    """A number computed from logits and labels; declared once, it is shown everywhere that metrics are shown.

    It is recorded as `<name>/<images>`, such as `accuracy/val`, in the journal, the tracker and result.json's history.
    """

    name: str
    measure: Callable[[Tensor, Tensor], Tensor | float]  # of logits [N, C], float32, and labels [N], int64
    title: str  # in figures and on pages
    unit: Literal["fraction", "nats", "number"]  # a fraction, 0..1, is shown as percent
    higher_is_better: bool
    column: str = ""  # its header in the table on the terminal; empty: it has no column there
    each_epoch: bool = True  # measured after each epoch too, and drawn as a curve; else at the end alone
    least_classes: int = 2  # it is not measured where there are fewer classes

    def shown(self, value: float | None) -> str:
        """The value as people read it: `93.65%`, `0.231`."""
        if value is None or value != value:  # JSON has null for NaN
            return "nan"
        return {"fraction": f"{value:.2%}", "nats": f"{value:.3f}"}.get(self.unit, f"{value:.4g}")


class Mirror:
    """One run in a tracker, copied from the run's journal, which has everything: losing a mirror loses nothing.

    This class does nothing; a tracker's subclass overrides what it needs. What its methods raise is printed as a
    warning, and the run goes on.
    """

    def begin(self) -> None:
        """Starts mirroring; returns soon, since training waits for it."""

    def wait_until_started(self, seconds: float) -> None:
        """Waits, for `seconds` at most, until other runs can refer to this one."""

    def sync(self) -> None:
        """Is called when the journal has grown; returns at once, since training waits for it."""

    def end(self) -> Sequence[str]:
        """Mirrors what is left; returns lines for the terminal that say how to look at the run.

        The journal's last status says how the run ended. If a mirror could not finish, the same command completes it:
        for a finished run it calls `begin` and `end` of a new mirror. It is given up after 5 s without `progress` or
        `work`.
        """
        return ()

    def progress(self) -> object:
        """What is another value whenever `end` has got on: a slow `end` is waited for as long as it gets on."""
        return None

    def work(self) -> object:
        """What is another value whenever `end` computes, though nothing has arrived: it is waited for then, too."""
        return None

    def give_up(self) -> Sequence[str]:
        """Is called where `end` has not returned and is waited for no longer; returns lines for the terminal.

        Raises:
            TimeoutError: says so, where a mirror has no better words.
        """
        raise TimeoutError("it has not ended within 5 s")

    def is_complete(self) -> bool:
        """Whether the tracker has the whole journal, as far as the run directory tells; asked before `begin`, too."""
        return True

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        """Writes the network in the tracker's own format into the run directory; returns the path, or None without one.

        Args:
            model: maps normalised images `[N, *input_shape], float32` to logits; it is not changed.
            input_shape: channels, rows and columns of an image.
        """
        return None


class Tracker(Protocol):
    """Where people compare runs (`conf/tracker/*.yaml`); its constructor takes plain arguments and checks them."""

    def open(self, run_dir: Path, label: str) -> Mirror:
        """The mirror of a run.

        Args:
            run_dir: holds the run's journal, `journal.jsonl`, and the files that the journal names.
            label: what distinguishes a job of a sweep from the others; empty for a run that is part of no sweep.
        """
        ...
