"""`train`: epochs of the training loop, each measured, recorded and checkpointed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.config.validation import Validation
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Advance, RunError
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.training.evaluate import Evaluation
from resnet_exp.training.learner import Learner, Steps

# Of the checkpoints' content. 2: an epoch's metrics are stored under their names in the journal.
_VERSION = 2


@dataclass(frozen=True)
class LoopMetric:
    """A number of each epoch that comes from the loop itself; declared once, it is shown wherever metrics are."""

    name: str  # in the journal
    column: str  # its header in the table on the terminal
    form: str  # of its cells: width and digits
    value: Callable[[Steps, float], float]  # of the epoch's steps and seconds; may wait for the device


# Training losses and accuracies are of augmented images, in train mode, while the weights change. Seconds are of
# training alone, without the measurement after it.
LOOP_METRICS = (
    LoopMetric("loss/train", "train loss", ">10.4f", lambda steps, seconds: steps.mean_loss()),
    LoopMetric("accuracy/train", "train acc", ">9.2%", lambda steps, seconds: steps.accuracy()),
    LoopMetric("lr/start", "lr start", ">9.3g", lambda steps, seconds: float(steps.lrs[0])),
    LoopMetric("lr/end", "lr end", ">9.3g", lambda steps, seconds: float(steps.lrs[-1])),
    LoopMetric("perf/epoch_s", "s", ">6.1f", lambda steps, seconds: seconds),
    LoopMetric("perf/images_per_s", "images/s", ">8.0f", lambda steps, seconds: steps.images / seconds),
)


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch."""

    epoch: int  # counted from 1
    metrics: dict[str, float]  # by their names in the journal: `loss/train`, `accuracy/val`, `lr/start`, ...


@dataclass(frozen=True)
class Training:
    """All epochs and steps, and the epoch whose weights were chosen."""

    history: tuple[Epoch, ...]
    steps: Tensor = field(compare=False)  # LR, momentum and loss of each, as in Steps.table
    chosen_epoch: int
    best_val_accuracy: float | None  # None unless held-out images chose the epoch


@dataclass
class _Best:
    """The weights of the best epoch so far, on the device; checkpoints write them to the disk."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = 0.0
    weights: dict[str, Any] | None = None

    def offer(self, epoch: int, measured: Evaluation, model: nn.Module) -> bool:
        """Copies the model's weights if they are better, by accuracy, then by loss; returns whether they are."""
        if not (measured.accuracy, -measured.loss) > (self.accuracy, -self.loss):  # a NaN is not better either
            return False
        self.epoch, self.accuracy, self.loss = epoch, measured.accuracy, measured.loss
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return True


def train(
    learner: Learner,
    batches: Callable[[int], Iterable[Batch]],
    measure: Callable[[nn.Module], Evaluation] | None,
    *,
    validation: Validation,
    epochs: int,
    steps_per_epoch: int,
    checkpoints: Checkpoints,
    checkpoint_interval: float,
    advance: Advance,
    on_epoch: Callable[[Epoch, bool], None],
) -> Training:
    """Trains from the newest checkpoint to the last epoch; the learner's model ends with the chosen weights.

    Args:
        learner: the network and its optimizer, untrained.
        batches: the training batches of an epoch, counted from 1.
        measure: measures the network after each epoch; None measures nothing.
        validation: the images measured, and whether they choose the weights; else those of the last epoch stay.
        epochs: of the whole run.
        steps_per_epoch: batches of each.
        checkpoints: the run is resumed from these, and saved to them.
        checkpoint_interval: least seconds between checkpoints; the last epoch's is always written.
        advance: called with the number of images trained on.
        on_epoch: called with each epoch trained here, and whether it is the best so far.

    Raises:
        NonFinite: a loss or gradient was not finite; no checkpoint was written after it.
        RunError: the checkpoint is of an older version.
    """
    history, table, best = _resume(learner, checkpoints)
    saved = time.monotonic()
    for epoch in range(len(history) + 1, epochs + 1):
        steps, seconds = _one_epoch(learner, batches(epoch), (epoch - 1) * steps_per_epoch, advance)
        measured = measure(learner.model) if measure else None
        better = validation.chooses and measured is not None and best.offer(epoch, measured, learner.model)
        history.append(Epoch(epoch, _metrics(steps, seconds, measured, validation)))
        table.append(steps.table())
        on_epoch(history[-1], better)
        if epoch == epochs or time.monotonic() - saved >= checkpoint_interval:
            checkpoints.save(epoch, _state(learner, history, table, best))
            saved = time.monotonic()
    if validation.chooses and best.weights is not None:
        learner.model.load_state_dict(best.weights)
        return Training(tuple(history), torch.cat(table), best.epoch, best.accuracy)
    return Training(tuple(history), torch.cat(table), epochs, None)


def _one_epoch(learner: Learner, batches: Iterable[Batch], first_step: int, advance: Advance) -> tuple[Steps, float]:
    start = time.perf_counter()
    steps = learner.train(batches, first_step, advance)
    learner.check()  # the host waits for the device here, once an epoch
    return steps, time.perf_counter() - start


def _metrics(steps: Steps, seconds: float, measured: Evaluation | None, validation: Validation) -> dict[str, float]:
    """All metrics of an epoch, by their names in the journal."""
    of_loop = {metric.name: metric.value(steps, seconds) for metric in LOOP_METRICS}
    measurements = measured.metrics if measured else {}
    return of_loop | {f"{name}/{validation.images}": value for name, value in measurements.items()}


def _state(learner: Learner, history: list[Epoch], table: list[Tensor], best: _Best) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "learner": learner.state_dict(),
        "history": [asdict(epoch) for epoch in history],
        "steps": torch.cat(table),
        "best": vars(best),
    }


def _resume(learner: Learner, checkpoints: Checkpoints) -> tuple[list[Epoch], list[Tensor], _Best]:
    state = checkpoints.latest(next(learner.model.parameters()).device)
    if state is None:
        return [], [], _Best()
    if state.get("version") != _VERSION:
        raise RunError(
            "the run's checkpoint was written by another version of resnet_exp, whose records are not read here: go on "
            "with that version, or start again under another name=..."
        )
    learner.load_state_dict(state["learner"])
    return [Epoch(**epoch) for epoch in state["history"]], [state["steps"].cpu()], _Best(**state["best"])
