"""The ledger of a sweep: one JSON file a job, written by whoever runs the job, read by all.

It is all that a sweep remembers of its jobs. No two processes write the same file, and none is ever half written, so
that jobs report their status without a server or a common lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import read_json, write_json
from resnet_exp.run_dir.lock import is_locked, locked
from resnet_exp.run_dir.paths import RunPaths

SWEEP_VARIABLE = "RESNET_EXP_SWEEP"  # the directory of the sweep, for its jobs, wherever they are launched
PROCESS_VARIABLE = "RESNET_EXP_SWEEP_PROCESS"  # the process that launches them
# planned: not started. lost: its process was killed; the same command, or a second attempt, goes on with it.
ENDED = ("finished", "failed", "pruned")


@dataclass(frozen=True)
class SeedRun:
    """The run of a point with one seed."""

    seed: int
    root: str  # the run directory, absolute
    status: str  # running | finished | failed | pruned
    objective: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0  # that the run took, even where it was before this sweep
    reused: bool = False  # it had finished before, and was not run again

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return Path(self.root).name


@dataclass(frozen=True)
class Job:
    """A point of a sweep and its status so far: what is set, what became of it, one run a seed."""

    number: int  # counted from 0, in the order of the plan
    point: dict[str, str]  # the value of each swept key, as on the command line
    command: str  # runs the point by itself
    status: str = "planned"  # planned | running | lost | finished | failed | pruned | interrupted
    reason: str | None = None  # of a job that failed, was pruned or interrupted
    config_hash: str | None = None  # of the config that was planned
    attempts: int = 0  # processes that started it
    runs: tuple[SeedRun, ...] = ()
    curve: dict[str, float] = field(default_factory=dict)  # the first seed's objective by epoch, counted from 1
    values: dict[str, Any] = field(default_factory=dict)  # of an Optuna trial: its parameters' values

    @property
    def label(self) -> str:
        """What distinguishes the job from the others: `peak_epoch=5 optimizer=sgd`."""
        return " ".join(f"{short_key(key, self.point)}={_short(value)}" for key, value in self.point.items())

    def run_label(self, seed: int, seeds: Sequence[int] | None) -> str:
        """What distinguishes one of its runs from the sweep's others; `seeds` are `sweep.seeds`."""
        return self.label if seeds is None else f"{self.label} seed={seed}"

    @property
    def objective(self) -> float | None:
        """The mean over the seeds; None unless the job has finished."""
        return _mean(self.objectives.values()) if self.status == "finished" and self.runs else None

    @property
    def objectives(self) -> dict[int, float]:
        """The objective of each seed that has finished."""
        return {run.seed: run.objective for run in self.runs if run.status == "finished" and run.objective is not None}

    @property
    def test_accuracy(self) -> float | None:
        """The mean over the seeds' runs that have finished."""
        return _mean(run.test_accuracy for run in self.runs if run.test_accuracy is not None)

    @property
    def seconds(self) -> float:
        """The time of all its runs."""
        return sum(run.seconds for run in self.runs)

    def with_run(self, run: SeedRun) -> Job:
        """Returns the job with this run, in place of the one with the same seed."""
        others = [other for other in self.runs if other.seed != run.seed]
        return replace(self, runs=tuple(sorted((*others, run), key=lambda one: one.seed)))


class Ledger:
    """The directory of a sweep and the jobs in it.

    `jobs/NNNN.json` is a job, `jobs/NNNN.lock` is locked by the process that runs it. The kernel releases the lock even
    when that process is killed: a job that says `running` and is not locked is lost.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = RunPaths(root)  # of the parent run, which has a journal as every run has
        self._jobs, self._pruning = root / "jobs", root / "pruning.json"

    @classmethod
    def of_this_process(cls) -> Ledger | None:
        """Returns the ledger of the sweep whose job this process runs; None where it runs none."""
        root = os.environ.get(SWEEP_VARIABLE)
        return cls(Path(root)) if root else None

    @property
    def facts(self) -> dict[str, Any]:
        """What the sweep started with: command, swept keys, seeds, base config."""
        return read_json(self.root / "sweep.json") or {}

    @property
    def comparable_after(self) -> int:
        """The epoch after which a pruner may compare jobs; a sweep with a pruner has stored it."""
        return int(read_json(self._pruning)["comparable_after"])  # type: ignore[index]

    def store_comparable_after(self, epoch: int) -> None:
        """Stores the epoch after which a pruner may compare jobs."""
        write_json(self._pruning, {"comparable_after": epoch})

    def jobs(self) -> list[Job]:
        """Returns all jobs in the order of the plan; one whose process is gone is `lost`."""
        return [self.job(int(path.stem)) for path in sorted(self._jobs.glob("*.json"))]

    def job(self, number: int) -> Job:
        """Returns one job with its status now."""
        stored: Any = read_json(self._path(number))
        runs = tuple(SeedRun(**run) for run in stored.pop("runs"))
        job = Job(**stored, runs=runs)
        return replace(job, status="lost") if job.status == "running" and not self._is_held(number) else job

    def has(self, number: int) -> bool:
        """Whether a job of this number is planned."""
        return self._path(number).exists()

    def has_failed_enough(self, most: int | None) -> bool:
        """Whether `most` jobs have failed (`sweep.max_failures`); never where it is None."""
        return most is not None and sum(job.status == "failed" for job in self.jobs()) >= most

    def write(self, job: Job) -> Job:
        """Writes the job, whole or not at all, and returns it."""
        write_json(self._path(job.number), asdict(job))
        return job

    def enrol(self, point: Mapping[str, str], command: str) -> int:
        """Returns the number of the job of this point; a point that nobody has planned gets the next free one."""
        with locked(self._jobs / ".lock"):  # else two jobs that enrol at once would get the same number
            jobs = self.jobs()
            known = next((job.number for job in jobs if job.point == dict(point)), None)
            return self.write(Job(len(jobs), dict(point), command)).number if known is None else known

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """A block in which this process alone runs the job; waits for another one that does."""
        with locked(self._lock(number)):
            yield

    def stamp(self) -> tuple[tuple[str, int], ...]:
        """Returns a value that changes whenever a job's file does."""
        return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in self._jobs.glob("*.json")))

    def _is_held(self, number: int) -> bool:
        return is_locked(self._lock(number))

    def _lock(self, number: int) -> Path:
        return self._path(number).with_suffix(".lock")

    def _path(self, number: int) -> Path:
        return self._jobs / f"{number:04d}.json"


def short_key(key: str, among: Mapping[str, Any]) -> str:
    """Returns the last part of a dotted key, or the whole where another key has the same last part."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else key


def _short(value: str) -> str:
    """A number of many digits rounded to four; anything else unchanged."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def _mean(values: Any) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
