"""`python -m tests.reliability [ROW ...] [--count full|ci|N]`, in the root of a checkout: runs the table of trials.

Two trials run at once, each in a process forked from this one, which has imported everything once. With the full
counts the rows are recorded in results/reliability, and the table results/reliability.md is made of all that are there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

# Before torch is imported anywhere: with one thread two trials do not fight, and OpenMP makes no pool of threads,
# which a fork would leave behind.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from . import rows
from .forked import Outcome, run_trials
from .recorded import record, write_table
from .trials import SESSION, Row

# What commands import, and trials would pay for one by one. Without pytorch_grad_cam, which starts a thread.
_PRELOADED = (
    *("resnet_exp.__main__", "torch", "torchvision", "sklearn.datasets", "matplotlib.pyplot", "mlflow", "sqlalchemy"),
    *("resnet_exp.runs.run", "resnet_exp.runs.evaluate", "resnet_exp.runs.predict", "resnet_exp.runs.redraw"),
    *("resnet_exp.report.report", "resnet_exp.tracking.mlflow", "resnet_exp.sweeps.sweeper", "optuna", "pytest"),
)


def main() -> int:
    """Runs rows and prints what they held; returns 1 if a trial was not held."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    known = {row.name: row for row in _rows()}
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {' '.join(known)}; all without")
    parser.add_argument("--count", default="ci", help="full, ci or a number: how many trials of each row")
    parser.add_argument("--full", dest="count", action="store_const", const="full", help="the same as --count full")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in known]
    if unknown or not (options.count in ("full", "ci") or options.count.isdecimal()):
        parser.error(f"there is no row {unknown[0]}" if unknown else "--count: full, ci or a number is needed")
    for name in _PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would not survive the fork"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that trials are ended with this process
    chosen = [known[name] for name in options.rows or known]
    return _run(chosen, options.count, options.jobs)


def _rows() -> list[Row]:
    modules = [
        importlib.import_module(f"{rows.__name__}.{found.name}") for found in pkgutil.iter_modules(rows.__path__)
    ]
    return sorted((row for module in modules for row in module.ROWS), key=lambda row: row.name)


def _run(chosen: list[Row], count: str, jobs: int) -> int:
    session = Path(tempfile.mkdtemp(prefix="reliability-"))
    os.environ[SESSION] = str(session)
    held_all = True
    for row in chosen:
        trials = row.full if count == "full" else row.ci if count == "ci" else int(count)
        outcomes = run_trials(row, trials, session, jobs)
        held_all &= bool(outcomes) and all(outcome.held for outcome in outcomes)
        _print(row, outcomes)
        if count == "full":
            record(row, outcomes)
    if count == "full":
        write_table(_rows())
    if held_all:
        shutil.rmtree(session)
    else:
        print(f"all that was said of trial N of a row, and what it left: {session}/ROW-N.txt and {session}/ROW-N")
    return 0 if held_all else 1


def _print(row: Row, outcomes: list[Outcome]) -> None:
    held = sum(outcome.held for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    print(f"{row.name:4} {held} of {len(outcomes)} held, {seconds:.0f} s: {row.fault}", flush=True)
    for outcome in outcomes:
        if not outcome.held:
            print(f"  trial {outcome.number}: {outcome.reason.splitlines()[0][:500]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
