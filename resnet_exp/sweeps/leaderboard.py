"""The leaderboard of a sweep: its jobs from the best to the worst, and whether the best is better than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from resnet_exp.sweeps.ledger import Job

COLUMNS = (
    *("rank", "what_differs", "objective", "std", "n", "test_accuracy", "seconds", "status", "reason"),
    *("job", "runs", "command"),
)
_NO_SPREAD = 1e-9  # rounding: accuracies are counts, so a few seeds may well differ by exactly the same


@dataclass(frozen=True)
class Comparison:
    """The best point against the second best, paired over the seeds that both have."""

    best: Job
    second: Job
    difference: float  # of the objectives, the mean over the seeds
    std: float | None  # of one seed's difference, by all points; None with fewer than two seeds
    n: int
    low: float | None  # of the 95 % interval of the mean difference
    high: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the interval leaves zero out; None where the seeds show no spread to compare with."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def sentence(self, is_fraction: bool = True) -> str:
        """Returns the comparison in words; a share, such as an accuracy, is in percent, and better when higher."""
        if not is_fraction:
            pair = f"{self.best.label} differs from {self.second.label} by {self.difference:+.3g}"
        else:
            ahead = f"{self.difference:.2%} ahead of" if self.difference else "level with"
            pair = f"{self.best.label} is {ahead} {self.second.label}"
        if self.low is None or self.high is None:
            seeds = "one seed" if self.n < 2 else f"{self.n} seeds that all differ by the same"
            return f"{pair} with {seeds}: that may be noise; more sweep.seeds, such as [0,1,2], would show"
        kind = "+.2%" if is_fraction else "+.3g"
        spread = f"95% interval {self.low:{kind}} to {self.high:{kind}}, paired over {self.n} seeds"
        return f"{pair} ({spread}): {'beyond noise' if self.beyond_noise else 'not beyond noise'}"


def ranked(jobs: Sequence[Job], direction: str = "maximize") -> list[Job]:
    """Returns finished jobs, the best first and of equals the earlier one; then the others, in the order given."""
    sign = -1 if direction == "maximize" else 1
    done = [job for job in jobs if job.objective is not None and math.isfinite(job.objective)]
    best_first = sorted(done, key=lambda job: sign * _value(job))
    return [*best_first, *(job for job in jobs if job not in done)]


def rows(jobs: Sequence[Job], direction: str = "maximize") -> list[list[Any]]:
    """Returns the leaderboard's rows, with `COLUMNS`; accuracies are fractions, None where there is none yet."""
    table = []
    for rank, job in enumerate(ranked(jobs, direction), 1):
        names = " ".join(run.name for run in job.runs)
        spread = [deviation(job), len(job.objectives), job.test_accuracy]
        line = [rank if job.objective is not None else None, job.label, job.objective, *spread]
        table.append([*line, round(job.seconds, 1), job.status, job.reason, job.number, names, job.command])
    return table


def best_of(jobs: Sequence[Job], direction: str = "maximize") -> Job | None:
    """Returns the best finished job; None where none has finished."""
    first = ranked(jobs, direction)[:1]
    return first[0] if first and first[0].objective is not None else None


def deviation(job: Job) -> float | None:
    """Returns the sample standard deviation of the objective over seeds; None with fewer than two."""
    values = list(job.objectives.values())
    return statistics.stdev(values) if len(values) > 1 else None


def compare_best(jobs: Sequence[Job], direction: str = "maximize") -> Comparison | None:
    """Compares the best with the second best point; None where fewer than two have finished.

    A seed sets the split, the weights and the order for every point alike, so its effect on all of them cancels out;
    the noise that is left is estimated from all points that have these seeds. With two points it is the paired t-test.

    Source: randomised complete block design, such as Montgomery, Design and Analysis of Experiments, section 4.1.
    """
    done = [job for job in ranked(jobs, direction) if job.objective is not None]
    others = [job for job in done[1:] if job.point != done[0].point and _runs(job) != _runs(done[0])]
    if not others:
        return None
    best, second = done[0], others[0]
    seeds = sorted(best.objectives.keys() & second.objectives.keys())
    blocks = [job for job in (best, *others) if job.objectives.keys() >= set(seeds)]
    if len(seeds) < 2:
        return Comparison(best, second, _value(best) - _value(second), None, len(seeds), None, None)
    table = np.array([[job.objectives[seed] for seed in seeds] for job in blocks])
    mean = float((table[0] - table[blocks.index(second)]).mean())
    residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    freedom = (len(blocks) - 1) * (len(seeds) - 1)
    std = math.sqrt(2 * float((residuals**2).sum()) / freedom)
    if std < _NO_SPREAD:
        return Comparison(best, second, mean, std, len(seeds), None, None)
    half = float(stats.t.ppf(0.975, freedom)) * std / math.sqrt(len(seeds))
    return Comparison(best, second, mean, std, len(seeds), mean - half, mean + half)


def _runs(job: Job) -> set[str]:
    """The run directories: those of points that come to the same, such as 1 and 1.0, are the same."""
    return {run.root for run in job.runs}


def _value(job: Job) -> float:
    assert job.objective is not None
    return job.objective
