"""The rules that `max_lr.py found` compares: `python benchmarks/max_lr_rules.py ROWS CELL SETTING ...` adds their rows.

It runs the command with these settings up to where max_lr is found, has each rule find one there, and stops.
"""

from __future__ import annotations

import csv
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_exp import __main__ as entry
from resnet_exp.config.schema import RangeTestConfig
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, endless, num_batches
from resnet_exp.interfaces import Schedule
from resnet_exp.runs import max_lr as way
from resnet_exp.runs import run
from resnet_exp.training.learner import Learner, NonFinite
from resnet_exp.training.lr_range import range_test
from resnet_exp.training.range_curve import Curve
from resnet_exp.training.range_rules import judge

COLUMNS = ("cell", "seed", "rule", "max_lr", "steps", "run_steps", "seconds")
_START, _RATIO, _MOST = 0.02, 2.5, 8  # of the peaks of miniatures: the first, the next ones' ratio, how many at most
_GROWTH = 0.3


@dataclass(frozen=True)
class Trial:
    """What a rule may use: new networks with their optimizer, training batches, and the schedule of the run."""

    make_learner: Callable[[Schedule], Learner]
    batches: Callable[[int], Iterator[Batch]]  # of a repeat, from its first step on
    plan: Callable[[float], Schedule]  # of the run, for a max_lr
    num_classes: int
    config: Any
    factor: float  # today's
    adapts: bool  # SGD, and a network with batch normalisation

    def sweep(self, settings: RangeTestConfig) -> tuple[Curve, ...]:
        """The curves of a range test."""
        found = range_test(
            self.make_learner,
            lambda repeat, first: itertools.islice(self.batches(repeat), first, None),
            settings,
            self.num_classes,
            _silent,
        )
        return found.curves

    def losses(self, lrs: tuple[float, ...], repeat: int = 0) -> list[float]:
        """The loss of each step of a new network at these LRs, up to the first that is not finite."""
        learner = self.make_learner(Schedule(lrs, None, max(lrs), lrs[0]))
        steps = learner.train(itertools.islice(self.batches(repeat), len(lrs)), 0, _nothing)
        try:
            learner.check()
        except NonFinite as fault:
            return steps.losses[: fault.step].tolist()
        return steps.losses.tolist()


def today(trial: Trial) -> dict[str, tuple[float | None, int]]:
    """Three sweeps, their suggestion times the scheduler's factor; and the first of them alone."""
    settings = RangeTestConfig(start_lr=1e-5, end_lr=10.0, num_steps=100, repeats=3)
    curves = trial.sweep(settings)
    found = {}
    for name, used in (("today", curves), ("one sweep", curves[:1])):
        suggestion = judge(used, trial.num_classes).suggestion
        max_lr = None if suggestion is None else trial.factor * suggestion
        found[name] = max_lr, sum(len(curve.losses) for curve in used)
    return found


def miniatures(trial: Trial, length: int) -> dict[str, tuple[float | None, int]]:
    """Runs of so many steps on the run's own schedule, at neighbouring peaks; the peak of the least loss at the end.

    And that peak times a power of the run's length, where SGD trains a network with batch normalisation.
    """
    ends: dict[int, float] = {}

    def end(power: int) -> float:
        if power not in ends:
            losses = trial.losses(_miniature(trial.plan(_START * _RATIO**power).lrs, length))
            last = losses[-max(3, length // 5) :]
            ends[power] = statistics.mean(last) if len(losses) == length else math.inf
        return ends[power]

    at = 0
    while len(ends) < _MOST:
        better = min((at - 1, at, at + 1), key=end) if at - 1 in ends or end(at + 1) >= end(at) else at + 1
        if better == at:
            break
        at = better
    peak = _START * _RATIO ** _vertex(at, ends)
    steps = length * len(ends)
    grown = peak * (len(trial.plan(peak).lrs) / length) ** _GROWTH if trial.adapts else peak
    return {f"miniatures {length}": (peak, steps), f"miniatures {length}, grown": (grown, steps)}


def _miniature(lrs: tuple[float, ...], length: int) -> tuple[float, ...]:
    """The LRs of a schedule at evenly spaced steps, the first and the last among them."""
    places = np.linspace(0, len(lrs) - 1, length).round().astype(int)
    return tuple(max(lrs[place], 1e-12) for place in places)


def _vertex(at: int, ends: dict[int, float]) -> float:
    """Where the parabola through the three losses around the least one is least."""
    low, middle, high = (ends.get(power, math.inf) for power in (at - 1, at, at + 1))
    if not math.isfinite(low + high):
        return float(at)
    bend = low - 2 * middle + high
    return at + (0.5 * (low - high) / bend if bend > 0 else 0.0)


def warm_sweep(trial: Trial) -> dict[str, tuple[float | None, int]]:
    """A sweep from a hundredth to a hundred times the cold sweep's suggestion, after a warm-up to it in 60 steps."""
    curves = trial.sweep(RangeTestConfig(start_lr=1e-5, end_lr=10.0, num_steps=100, repeats=1))
    first = judge(curves, trial.num_classes).suggestion
    if first is None:
        return {"warm sweep": (None, len(curves[0].losses))}
    warm = tuple(first * (step + 1) / 60 for step in range(60))
    sweep = tuple(first / 10 * 1000 ** (step / 59) for step in range(60))
    losses = trial.losses(warm + sweep)[60:]
    verdict = judge((Curve(sweep, tuple(losses)),), trial.num_classes)
    return {"warm sweep": (verdict.suggestion, len(curves[0].losses) + 120)}


def _find(
    rows: Path, cell: str, this: Any, plugins: Any, data: Any, make_learner: Callable[[Schedule], Learner]
) -> None:
    """Takes the place of `find_max_lr` in a run: writes what each rule finds, and ends the run."""
    config = this.config
    steps = num_batches(len(data.train), config.train.batch_size)

    def batches(repeat: int) -> Iterator[Batch]:
        seed = randomness.mix(config.seed, randomness.RANGE_TEST, repeat)
        return endless(data.train, plugins.augmentation, config.train.batch_size, seed, first=0)

    trial = Trial(
        make_learner,
        batches,
        lambda max_lr: plugins.scheduler.plan(max_lr, config.train.epochs, steps),
        data.info.num_classes,
        config,
        way.find_factor(config, plugins, data),
        way._adapts(config, plugins, data.info),
    )
    with rows.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rule in (today, lambda t: miniatures(t, 40), lambda t: miniatures(t, 20), warm_sweep):
            start = time.perf_counter()
            for name, (max_lr, made) in rule(trial).items():
                seconds = f"{time.perf_counter() - start:.1f}"
                shown = "" if max_lr is None else f"{max_lr:.4g}"
                writer.writerow((cell, config.seed, name, shown, made, steps * config.train.epochs, seconds))
                file.flush()
    raise KeyboardInterrupt


class _Silent:
    def __enter__(self) -> Callable[..., None]:
        return _nothing

    def __exit__(self, *_: object) -> None: ...


def _silent(description: str, total: int, done: int = 0) -> Any:
    return _Silent()


def _nothing(n: int = 1) -> None: ...


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _rows, _cell, settings = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
        run.find_max_lr = partial(_find, _rows, _cell)  # type: ignore[assignment]
        sys.argv[1:] = [*settings, "tracker=none", "report=none", "device=cpu", f"output_dir={folder}"]
        entry.main()
