"""The training stage: epochs of the one loop, measured, recorded and checkpointed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Advance, RunError
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.training.evaluate import Evaluation
from resnet_exp.training.learner import Learner, Steps


@dataclass(frozen=True)
class Epoch:
    """One epoch as it was measured; accuracies are fractions, losses means over images."""

    epoch: int  # counted from 1
    train_loss: float  # in train mode, on augmented images, while the weights moved
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr_start: float
    lr_end: float
    seconds: float  # of training alone, without the measurement after it
    images_per_s: float


@dataclass(frozen=True)
class Training:
    """All epochs and steps, and which epoch the weights that are kept come from."""

    history: tuple[Epoch, ...]
    steps: Tensor = field(compare=False)  # LR, momentum and loss of each, as in Steps.table
    chosen_epoch: int
    best_val_accuracy: float | None  # None unless held-out images chose


@dataclass
class _Best:
    """The weights of the best epoch so far. They stay on the device: the disk sees them with the checkpoints."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = 0.0
    weights: dict[str, Any] | None = None

    def offer(self, epoch: int, measured: Evaluation, model: nn.Module) -> bool:
        """Keeps these weights if they are better: by accuracy, then by loss."""
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
    epochs: int,
    steps_per_epoch: int,
    choose_best: bool,
    checkpoints: Checkpoints,
    checkpoint_interval: float,
    advance: Advance,
    on_epoch: Callable[[Epoch, bool], None],
) -> Training:
    """The learner trained to the last epoch, from its newest checkpoint on; it ends with the chosen weights.

    Args:
        learner: the network and its optimizer, fresh.
        batches: the training batches of an epoch, counted from 1.
        measure: the network measured after each epoch; None measures nothing.
        epochs: of the whole run.
        steps_per_epoch: batches of each.
        choose_best: keeps the weights of the epoch measured best; otherwise the last one's.
        checkpoints: where the run goes on from, and where it is saved.
        checkpoint_interval: seconds between checkpoints at least; the last epoch's is always written.
        advance: told of the images trained on.
        on_epoch: told of each epoch trained here, and whether it is the best so far.

    Raises:
        NonFinite: a loss or gradient was not finite; no checkpoint holds what came after.
        RunError: the checkpoint is of an older version.
    """
    history, table, best = _resume(learner, checkpoints)
    saved = time.monotonic()
    for epoch in range(len(history) + 1, epochs + 1):
        steps, seconds = _one_epoch(learner, batches(epoch), (epoch - 1) * steps_per_epoch, advance)
        measured = measure(learner.model) if measure else None
        better = choose_best and measured is not None and best.offer(epoch, measured, learner.model)
        history.append(_record(epoch, steps, seconds, measured))
        table.append(steps.table())
        on_epoch(history[-1], better)
        if epoch == epochs or time.monotonic() - saved >= checkpoint_interval:
            checkpoints.save(epoch, _state(learner, history, table, best))
            saved = time.monotonic()
    if choose_best and best.weights is not None:
        learner.model.load_state_dict(best.weights)
        return Training(tuple(history), torch.cat(table), best.epoch, best.accuracy)
    return Training(tuple(history), torch.cat(table), epochs, None)


def _one_epoch(learner: Learner, batches: Iterable[Batch], first_step: int, advance: Advance) -> tuple[Steps, float]:
    start = time.perf_counter()
    steps = learner.train(batches, first_step, advance)
    learner.check()  # the host waits for the device here, once an epoch
    return steps, time.perf_counter() - start


def _record(epoch: int, steps: Steps, seconds: float, measured: Evaluation | None) -> Epoch:
    return Epoch(
        epoch=epoch,
        train_loss=steps.mean_loss(),
        train_accuracy=steps.accuracy(),
        val_loss=measured.loss if measured else None,
        val_accuracy=measured.accuracy if measured else None,
        lr_start=float(steps.lrs[0]),
        lr_end=float(steps.lrs[-1]),
        seconds=seconds,
        images_per_s=steps.images / seconds,
    )


def _state(learner: Learner, history: list[Epoch], table: list[Tensor], best: _Best) -> dict[str, Any]:
    return {
        "learner": learner.state_dict(),
        "history": [asdict(epoch) for epoch in history],
        "steps": torch.cat(table),
        "best": vars(best),
    }


def _resume(learner: Learner, checkpoints: Checkpoints) -> tuple[list[Epoch], list[Tensor], _Best]:
    state = checkpoints.latest(next(learner.model.parameters()).device)
    if state is None:
        return [], [], _Best()
    if "steps" not in state:
        raise RunError(
            "the run's checkpoint is of an older version, which did not keep its steps; name=... begins it anew"
        )
    learner.load_state_dict(state["learner"])
    return [Epoch(**epoch) for epoch in state["history"]], [state["steps"].cpu()], _Best(**state["best"])
