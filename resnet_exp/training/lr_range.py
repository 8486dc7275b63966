"""The LR range test: loss against LR on fresh networks, and the LR that the curves suggest.

Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; the exponential sweep is
fastai's. How a curve is read is in `range_rules`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnet_exp.config.schema import RangeTestConfig
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Advance, Progress, Schedule
from resnet_exp.training.learner import Learner, NonFinite
from resnet_exp.training.range_curve import Curve, curve_from_json, curve_to_json
from resnet_exp.training.range_rules import (
    Verdict,
    diverged_at_once,
    judge,
    loss_ceiling,
    minimum_at_end,
    verdict_from_json,
)

# The host looks at the losses after this many steps: often enough not to go on long after a divergence.
_CHUNK = 10
_LOWER, _HIGHER = 100, 10


@dataclass(frozen=True)
class RangeTest:
    """The curves of all repeats, and what they say together."""

    curves: tuple[Curve, ...]
    verdict: Verdict
    history: tuple[str, ...]  # sweeps that had to be made again, and why

    def to_json(self) -> dict[str, Any]:
        return {
            "curves": [curve_to_json(curve) for curve in self.curves],
            "verdict": asdict(self.verdict),
            "history": list(self.history),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RangeTest:
        curves = tuple(curve_from_json(curve) for curve in data["curves"])
        return cls(curves, verdict_from_json(data["verdict"]), tuple(data["history"]))


@dataclass(frozen=True)
class FoundLR:
    """The LRs that a run trains with, and the range test that they come from."""

    range_test: RangeTest | None  # None: max_lr was given
    max_lr: float | None  # None: the range test failed, or no training follows it
    min_lr: float | None  # of the first step

    @property
    def source(self) -> str:
        """Where max_lr comes from: `given`, or `range test: ok, 8 x 0.0112`."""
        if self.range_test is None:
            return "given"
        verdict = self.range_test.verdict
        assert verdict.suggestion is not None and self.max_lr is not None, "a failed range test ends the run"
        return f"range test: {verdict.status}, {self.max_lr / verdict.suggestion:g} x {verdict.suggestion:.4g}"


def range_test(
    make_learner: Callable[[Schedule], Learner],
    batches: Callable[[int], Iterator[Batch]],
    settings: RangeTestConfig,
    num_classes: int,
    progress: Progress,
) -> RangeTest:
    """The LR that sweeps on fresh networks suggest, with a status and the curves.

    A sweep that diverges at once is made again from start_lr / 100; one whose loss still falls at its end, up to
    end_lr * 10. Both at the same density of steps.

    Args:
        make_learner: makes a fresh network, the same each time, with its optimizer, for a schedule.
        batches: endless training batches of a repeat, counted from 0.
        settings: bounds, steps and repeats.
        num_classes: for the loss of a guess.
        progress: shows how far it is.
    """
    start, end = settings.start_lr, settings.end_lr
    history: list[str] = []

    def sweeps() -> RangeTest:
        lrs = _exponential(start, end, _steps(settings, start, end))
        with progress("LR range test", settings.repeats * len(lrs)) as advance:
            curves = tuple(_sweep(make_learner, batches(r), lrs, advance) for r in range(settings.repeats))
        return RangeTest(curves, judge(curves, num_classes), tuple(history))

    result = sweeps()
    if diverged_at_once(result.verdict):
        history.append(f"diverged at once from LR {start:g}: again from {start / _LOWER:g}")
        start /= _LOWER
        result = sweeps()
    if minimum_at_end(result.verdict):
        history.append(f"the loss still fell at LR {end:g}: again up to {end * _HIGHER:g}")
        end *= _HIGHER
        result = sweeps()
    return result


def _sweep(
    make_learner: Callable[[Schedule], Learner], batches: Iterator[Batch], lrs: tuple[float, ...], advance: Advance
) -> Curve:
    """One repeat's losses, as far as the sweep got; the first non-finite one is its last.

    A step that fp16 skipped is left out: its loss is met again, at the same LR, by the next.
    """
    learner = make_learner(Schedule(lrs=lrs, momenta=None, max_lr=lrs[-1], min_lr=lrs[0]))
    applied: list[float] = []
    losses: list[float] = []
    for first in range(0, len(lrs), _CHUNK):
        chunk = itertools.islice(batches, min(_CHUNK, len(lrs) - first))
        steps = learner.train(chunk, first, lambda n=1: None)
        losses += steps.losses.tolist()
        applied += steps.lrs.tolist()
        advance(len(losses) - first)
        try:
            learner.check()
        except NonFinite as fault:
            advance(len(lrs) - len(losses))
            return Curve(lrs, (*_once_each(applied, losses[: fault.step]), math.nan))
        # A whole chunk above what the rule caps losses at: it would see no difference between them and more of them.
        if min(losses[first:]) > loss_ceiling(np.array(losses)):
            advance(len(lrs) - len(losses))
            break
    return Curve(lrs, _once_each(applied, losses))


def _once_each(applied: list[float], losses: list[float]) -> tuple[float, ...]:
    """The losses of the LRs in their order, of equal LRs the last one's."""
    return tuple(dict(zip(applied, losses, strict=False)).values())


def _steps(settings: RangeTestConfig, start: float, end: float) -> int:
    """The steps between start and end at the density of those that the config names."""
    density = (settings.num_steps - 1) / math.log10(settings.end_lr / settings.start_lr)
    return 1 + round(density * math.log10(end / start))


def _exponential(start: float, end: float, steps: int) -> tuple[float, ...]:
    return tuple(start * (end / start) ** (step / (steps - 1)) for step in range(steps))
