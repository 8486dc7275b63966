"""R2: each part of the saved state left out in turn, so that R1's comparison is seen to fail."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnet_exp.run_dir.lock import locked

from ..differences import differences, leaves
from ..points import calling
from ..trials import SESSION, TINY, Row, run_directory, start
from .killed import OPTIONS

# Momentum is cycled and parts of a batch are normalised apart, so that little in the state is without effect. As often
# saved as possible, also in the middle of an epoch.
_ARGUMENTS = (*TINY, *OPTIONS["dropout, none"], "data.validation=holdout", "train.epochs=4", "optimizer=adamw",
              "scheduler.max_lr=0.01", "train.checkpoint_interval=1e-9")  # fmt: skip
_TRIALS = 30
_KILLED_IN_STEP = 14  # of 20; the trial of the network makes the first
# What may be left out, since nothing depends on it.
_WITHOUT_EFFECT = {
    r".*/param_groups/\d+/lr": "each step sets it",
    # torch fills in what these are by default:
    r".*/param_groups/\d+/(amsgrad|maximize|foreach|capturable|differentiable|decoupled_weight_decay)": "default",
    r".*perf/.*|.*seconds.*": "a time",
    r".*/learner/ema/.*num_batches_tracked": "each step copies it",
    r"/(run|epoch|step)": "a checkpoint without its place is not used: an older one, or none, leads to the same end",
}


def _trial(number: int, folder: Path) -> None:
    alone, broken, first = _made_once()
    state = torch.load(_newest(broken), weights_only=True)
    paths = [path for path, _ in leaves(state)]
    unseen = []
    for path in paths[number::_TRIALS]:
        if not any(re.fullmatch(pattern, path) for pattern in _WITHOUT_EFFECT):
            shutil.rmtree(folder / "outputs", ignore_errors=True)
            shutil.copytree(broken.parents[0], folder / "outputs")
            unseen += [path] if _ends_as(alone, path, first, folder) else []
    assert not unseen, f"left out, these change nothing: {unseen}"


def _made_once() -> tuple[Path, Path, dict[str, Any]]:
    """The run left alone, one that was killed in its third epoch, and the first state that was saved."""
    shared = Path(os.environ[SESSION]) / "left_out"
    with locked(shared.with_suffix(".lock")):
        if not (shared / "first.pt").exists():
            for name in ("alone", "broken"):
                (shared / name).mkdir(parents=True)
            whole = start(*_ARGUMENTS, folder=shared / "alone", before=lambda: (_first_is_best(), _keep_first(shared)))
            assert whole.wait() == 0, whole.output
            kill = calling("resnet_exp.training.learner.Learner._step", _KILLED_IN_STEP, _kill_self)
            killed = start(*_ARGUMENTS, folder=shared / "broken", before=lambda: (_first_is_best(), kill()))
            assert killed.wait() == -signal.SIGKILL, killed.output
            (shared / "kept.pt").rename(shared / "first.pt")
    first = torch.load(shared / "first.pt", weights_only=True)
    return run_directory(shared / "alone"), run_directory(shared / "broken"), first


def _ends_as(alone: Path, path: str, first: dict[str, Any], folder: Path) -> bool:
    """Whether the killed run ends as the one left alone, though its state lacks a part."""
    command = start(*_ARGUMENTS, before=lambda: (_first_is_best(resumed=True), _leave_out(path, first)))
    return command.wait() == 0 and not differences(run_directory(folder), alone)


def _first_is_best(resumed: bool = False) -> None:
    """Makes the first epoch the best: its weights, accuracy and loss are in no other part of the state later.

    So does it with those of the moving average, which are measured after the network's own.
    """
    from resnet_exp.runs import run

    whole, measured = run.evaluate, 2 if resumed else 0

    def evaluate(logits: torch.Tensor, *others: Any) -> Any:
        nonlocal measured
        measured += 1
        found = whole(logits, *others)
        return replace(found, metrics={**found.metrics, "accuracy": 1.0 if measured <= 2 else 0.0})

    run.evaluate = evaluate


def _keep_first(folder: Path) -> None:
    """Keeps a copy of the first state that is saved."""
    whole = torch.save

    def save(state: Any, *others: Any, **more: Any) -> None:
        if not (folder / "kept.pt").exists():
            whole(copy.deepcopy(state), folder / "kept.pt")
        whole(state, *others, **more)

    torch.save = save


def _leave_out(path: str, first: dict[str, Any]) -> None:
    """Makes the state be loaded without the part at the path: as the first state had it, or not there at all."""
    whole = torch.load

    def load(*arguments: Any, **more: Any) -> Any:
        state = whole(*arguments, **more)
        holder, key = state, path.split("/")[1:]
        for part in key[:-1]:
            holder = holder[_key(holder, part)]
        last = _key(holder, key[-1])
        older = dict(leaves(first)).get(path)
        if older is not None and not _equal(older, holder[last]):
            holder[last] = older
        else:
            del holder[last]
        return state

    torch.load = load


def _key(holder: Any, part: str) -> Any:
    return int(part) if isinstance(holder, list) or (part.isdecimal() and part not in holder) else part


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def _newest(run_dir: Path) -> Path:
    return max((run_dir / "checkpoints").glob("*.pt"))


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ROWS = (
    Row(
        "R2",
        "each part of the saved state is left out in turn, the best epoch's weights, accuracy and loss included",
        "the comparison of R1 fails for each: it is able to fail",
        full=_TRIALS,
        ci=2,
        trial=_trial,
    ),
)
