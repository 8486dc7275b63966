"""N1, N2: what is not finite is never saved and its step is named; the schedule moves as the optimizer does."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.config.schema import TrainConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import OptimizerFactory, Schedule
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers.adamw import adamw
from resnet_exp.optimizers.rmsprop import rmsprop
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.journal import read
from resnet_exp.training import learner as learner_module
from resnet_exp.training.device import Runtime
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner, infer
from resnet_exp.training.train import Trained, Training, resume, train

from ..differences import leaves
from ..trials import TINY, Row, differences, reference, run_directory, start

# N1

_VALUES = (math.nan, math.inf, -math.inf)
_OPTIONS = (
    ("train.checkpoint_interval=0",),
    # After each step.
    ("train.checkpoint_interval=1e-9", "optimizer=adamw", "scheduler.max_lr=0.002", "train.ema=0.9"),
    ("train.checkpoint_interval=0.03", "optimizer=rmsprop", "scheduler.max_lr=0.002"),
    ("train.checkpoint_interval=0.03", "train.clip_grad_norm=1", "train.grad_accum_steps=2"),
)


def _broken(number: int, folder: Path) -> None:
    """At a random step something becomes NaN or infinite; then, without the fault, the run goes on."""
    drawn = random.Random(number)
    kind = list(_KINDS)[number % len(_KINDS)]
    arguments = (*TINY, *drawn.choice(_OPTIONS))
    alone = reference(*arguments)
    steps = len((alone / "steps.csv").read_text().splitlines()) - 1
    step, value, place = drawn.randrange(steps), drawn.choice(_VALUES), drawn.random()
    command = start(*arguments, before=lambda: _break(kind, step, value, place))
    code = command.wait()
    what = f"{kind} {value} in step {step} of {arguments[len(TINY) :]}"
    assert code == 1, f"{what}: exit code {code}\n{command.output}"
    assert "Traceback" not in command.output, f"{what}: {command.output}"
    root = run_directory(folder)
    status = [record for record in read(root / "journal.jsonl") if record["kind"] == "status"][-1]
    assert status["status"] == "FAILED", f"{what}: {status}"
    assert f"of step {step} is not finite" in status["reason"], f"{what}: {status}"
    _check_saved(root, step, what)
    command = start(*arguments)
    assert command.wait() == 0, f"{what}, then: {command.output}"
    found = differences(root, alone)
    assert not found, f"{what}, then: {found}"


def _check_saved(root: Path, step: int, what: str) -> None:
    """Raises AssertionError where a checkpoint has something that is not finite, or is of a later step."""
    for path in root.glob("checkpoints/*.pt"):
        content = torch.load(path, weights_only=True)
        assert content["step"] <= step, f"{what}: {path.name}"
        for name, leaf in leaves(content):
            values = leaf if isinstance(leaf, Tensor) else torch.tensor(leaf if isinstance(leaf, float) else 0.0)
            assert bool(values.isfinite().all()), f"{what}: {path.name} has {name} not finite"


def _break(kind: str, step: int, value: float, place: float) -> None:
    """In this process, `value` comes up in that step."""
    method, put = _KINDS[kind]
    whole = getattr(Learner, method)
    this_step = -1

    def seeded(*key: int) -> None:  # called before each step, with its number last
        nonlocal this_step
        this_step = key[-1]
        seed_streams(*key)

    def wrapped(self: Learner, *arguments: Any) -> Any:
        done = whole(self, *arguments)
        # The trial of the network, before the run, makes a step 0 of its own.
        if this_step != step or self._schedule.lrs == (1e-3,):
            return done
        with torch.no_grad():
            return put(self, done, value, place)

    seed_streams = learner_module.randomness.seed_streams
    learner_module.randomness.seed_streams = seeded
    setattr(Learner, method, wrapped)


def _into_loss(learner: Learner, loss: Tensor, value: float, place: float) -> Tensor:
    with torch.enable_grad():
        return loss * value


def _into_one(tensors: Callable[[Learner], list[Tensor]]) -> Callable[..., Any]:
    """Puts the value into one number of one of these tensors."""

    def put(learner: Learner, done: Any, value: float, place: float) -> Any:
        found = tensors(learner)
        tensor = found[int(place * len(found))]
        tensor.view(-1)[int(place * tensor.numel())] = value
        return done

    return put


def _gradients(learner: Learner) -> list[Tensor]:
    return [p.grad.as_strided((p.numel(),), (1,)) for p in learner.model.parameters() if p.grad is not None]


def _weights(learner: Learner) -> list[Tensor]:
    return [p.as_strided((p.numel(),), (1,)) for p in learner.model.parameters()]


def _statistics(learner: Learner) -> list[Tensor]:
    return [buffer for buffer in learner.model.buffers() if buffer.is_floating_point()]


def _optimizer_state(learner: Learner) -> list[Tensor]:
    found = [value for state in learner.optimizer.state.values() for value in state.values()]
    return [value.as_strided((value.numel(),), (1,)) for value in found if value.is_floating_point()]


# What becomes non-finite: the method after which, and how.
_KINDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "loss": ("_loss", _into_loss),
    "gradient": ("_backward", _into_one(_gradients)),
    "weight": ("_step", _into_one(_weights)),
    "BatchNorm's statistics": ("_backward", _into_one(_statistics)),
    "optimizer state": ("_step", _into_one(_optimizer_state)),
}

# N2

_STEPS, _EPOCHS = 15, 4
_OPTIMIZERS: tuple[OptimizerFactory, ...] = (sgd(), adamw(), rmsprop())  # for the last the host skips
_FP16 = Runtime(torch.device("cpu"), "fp16")


def _overflowing(number: int, folder: Path) -> None:
    """k of 60 steps overflow; a run without these steps, and one that is stopped on the way, make the same updates."""
    drawn = random.Random(number)
    count, make = number % 20 + 1, _OPTIMIZERS[number // 20 % len(_OPTIMIZERS)]
    Runtime.autocast = lambda self: contextlib.nullcontext()  # type: ignore[method-assign]  # the CPU has no fp16
    learner_module._GROWTH_INTERVAL = 2  # the scale comes back soon enough for 20 overflows
    skipped = _steps_to_skip(drawn, count)
    whole, training = _train(make, skipped, folder / "whole")
    lrs = [lr for lr, _, _ in training.steps.tolist()]
    updates = [sum(earlier not in skipped for earlier in range(step)) for step in range(len(lrs))]
    assert lrs == [_SCHEDULE.lrs[done] for done in updates], "the schedule did not move as the optimizer did"
    good = [batch for step, batch in enumerate(_BATCHES) if step not in skipped]
    plain = _learner(make, Runtime(torch.device("cpu"), "fp32"))
    plain.train(good, 0, lambda n=1: None)
    _assert_equal(dict(whole.model.named_parameters()), dict(plain.model.named_parameters()))
    _assert_equal(whole.optimizer.state_dict()["state"], plain.optimizer.state_dict()["state"])
    _assert_equal(*(_averaged_parameters(learner) for learner in (whole, plain)))
    for at in sorted(drawn.sample(range(1, len(lrs)), 3)):
        with contextlib.suppress(KeyboardInterrupt):
            _train(make, skipped, folder / "stopped", at)
    resumed, again = _train(make, skipped, folder / "stopped")
    _assert_equal(resumed.state_dict(), whole.state_dict())
    assert torch.equal(again.steps, training.steps)


def _averaged_parameters(learner: Learner) -> dict[str, Tensor]:
    """Without the statistics, which a skipped step changes, too."""
    assert learner.ema is not None
    return {name: learner.ema.weights[name] for name, _ in learner.model.named_parameters()}


def _steps_to_skip(drawn: random.Random, count: int) -> set[int]:
    """So many random steps, after which the scale was never below 1, which would end the training."""
    while True:
        skipped = set(drawn.sample(range(_STEPS * _EPOCHS), count))
        scale, good, least = 65536.0, 0, 65536.0
        for step in range(_STEPS * _EPOCHS):
            good = 0 if step in skipped else good + 1
            scale = scale / 2 if step in skipped else scale * 2 if good == 2 else scale
            good, least = good % 2, min(least, scale)
        if least >= 1:
            return skipped


def _train(
    make: OptimizerFactory, skipped: set[int], folder: Path, stop_at: float = math.inf
) -> tuple[Learner, Training]:
    """Trains from the folder's checkpoint on; is asked to stop after so many steps."""
    learner, checkpoints = _learner(make, _FP16), Checkpoints(folder, "run")
    trained: Trained = resume(learner, checkpoints)
    made = itertools.count(trained.steps + 1)
    backward, last = learner._backward, trained.steps

    def overflowing(batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal last
        done, last = backward(batch), next(made)
        if last - 1 in skipped:
            learner.model[0][0].weight.grad.fill_(math.inf)  # type: ignore[index, union-attr]
        return done

    learner._backward = overflowing  # type: ignore[method-assign]
    training = train(
        learner,
        trained,
        _batches,
        lambda model: evaluate(*infer(model, _BATCHES[:1], _FP16)),
        validation=VALIDATION["test"],  # the last weights stay
        epochs=_EPOCHS,
        steps_per_epoch=_STEPS,
        keeping=Keeping(checkpoints, 3600.0, lambda: None, lambda: last >= stop_at, _stop),
        advance=lambda n=1: None,
        on_epoch=lambda epoch, best: None,
    )
    return learner, training


def _stop() -> Any:
    raise KeyboardInterrupt


def _learner(make: OptimizerFactory, runtime: Runtime) -> Learner:
    torch.manual_seed(0)
    model: nn.Module = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
    settings = TrainConfig(_EPOCHS, 8, runtime.precision, True, 0.0, None, 1, False, 0.0, ema=0.9)
    return Learner(model, make, _SCHEDULE, settings, runtime, 0)


def _batches(epoch: int, first: int) -> Iterator[Batch]:
    return iter(_BATCHES[(epoch - 1) * _STEPS + first : epoch * _STEPS])


def _some_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_STEPS * _EPOCHS, 8, 3, 16, 16, generator=generator)
    labels = torch.randint(4, (_STEPS * _EPOCHS, 8), generator=generator)
    return [Batch(*pair) for pair in zip(images, labels, strict=True)]


def _assert_equal(one: Any, other: Any) -> None:
    found, expected = dict(leaves(one)), dict(leaves(other))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        is_same = torch.equal(value, expected[name]) if isinstance(value, Tensor) else value == expected[name]
        assert is_same, f"{name} differs"


_LRS = tuple(0.001 * (1 + step) for step in range(_STEPS * _EPOCHS))
_SCHEDULE = Schedule(_LRS, None, max(_LRS), min(_LRS))
_BATCHES = _some_batches()

ROWS = (
    Row(
        "N1",
        "NaN or infinity in loss, gradient, weight, BatchNorm's statistics, optimizer state at random steps",
        "no checkpoint has anything non-finite; FAILED with the true step; without the fault the run goes on to the "
        "end of the run left alone, bit for bit",
        full=100,
        ci=5,
        trial=_broken,
    ),
    Row(
        "N2",
        "fp16 overflow (simulated on the CPU): k = 1..20 skipped steps of 60, with three optimizers, stopped three "
        "times on the way",
        "the schedule moves as the optimizer does; the updates are those of a run without these steps",
        full=60,
        ci=20,
        trial=_overflowing,
    ),
)
