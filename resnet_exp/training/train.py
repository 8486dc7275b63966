"""`train`: epochs of the training loop, each measured, recorded and checkpointed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.config.validation import Validation
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Advance, RunError
from resnet_exp.run_dir.checkpoint import Checkpoint, Checkpoints
from resnet_exp.training.ema import holding
from resnet_exp.training.evaluate import Evaluation
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner, NonFinite, Steps


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
class Chosen:
    """An epoch that was chosen, the best by validation or else the last, and its weights."""

    epoch: int
    val_accuracy: float | None  # None unless held-out images chose it
    weights: Mapping[str, Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Training:
    """All epochs and steps, and the epoch whose weights were chosen."""

    history: tuple[Epoch, ...]
    steps: Tensor = field(compare=False)  # LR, momentum and loss of each, as in Steps.table
    chosen_epoch: int
    best_val_accuracy: float | None  # None unless held-out images chose the epoch
    ema: Chosen | None = None  # of the weights' moving average, by the same rule for itself; None without one


@dataclass
class _Best:
    """The weights of the best epoch so far, on the device; checkpoints write them to the disk."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = 0.0
    weights: dict[str, Any] | None = None

    def offer(self, epoch: int, measured: Evaluation, weights: Mapping[str, Tensor]) -> bool:
        """Copies the weights if they are better, by accuracy, then by loss; returns whether they are."""
        if not (measured.accuracy, -measured.loss) > (self.accuracy, -self.loss):  # a NaN is not better either
            return False
        self.epoch, self.accuracy, self.loss = epoch, measured.accuracy, measured.loss
        self.weights = {name: value.detach().clone() for name, value in weights.items()}
        return True

    def chosen(self, validation: Validation, last: int, weights: Mapping[str, Tensor]) -> Chosen:
        """This epoch if validation chooses, else the last one, which has these weights."""
        if validation.chooses and self.weights is not None:
            return Chosen(self.epoch, self.accuracy, self.weights)
        return Chosen(last, None, weights)


Measured = tuple[Evaluation | None, Evaluation | None]  # a network, and its moving average; None: not measured


@dataclass
class Trained:
    """What a run has trained so far, beside the learner's own state; with that, a checkpoint's content."""

    history: list[Epoch] = field(default_factory=list)  # of the epochs that were measured
    table: list[Tensor] = field(default_factory=list)  # of their steps
    best: _Best = field(default_factory=_Best)
    best_ema: _Best = field(default_factory=_Best)  # of the moving average
    begun: Steps | None = None  # of the epoch after them
    seconds: float = 0.0  # that these steps took

    @property
    def begun_steps(self) -> int:
        """The number of steps made in the epoch that has begun."""
        return len(self.begun.sizes) if self.begun else 0

    @property
    def begun_images(self) -> int:
        """The number of images trained on in that epoch."""
        return self.begun.images if self.begun else 0

    @property
    def steps(self) -> int:
        """The number of steps made in all."""
        return sum(map(len, self.table)) + self.begun_steps

    def complete(self, learner: Learner, measured: Measured, validation: Validation) -> bool:
        """Adds the epoch that has begun, all of whose steps are made, to the history; returns whether it is the best.

        Args:
            learner: has the epoch's weights.
            measured: of these, and of their moving average.
            validation: whether an epoch can be the best, and the names of what was measured.
        """
        assert self.begun is not None
        metrics = {metric.name: metric.value(self.begun, self.seconds) for metric in LOOP_METRICS}
        for images, found in zip((validation.images, validation.ema_images), measured, strict=True):
            metrics |= {f"{name}/{images}": value for name, value in (found.metrics if found else {}).items()}
        self.history.append(Epoch(len(self.history) + 1, metrics))
        self.table.append(self.begun.table())
        self.begun, self.seconds = None, 0.0
        if not validation.chooses:
            return False
        own, ema = measured
        if ema and learner.ema:
            self.best_ema.offer(len(self.history), ema, learner.ema.weights)
        return own is not None and self.best.offer(len(self.history), own, learner.model.state_dict())

    def state_dict(self, learner: Learner) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "learner": learner.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "steps": torch.cat(self.table) if self.table else None,
            "best": vars(self.best),
            "begun": vars(self.begun) if self.begun else None,
            "seconds": self.seconds,
            **({"best_ema": vars(self.best_ema)} if learner.ema else {}),
        }


def resume(learner: Learner, checkpoints: Checkpoints) -> Trained:
    """What the newest checkpoint has, with the learner in its state; nothing, and the learner unchanged, without one.

    Raises:
        RunError: the checkpoint is of another version or precision, or has another content.
    """
    checkpoint = checkpoints.latest(next(learner.model.parameters()).device)
    if checkpoint is None:
        return Trained()
    state = checkpoint.state
    try:
        learner.load_state_dict(state["learner"])
        learner.check()
        best, best_ema = (
            _Best(*(state[which][key] for key in ("epoch", "accuracy", "loss", "weights"))) if is_there else _Best()
            for which, is_there in (("best", True), ("best_ema", learner.ema is not None))
        )
        trained = Trained(
            [Epoch(**epoch) for epoch in state["history"]],
            [state["steps"].cpu()] if state["steps"] is not None else [],
            best,
            best_ema,
            Steps(**state["begun"]) if state["begun"] else None,
            state["seconds"],
        )
        _check(trained, checkpoint, learner.model)
    except NonFinite as error:
        raise checkpoint.unfit(ValueError("a weight or statistic is not finite")) from error
    except RunError:
        raise
    except Exception as error:  # another program's, say: anything may be missing, or of another type or shape
        raise checkpoint.unfit(error) from error
    return trained


def _check(trained: Trained, checkpoint: Checkpoint, model: nn.Module) -> None:
    """Raises ValueError where the content is not of the types, shapes and place that it should be of."""
    numbers = [value for epoch in trained.history for value in epoch.metrics.values()]
    bests = trained.best, trained.best_ema
    numbers += [trained.seconds, *(number for best in bests for number in (best.epoch, best.accuracy, best.loss))]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("a metric is no number")
    if [epoch.epoch for epoch in trained.history] != [*range(1, checkpoint.epoch + 1)]:
        raise ValueError("other epochs than its name says")
    if trained.steps != checkpoint.step or any(part.shape[1:] != (3,) for part in trained.table):
        raise ValueError("other steps than its name says")
    begun, count = trained.begun, trained.begun_steps
    if begun and not (begun.losses.shape == begun.lrs.shape == (count,) and len(begun.momenta) == count):
        raise ValueError("another number of losses than of steps")
    for weights in (best.weights for best in bests if best.weights is not None):
        of_best, own = ([(k, v.shape) for k, v in w.items()] for w in (weights, model.state_dict()))
        if of_best != own:
            raise ValueError("the best epoch's weights are of another network")


def train(
    learner: Learner,
    trained: Trained,
    batches: Callable[[int, int], Iterator[Batch]],
    measure: Callable[[nn.Module], Evaluation] | None,
    *,
    validation: Validation,
    epochs: int,
    steps_per_epoch: int,
    keeping: Keeping,
    advance: Advance,
    on_epoch: Callable[[Epoch, bool], None],
) -> Training:
    """Trains from where `resume` has brought the learner to the last epoch; its model ends with the chosen weights.

    Args:
        learner: the network and its optimizer.
        trained: as `resume` returned it; it is brought up to date.
        batches: the training batches of an epoch, counted from 1, from a number on, counted from 0.
        measure: measures the network, and its moving average, after each epoch; None measures nothing. Where it raises
            KeyboardInterrupt, the epoch's steps are saved, and measured when the run goes on.
        validation: the images measured, and whether they choose the weights; else those of the last epoch stay.
        epochs: of the whole run.
        steps_per_epoch: batches of each.
        keeping: when and where the run is saved; the last epoch's end always is.
        advance: called with the number of images trained on.
        on_epoch: called with each epoch trained here, and whether it is the best so far.

    Raises:
        NonFinite: something was not finite from a step on; no checkpoint was written after it.
    """

    def save() -> None:
        learner.check()
        keeping.save(len(trained.history), trained.steps, trained.state_dict(learner))

    for epoch in range(len(trained.history) + 1, epochs + 1):
        rest = iter(batches(epoch, trained.begun_steps))
        while trained.begun_steps < steps_per_epoch:
            _go_on(learner, trained, rest, advance, keeping)
            if keeping.after_step():
                save()
        try:
            measured = _measured(learner, measure)
        except KeyboardInterrupt:
            save()
            raise
        better = trained.complete(learner, measured, validation)
        on_epoch(trained.history[-1], better)
        if epoch == epochs or keeping.after_epoch():
            save()
    ema = trained.best_ema.chosen(validation, epochs, learner.ema.weights) if learner.ema else None
    chosen = trained.best.chosen(validation, epochs, learner.model.state_dict())
    learner.model.load_state_dict(chosen.weights)
    return Training(tuple(trained.history), torch.cat(trained.table), chosen.epoch, chosen.val_accuracy, ema)


def _measured(learner: Learner, measure: Callable[[nn.Module], Evaluation] | None) -> Measured:
    """Measures the network and, if it has one, its moving average."""
    if measure is None:
        return None, None
    own = measure(learner.model)
    if learner.ema is None:
        return own, None
    with holding(learner.model, learner.ema.weights) as averaged:
        return own, measure(averaged)


def _go_on(learner: Learner, trained: Trained, batches: Iterator[Batch], advance: Advance, keeping: Keeping) -> None:
    """Trains up to the epoch's end, or to the step after which to save."""
    start = time.perf_counter()
    steps = learner.train(batches, trained.steps, advance, keeping.after_step)
    learner.check()  # the host waits for the device here, once an epoch and before a save
    trained.seconds += time.perf_counter() - start
    trained.begun = trained.begun.and_then(steps) if trained.begun else steps
