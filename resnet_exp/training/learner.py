"""`Learner`, the only training loop, and `infer`, the pass without training; all stages of a run use these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_exp.config.schema import TrainConfig
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch
from resnet_exp.data.memory import memory_told
from resnet_exp.interfaces import Advance, ConfigError, OptimizerFactory, RunError, Schedule
from resnet_exp.optimizers.parameter_groups import check_momentum_is_there, momentum_of, set_momentum
from resnet_exp.training.device import Runtime
from resnet_exp.training.ema import Ema

# fp16: the first loss scale, and how many good updates double it. Source: torch.amp.GradScaler's defaults.
_FIRST_SCALE, _GROWTH_INTERVAL = 65536.0, 2000
# What was not finite in a step, as the device notes it.
_LOSS, _GRADIENT, _UPDATE = range(3)
_NAMES = ("loss", "gradient", "update")


class NonFinite(RunError):
    """The loss, the gradient or the update of `step`, counted from 0, was not finite."""

    def __init__(self, step: int, what: str, where: str = "") -> None:
        where = f" ({where})" if where else ""
        super().__init__(f"the {what} of step {step} is not finite{where}; nothing from that step on is saved")
        self.step, self.what = step, what


@dataclass(frozen=True)
class Steps:
    """The record of some steps: mean loss and LR of each `[S]`, all correct predictions `[]`; on the run's device.

    LR and momentum are those applied: where fp16 skips a step, the next one has the same LR.
    """

    losses: Tensor
    lrs: Tensor
    momenta: tuple[float, ...]
    sizes: tuple[int, ...]
    correct: Tensor

    @property
    def images(self) -> int:
        return sum(self.sizes)

    def and_then(self, later: Steps) -> Steps:
        """The record of these steps and of those made after them."""
        return Steps(
            torch.cat([self.losses, later.losses]),
            torch.cat([self.lrs, later.lrs]),
            self.momenta + later.momenta,
            self.sizes + later.sizes,
            self.correct + later.correct,
        )

    def table(self) -> Tensor:
        """LR, momentum and loss of each step, `[S, 3], float64`, in host memory; waits for the device."""
        momenta = torch.tensor(self.momenta, dtype=torch.float64)
        return torch.stack([self.lrs.double().cpu(), momenta, self.losses.double().cpu()], 1)

    def mean_loss(self) -> float:
        """The mean over images; waits for the device."""
        weights = torch.tensor(self.sizes, dtype=torch.float64)
        return float((self.losses.double().cpu() * weights).sum() / weights.sum())

    def accuracy(self) -> float:
        """The fraction of images predicted right while training; waits for the device."""
        return int(self.correct) / self.images


def check_momentum(cycled: bool, runtime: Runtime) -> None:
    """Raises ConfigError for cycled momentum with fp16: the host sets it, and does not know which steps are skipped."""
    if cycled and runtime.scales_loss:
        raise ConfigError("scheduler.cycle_momentum=true needs train.precision=fp32 or bf16: fp16 skips steps")


class Learner:
    """A network with its optimizer and schedule: everything that an optimizer step reads or changes.

    The host never waits for the device within an epoch. A step that must not count (a non-finite loss or gradient)
    becomes a no-op on the device, and so do all steps after one that left something non-finite behind: a weight, a
    running statistic, the optimizer's state; `check()` reports it afterwards. The one exception is an optimizer without
    a fused kernel under fp16, which skips steps as a matter of course: a no-op would still decay its state, such as
    momentum, so the host waits and skips the step.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: OptimizerFactory,
        schedule: Schedule,
        train: TrainConfig,
        runtime: Runtime,
        seed: int,
    ) -> None:
        check_momentum(schedule.momenta is not None, runtime)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        device = runtime.device
        self.model = model.to(device).to(memory_format=layout)
        self.optimizer = make_optimizer(self.model)
        if schedule.momenta is not None:
            check_momentum_is_there(self.optimizer)
        self._train, self._runtime, self._schedule, self._seed = train, runtime, schedule, seed
        # The device looks up the LR by the number of updates made so far: a skipped step does not advance the schedule.
        self._lrs = torch.tensor(schedule.lrs, device=device, dtype=_lr_dtype(device))
        self._updates = torch.zeros((), dtype=torch.int64, device=device)
        # The first bad step, and what was bad: _LOSS, _GRADIENT or _UPDATE.
        self._fault = torch.full((2,), -1, dtype=torch.int64, device=device)
        self._scale = torch.tensor(_FIRST_SCALE if runtime.scales_loss else 1.0, device=device)
        self._good = torch.zeros((), dtype=torch.int64, device=device)  # updates since the scale last changed
        self._one, self._updated = torch.ones((), device=device), torch.tensor(_UPDATE, device=device)
        self._with_buffers = [module for module in self.model.modules() if any(True for _ in module.buffers(False))]
        self.ema = Ema(self.model, train.ema) if train.ema is not None else None
        self._last_step = -1

    def train(
        self,
        batches: Iterable[Batch],
        first_step: int,
        advance: Advance,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Steps:
        """Makes one optimizer step for each batch and returns their record.

        Args:
            batches: one a step; an iterator is left at the batch after the last step, from which it can go on.
            first_step: steps are counted from this one on.
            advance: called with the number of images trained on.
            should_stop: asked after each step; the step after which it says so is the last.
        """
        smaller = "take a smaller train.batch_size, or more train.grad_accum_steps, which compute a batch in parts"
        with memory_told(f"training at train.batch_size={self._train.batch_size}", smaller):
            return self._steps(batches, first_step, advance, should_stop)

    def _steps(
        self, batches: Iterable[Batch], first_step: int, advance: Advance, should_stop: Callable[[], bool]
    ) -> Steps:
        self.model.train()
        losses, lrs, momenta, sizes = [], [], [], []
        correct = torch.zeros((), dtype=torch.int64, device=self._runtime.device)
        for step, batch in enumerate(batches, first_step):
            # Random layers (dropout) then depend on the step alone, also in a run that was resumed.
            randomness.seed_streams(self._seed, randomness.LAYERS, step)
            loss, right = self._backward(batch)
            lrs.append(self._update(step, loss))
            losses.append(loss)
            momenta.append(momentum_of(self.optimizer.param_groups[0]))
            sizes.append(len(batch.labels))
            correct += right
            self._last_step = step
            advance(len(batch.labels))
            if should_stop():
                break
        return Steps(torch.stack(losses), torch.stack(lrs), tuple(momenta), tuple(sizes), correct)

    def check(self) -> None:
        """Waits for the device; returns if losses, gradients and all that a checkpoint has of this are finite.

        Raises:
            NonFinite: one is not, with the step that made it so; no update was made from then on.
        """
        held = {name: value for name, value in self._held() if value.is_floating_point() or value.is_complex()}
        sound = torch.stack([torch.isfinite(value).all().to(self._runtime.device) for value in held.values()])
        step, what, *sound_too = torch.cat([self._fault, sound.long()]).tolist()
        where = next((name for name, is_sound in zip(held, sound_too, strict=True) if not is_sound), "")
        if what in (_LOSS, _GRADIENT):
            raise NonFinite(step, _NAMES[what])
        if what == _UPDATE or where:
            raise NonFinite(step if what == _UPDATE else self._last_step, _NAMES[_UPDATE], where)

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors that a checkpoint has of this learner, by what a user calls them."""
        yield from self.model.state_dict().items()
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {key} of {names.get(parameter, 'a parameter')}", value
        yield "the loss scale", self._scale
        for name, value in self.ema.weights.items() if self.ema else ():
            yield f"the EMA of {name}", value

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs besides the number of the step."""
        state = {
            "precision": self._runtime.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self._updates,
            "scale": self._scale,
            "good": self._good,
        }
        return state | ({"ema": self.ema.weights} if self.ema else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            RunError: the state is from a run in another precision, or from one with an EMA where this has none.
        """
        if state["precision"] != self._runtime.precision:
            raise RunError(
                f"the checkpoint is of precision {state['precision']}; this run's is {self._runtime.precision}"
            )
        if ("ema" in state) != (self.ema is not None):
            has, is_set = ("an EMA", "null") if self.ema is None else ("no EMA", "set")
            raise RunError(f"the checkpoint has {has} of the weights, and train.ema is {is_set}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._updates.copy_(state["updates"])
        self._scale.copy_(state["scale"])
        self._good.copy_(state["good"])
        if self.ema:
            self.ema.load(state["ema"])

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adds up the gradients of the batch's mean loss; returns that loss and the correct predictions."""
        parts = self._train.grad_accum_steps
        total = torch.zeros((), device=self._runtime.device)
        right = torch.zeros((), dtype=torch.int64, device=self._runtime.device)
        for part in batch.chunks(parts):
            images = part.images if self._train.channels_last else part.images.contiguous()
            with self._runtime.autocast():
                logits = self.model(images)
            loss = self._loss(logits.float(), part) / len(batch.labels)
            (loss * self._scale).backward()
            total = total + loss.detach()
            right = right + (logits.detach().argmax(1) == part.main_labels()).sum()
        return total, right

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The sum of the images' losses; that of a mixed image is mixed from its two labels as its pixels are."""
        loss = partial(F.cross_entropy, logits, label_smoothing=self._train.label_smoothing)
        if batch.mixed is None:
            return loss(batch.labels, reduction="sum")
        share = batch.mixed.share
        first, second = loss(batch.labels, reduction="none"), loss(batch.mixed.labels, reduction="none")
        return (share * first + (1 - share) * second).sum()

    def _update(self, step: int, loss: Tensor) -> Tensor:
        """One optimizer step, a no-op if anything is or was not finite; returns its LR."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self._runtime.scales_loss:
            torch._foreach_mul_(grads, 1 / self._scale)
        norm = nn.utils.get_total_norm(grads)
        skip = self._note_fault(step, loss, norm)
        if self._train.clip_grad_norm is not None:
            torch._foreach_mul_(grads, (self._train.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        lr = self._lrs.take(self._updates)  # `[]` would read the index on the host, which waits for the device
        self._step(step, lr, grads, skip)
        self._note_update(step)
        self.optimizer.zero_grad(set_to_none=True)
        self._updates += (~skip).long()
        if self.ema:
            self.ema.update(self.model, self._updates, skip)
        return lr

    def _note_fault(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether this step must be skipped, `[], bool`; stores the first step that ends the training."""
        overflow = ~torch.isfinite(norm)
        broken = ~torch.isfinite(loss)
        if self._runtime.scales_loss:
            # With fp16 an overflow only means that the scale is too large, until the scale is below 1.
            self._good = torch.where(overflow, 0, self._good + 1)
            grow = self._good == _GROWTH_INTERVAL
            self._good = torch.where(grow, 0, self._good)
            self._scale = torch.where(overflow, self._scale / 2, torch.where(grow, self._scale * 2, self._scale))
            lost = broken | (overflow & (self._scale < 1))
        else:
            lost = broken | overflow
        what = torch.where(broken, _LOSS, _GRADIENT)
        self._note(step, lost, what)
        return overflow | (self._fault[1] != -1)

    def _note(self, step: int, bad: Tensor, what: Tensor) -> None:
        now = torch.stack([torch.full_like(what, step), what])
        self._fault = torch.where((self._fault[1] == -1) & bad, now, self._fault)

    @torch.no_grad()
    def _note_update(self, step: int) -> None:
        """Stores this step as the first bad one if it left something that is not finite."""
        # Each step: BatchNorm's statistics, say, may be lost for good without a trace in the losses. The kernel that
        # torch.amp.GradScaler divides gradients with looks at all tensors at once, in a tenth of isfinite's time.
        changed = [p for group in self.optimizer.param_groups for p in group["params"]]
        changed += [buffer for module in self._with_buffers for buffer in module.buffers(recurse=False)]
        changed += [value for state in self.optimizer.state.values() for value in state.values()]
        device, found = self._runtime.device, torch.zeros((), device=self._runtime.device)
        plain = [v for v in changed if isinstance(v, Tensor) and v.dtype == torch.float32 and v.device == device]
        torch._amp_foreach_non_finite_check_and_unscale_(plain, found, self._one)
        self._note(step, found > 0, self._updated)

    def _step(self, step: int, lr: Tensor, grads: list[Tensor], skip: Tensor) -> None:
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        if fused:  # the kernel itself leaves weights and state unchanged
            # torch.amp.GradScaler passes the same two attributes to a fused optimizer.
            self.optimizer.__dict__.update(grad_scale=None, found_inf=skip.float())
        elif self._runtime.scales_loss and bool(skip):  # the host waits, as torch.amp.GradScaler does
            return
        else:  # without gradient and LR the weights stay; the state decays, but no update will follow it
            lr = torch.where(skip, 0.0, lr)
            for grad in grads:
                grad.masked_fill_(skip, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if self._schedule.momenta is not None:
                set_momentum(group, self._schedule.momenta[step])
        self.optimizer.step()


@torch.no_grad()
def infer(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Tensor, Tensor]:
    """The logits `[N, num_classes], float32` and labels `[N], int64` of all images, on the run's device.

    Raises:
        RunError: the device's memory does not hold a batch.
    """
    with memory_told("measuring the network", "take a smaller train.batch_size"):
        return _infer(model, batches, runtime)


def _infer(model: nn.Module, batches: Iterable[Batch], runtime: Runtime) -> tuple[Tensor, Tensor]:
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for batch in batches:
        with runtime.autocast():
            logits.append(model(batch.images).float())
        labels.append(batch.labels)
    model.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def _lr_dtype(device: torch.device) -> torch.dtype:
    """CUDA's fused kernels read a float32 LR; the CPU's take double, as a plain number would be."""
    return torch.float32 if device.type == "cuda" else torch.float64
