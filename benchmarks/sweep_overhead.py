"""What a job of a sweep costs beyond training, evaluation and the range test, in seconds, job by job.

    python benchmarks/sweep_overhead.py [jobs] [override ...]

A grid of so many peak epochs runs in this process; the time from the end of one job to the end of the next is taken
apart. The first job pays for imports, data and the range test.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from resnet_exp import __main__ as entry
from resnet_exp.runs import max_lr
from resnet_exp.runs import run as way
from resnet_exp.sweeps import job

_spent = 0.0
_is_open = False  # what is called meanwhile counts already
_ends: list[tuple[float, float]] = []  # when each job ended, and what had been spent on its work by then


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        global _spent, _is_open
        if _is_open:
            return function(*arguments, **keywords)
        _is_open = True
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            _is_open = False
            _spent += time.perf_counter() - start

    return timed


def _noted(function: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        finally:
            _ends.append((time.perf_counter(), _spent))

    return noted


def main(jobs: int, overrides: list[str]) -> None:
    """Prints the overhead of each job after the first, and their mean."""
    for module, name in ((way, "train"), (max_lr, "range_test"), (way, "infer")):
        setattr(module, name, _timed(getattr(module, name)))
    entry.run_job = _noted(job.run_job)
    peaks = ",".join(str(peak) for peak in range(1, jobs + 1))
    plain = ["experiment=quickstart", f"train.epochs={jobs}", f"scheduler.peak_epoch={peaks}"]
    sys.argv[1:] = ["--multirun", *plain, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        entry.main()
    pairs = list(itertools.pairwise(_ends))
    costs = [(end - before) - (work - done) for (before, done), (end, work) in pairs]
    print("\nseconds beyond training and evaluation, from the second job on:", *(f"{cost:.2f}" for cost in costs))
    print(f"mean {statistics.mean(costs):.2f}, most {max(costs):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6, sys.argv[2:])
