"""The LR range test: trains new networks shortly, at many LRs, and returns the LR that the losses suggest.

By default the LRs rise within each training, and `range_rules` reads the curves; `miniatures` is the other rule.

Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; the exponential rise is
fastai's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnet_exp.config.schema import MiniaturesConfig, RangeTestConfig
from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import Progress, Schedule
from resnet_exp.run_dir.checkpoint import Checkpoint
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner
from resnet_exp.training.miniatures import Miniature, miniature_runs, never_lost
from resnet_exp.training.range_curve import Curve, curve_from_json, curve_to_json
from resnet_exp.training.range_rules import (
    Verdict,
    diverged_at_once,
    judge,
    loss_ceiling,
    minimum_at_end,
    verdict_from_json,
)
from resnet_exp.training.short_runs import ShortRun, ShortRuns

# A second try starts at this fraction of start_lr, or ends at this multiple of end_lr.
_LOWER, _HIGHER = 100, 10


@dataclass(frozen=True)
class RangeTest:
    """The curves of all repeats, or the miniatures, and the verdict on them."""

    curves: tuple[Curve, ...]
    verdict: Verdict
    history: tuple[str, ...]  # why runs were made again with other LRs or more steps, one sentence each
    miniatures: tuple[Miniature, ...] = ()  # with range_test=miniatures, instead of curves

    def to_json(self) -> dict[str, Any]:
        miniatures = {"miniatures": [asdict(one) for one in self.miniatures]} if self.miniatures else {}
        return {
            "curves": [curve_to_json(curve) for curve in self.curves],
            "verdict": asdict(self.verdict),
            "history": list(self.history),
            **miniatures,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RangeTest:
        curves = tuple(curve_from_json(curve) for curve in data["curves"])
        miniatures = tuple(Miniature(**{**one, "losses": tuple(one["losses"])}) for one in data.get("miniatures", ()))
        return cls(curves, verdict_from_json(data["verdict"]), tuple(data["history"]), miniatures)


@dataclass(frozen=True)
class FoundLR:
    """The LRs that a run trains with, and the range test that they come from."""

    range_test: RangeTest | None  # None: max_lr was given
    max_lr: float | None  # None: the range test failed, or no training follows it
    min_lr: float | None  # of the first step
    is_cached: bool = False  # the range test was made before: by this run, or one that shares all that determines it

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
    batches: Callable[[int, int], Iterator[Batch]],
    settings: RangeTestConfig | MiniaturesConfig,
    num_classes: int,
    progress: Progress,
    keeping: Keeping | None = None,
    saved: Checkpoint | None = None,
) -> RangeTest:
    """The LR that short trainings of new networks suggest, by the rule of the settings, with a status and the curves.

    One that was stopped goes on from what it saved, to the same curves.

    Args:
        make_learner: makes a new network, the same each time, with its optimizer, for a schedule.
        batches: endless training batches of a repeat, counted from 0, from a step on.
        settings: the rule, and its own settings.
        num_classes: for ln C, the loss of guessing.
        progress: opens the progress display.
        keeping: saves what was done; None saves nothing.
        saved: what was saved last; None begins.

    Raises:
        RunError: what was saved has another content.
    """
    if isinstance(settings, MiniaturesConfig):
        runs = ShortRuns(make_learner, batches, never_lost, keeping, saved)
        miniatures, verdict, history = miniature_runs(runs, settings, num_classes, progress)
        return RangeTest((), verdict, history, miniatures)
    return _sweeps(ShortRuns(make_learner, batches, _diverges, keeping, saved), settings, num_classes, progress)


def _sweeps(runs: ShortRuns, settings: RangeTestConfig, num_classes: int, progress: Progress) -> RangeTest:
    """The repeats, each a sweep of rising LRs.

    If they diverge at once, they are run again from start_lr / 100; if the loss still falls at the last LR, up to
    end_lr * 10; both with as many steps a decade as before.
    """
    start, end = settings.start_lr, settings.end_lr
    history: list[str] = []

    def run_repeats() -> RangeTest:
        lrs = _exponential(start, end, _steps(settings, start, end))
        with progress("LR range test", settings.repeats * len(lrs)) as advance:
            curves = tuple(_curve(runs.run(r, lrs, advance), lrs) for r in range(settings.repeats))
        return RangeTest(curves, judge(curves, num_classes), tuple(history))

    result = run_repeats()
    if diverged_at_once(result.verdict):
        history.append(f"diverged at once from LR {start:g}: again from {start / _LOWER:g}")
        start /= _LOWER
        result = run_repeats()
    if minimum_at_end(result.verdict):
        history.append(f"the loss still fell at LR {end:g}: again up to {end * _HIGHER:g}")
        end *= _HIGHER
        result = run_repeats()
    return result


def _diverges(losses: Sequence[float], first: int) -> bool:
    """Whether all losses from `first` on are above the rule's cap: it caps these and all later ones."""
    return min(losses[first:]) > loss_ceiling(np.array(losses))


def _curve(run: ShortRun, lrs: tuple[float, ...]) -> Curve:
    """One repeat; a non-finite loss is its last. A step that fp16 skipped is left out: the next has the same LR."""
    losses = _once_each(run.applied, run.losses)
    return Curve(lrs, losses if run.is_finite else (*losses, math.nan))


def _once_each(applied: list[float], losses: list[float]) -> tuple[float, ...]:
    """The losses in the order of the LRs; of equal LRs the last one's."""
    # A dict has a key at its first place, with its last value.
    return tuple(dict(zip(applied, losses, strict=False)).values())


def _steps(settings: RangeTestConfig, start: float, end: float) -> int:
    """The number of steps from start to end, with as many a decade as the config has from start_lr to end_lr."""
    density = (settings.num_steps - 1) / math.log10(settings.end_lr / settings.start_lr)
    return 1 + round(density * math.log10(end / start))


def _exponential(start: float, end: float, steps: int) -> tuple[float, ...]:
    return tuple(start * (end / start) ** (step / (steps - 1)) for step in range(steps))
