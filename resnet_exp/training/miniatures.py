"""The max_lr that miniature runs do best at: complete, short one-cycles on new networks, compared by their last losses.

Unlike a sweep of rising LRs, a miniature has a warm-up and an end: it judges a peak LR by what it leaves behind, for
any optimizer and network. How it was chosen: docs/decisions/0016-choosing-max-lr.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_exp.config.schema import MiniaturesConfig
from resnet_exp.interfaces import Progress
from resnet_exp.training.range_rules import CHANCE_MARGIN, Verdict
from resnet_exp.training.short_runs import ShortRuns

# Source of all constants here: measured, docs/decisions/0016-choosing-max-lr.md.
_RATIO = 2.5  # of neighbouring max_lr
_MOST = 8  # miniatures of one length
_LAST = 0.2  # of the steps: those whose mean loss is compared
_RISE, _DIV = 0.3, 8.0  # the part of the steps up to the peak, and the ratio of the peak to the first LR
_LONGER = 2  # times the steps, where no miniature is better than guessing; twice at most


@dataclass(frozen=True)
class Miniature:
    """One short run: its peak, and the loss of each step up to the first that was not finite, in nats per image."""

    max_lr: float
    losses: tuple[float, ...]
    steps: int  # planned

    @property
    def end(self) -> float:
        """The mean of its last losses; infinity if it was lost before."""
        if len(self.losses) < self.steps:
            return math.inf
        return statistics.fmean(self.losses[-max(3, round(_LAST * self.steps)) :])


def miniature_runs(
    runs: ShortRuns, settings: MiniaturesConfig, num_classes: int, progress: Progress
) -> tuple[tuple[Miniature, ...], Verdict, tuple[str, ...]]:
    """The miniatures, rising in max_lr, the verdict on them, and why they were made longer, a sentence each time.

    The first one has `first_lr` as its peak; then come neighbours of the best one so far, until it has one on each
    side. The suggestion is where a parabola through these three is least. All begin with the same weights and see the
    same batches. They are made again with more steps where none is better than guessing after so few.
    """
    steps, history = settings.num_steps, list[str]()
    while True:
        made = _search(runs, settings.first_lr, steps, progress)
        verdict = judge_miniatures(made, num_classes)
        if verdict.suggestion is not None or len(history) == 2:
            return tuple(made[power] for power in sorted(made)), verdict, tuple(history)
        history.append(f"{verdict.reason}: again with {_LONGER * steps}")
        steps *= _LONGER


def _search(runs: ShortRuns, first_lr: float, steps: int, progress: Progress) -> dict[int, Miniature]:
    """The miniatures by their powers of the ratio, up to where the best has a neighbour on each side."""
    made: dict[int, Miniature] = {}
    while (power := _next(made)) is not None:
        max_lr = first_lr * _RATIO**power
        with progress(f"miniature run at max_lr {max_lr:.3g}", steps) as advance:
            run = runs.run(0, one_cycle(max_lr, steps), advance)
        made[power] = Miniature(max_lr, tuple(run.losses), steps)
    return made


def _next(made: Mapping[int, Miniature]) -> int | None:
    if not made:
        return 0
    best = _best(made)
    return next((power for power in (best + 1, best - 1) if power not in made and len(made) < _MOST), None)


def _best(made: Mapping[int, Miniature]) -> int:
    """The power of the least loss; where all are lost, of the lowest LR."""
    return min(sorted(made), key=lambda power: made[power].end)


def one_cycle(max_lr: float, steps: int) -> tuple[float, ...]:
    """The LRs of a miniature: linearly up from an eighth of max_lr in the first third, then down to nearly zero."""
    up = max(2, round(_RISE * steps))
    rise = [max_lr / _DIV + (max_lr - max_lr / _DIV) * step / (up - 1) for step in range(up)]
    return (*rise, *(max_lr * (1 - step / (steps - up + 1)) for step in range(1, steps - up + 1)))


def judge_miniatures(made: Mapping[int, Miniature], num_classes: int) -> Verdict:
    """The verdict on miniatures, by their powers of the ratio.

    Low confidence: the best one has no neighbour on one side, after so many. Failed: none ends better than guessing.
    """
    chance, best = math.log(num_classes), _best(made)
    end, steps = made[best].end, made[best].steps
    if not end < (1 - CHANCE_MARGIN) * chance:
        if math.isinf(end):
            reason = f"every run of {steps} steps was lost, down to a max_lr of {made[best].max_lr:.3g}"
        else:
            reason = f"no run of {steps} steps beats guessing, ln {num_classes} = {chance:.3f}; the best has {end:.3f}"
        return Verdict("failed", reason, None, None, (), {}, chance)
    is_between = best - 1 in made and best + 1 in made
    part = _vertex([made[best + side].end for side in (-1, 0, 1)]) if is_between else 0.0
    reason = f"the best of {len(made)} runs of {steps} steps ends with a loss of {end:.3f}"
    if not is_between:
        reason += "; the loss still falls at the last max_lr tried"
    status = "ok" if is_between else "low_confidence"
    return Verdict(status, reason, made[best].max_lr * _RATIO**part, None, (), {}, chance)


def _vertex(ends: Sequence[float]) -> float:
    """Where the parabola through three losses, the middle one the least, is least: -0.5 to 0.5 from the middle."""
    low, middle, high = ends
    if not math.isfinite(low + high):
        return 0.0
    bend = low - 2 * middle + high
    return 0.5 * (low - high) / bend if bend > 0 else 0.0


def never_lost(losses: Sequence[float], first: int) -> bool:
    """False: a miniature runs to its end, where its loss may have fallen again."""
    return False
