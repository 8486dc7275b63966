"""The ledger of a sweep: one JSON file a job, written by whoever runs the job, read by all; and the plan, their order.

It is all that a sweep remembers of its jobs. No two processes write the same file, and none is ever half written, so
that jobs report their status without a server or a common lock.

A job is known by what it is, never by its place: a command that plans other jobs, or the same in another order, finds
those that it has planned before. Those that it does not plan stay in the ledger, and count for nothing.

Each file has a checksum of its content and of what it is of. A job whose file is damaged, edited or gone is planned
anew, as the plan has it; its runs, which are known by their signature, are found again where they are.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.digest import digest_of
from resnet_exp.run_dir.files import Damaged, read_derived, read_json, write_json
from resnet_exp.run_dir.lock import is_locked, locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.sweeps.labels import short_points

SWEEP_VARIABLE = "RESNET_EXP_SWEEP"  # the directory of the sweep, for its jobs, wherever they are launched
PROCESS_VARIABLE = "RESNET_EXP_SWEEP_PROCESS"  # the process that launches them
# planned: not started. lost: its process was killed; the same command, or a second attempt, goes on with it.
ENDED = ("finished", "failed", "pruned")
_KEY = re.compile(r"[0-9a-f]+-\d+")  # of a job
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeedRun:
    """The run of a point with one seed."""

    seed: int
    root: str  # the run directory; the ledger's files have it relative to the sweep's, so that both can be moved
    status: str  # running | finished | failed | pruned
    objective: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0  # that the run took, even where it was before this sweep
    reused: bool = False  # it had finished before, and was not run again

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return Path(self.root).name

    @property
    def is_there(self) -> bool:
        """Whether the run directory still has its result."""
        paths = RunPaths(Path(self.root))
        return paths.result.exists() and paths.config.exists()


@dataclass(frozen=True)
class Job:
    """A point of a sweep and its status so far: what is set, what became of it, one run a seed."""

    number: int  # its place in the plan, counted from 0
    point: dict[str, str]  # the value of each swept key, as on the command line
    command: str  # runs the point by itself
    status: str = "planned"  # planned | running | lost | finished | failed | pruned | interrupted
    reason: str | None = None  # of a job that failed, was pruned or interrupted
    identity: str = ""  # of the point, all that it composes and the images; where it composes nothing, of the point
    repeat: int = 1  # among jobs of the same identity, counted from 1
    attempts: int = 0  # processes that started it
    runs: tuple[SeedRun, ...] = ()
    curve: dict[str, float] = field(default_factory=dict)  # the first seed's objective by epoch, counted from 1
    values: dict[str, Any] = field(default_factory=dict)  # of an Optuna trial: its parameters' values
    # The point with short keys and values, which no other job of the sweep has; not stored.
    shown: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> str:
        """What the job is known by in the ledger."""
        return f"{self.identity or digest_of(self.point)}-{self.repeat}"

    @property
    def short_point(self) -> dict[str, str]:
        """The point with short keys and values."""
        return self.shown or short_points([self.point])[0]

    @property
    def label(self) -> str:
        """What distinguishes the job from the others: `peak_epoch=5 optimizer=sgd`."""
        return " ".join(f"{key}={value}" for key, value in self.short_point.items())

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

    `jobs/KEY.json` is a job, `jobs/KEY.lock` is locked by the process that runs it. The kernel releases the lock even
    when that process is killed: a job that says `running` and is not locked is lost. `plan.json` has the jobs that the
    command has planned that was given last, in their order, without what became of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = RunPaths(root)  # of the parent run, which has a journal as every run has
        self._told: set[str] = set()
        self._jobs, self._plan = root / "jobs", root / "plan.json"
        self._facts, self._pruning = root / "sweep.json", root / "pruning.json"

    @classmethod
    def of_this_process(cls) -> Ledger | None:
        """Returns the ledger of the sweep whose job this process runs; None where it runs none."""
        root = os.environ.get(SWEEP_VARIABLE)
        return cls(Path(root)) if root else None

    @property
    def facts(self) -> dict[str, Any]:
        """What the sweep started with: command, swept keys, seeds, base config.

        Raises:
            Damaged: the file is; the sweep's command writes it anew.
        """
        return read_json(self._facts, "sweep") or {}

    def begin(self, facts: dict[str, Any]) -> None:
        """Stores what the sweep starts with, unless it is there."""
        if not read_derived(self._facts, "sweep"):
            write_json(self._facts, facts, "sweep")

    @property
    def comparable_after(self) -> int:
        """The epoch after which a pruner may compare jobs; a sweep with a pruner has stored it."""
        return int(read_json(self._pruning, "pruning")["comparable_after"])  # type: ignore[index]

    def store_comparable_after(self, epoch: int) -> None:
        """Stores the epoch after which a pruner may compare jobs."""
        write_json(self._pruning, {"comparable_after": epoch}, "pruning")

    def plan(self, jobs: Sequence[Job]) -> None:
        """Makes these all jobs of the sweep, in this order; those that are known keep what became of them."""
        for job in jobs:
            known = self._known(job.key) or job
            stated = replace(known, number=job.number, point=job.point, command=job.command)
            # The order of the point's keys is that of the command, and equal dicts may differ in it.
            if known is job or (stated, [*stated.point]) != (known, [*known.point]):
                self.write(stated)
        write_json(self._plan, {"jobs": [_stated(job) for job in jobs]}, "plan")

    def enrol(self, job: Job) -> str:
        """Adds a job that no sweeper has planned to the plan, unless it is there already; returns its key."""
        with locked(self._jobs / ".lock"):  # else two jobs that enrol at once would get the same place
            planned = self.jobs()
            if job.key not in {one.key for one in planned}:
                job = replace(job, number=len(planned))
                self.plan([*planned, job])
                self.renew(job)
        return job.key

    def renew(self, job: Job) -> None:
        """Lets the job begin again, or go on from where its runs are, unless it has finished."""
        known = self.job(job.key)
        if known.status != "finished":
            self.write(replace(job, runs=known.runs, curve=known.curve, attempts=known.attempts))

    def jobs(self) -> list[Job]:
        """Returns the jobs of the plan, in its order; one whose process is gone is `lost`."""
        planned = self._planned()
        return labelled(self.every() if planned is None else [self._known(job.key) or job for job in planned])

    def every(self) -> list[Job]:
        """Returns all jobs that were ever planned, by the places that they had last."""
        planned = {job.key: job for job in self._planned() or ()}
        # Others may have put files of their own there.
        keys = planned.keys() | {path.stem for path in self._jobs.glob("*.json") if _KEY.fullmatch(path.stem)}
        jobs = [self._known(key) or planned.get(key) for key in keys]
        return sorted((job for job in jobs if job is not None), key=lambda job: (job.number, job.key))

    def job(self, key: str) -> Job:
        """Returns one job with its status now; one that has finished and has lost a run's result is to be run again.

        Raises:
            RunError: it was never planned, or its file and the plan are damaged.
        """
        job = self._known(key) or next((job for job in self._planned() or () if job.key == key), None)
        if job is None:
            raise RunError(f"{self._path(key)} is missing or damaged, and {self._plan} too; start the sweep again")
        return job

    def _known(self, key: str) -> Job | None:
        """The job as its file has it; None where there is none, or one that is damaged, which is told."""
        try:
            stored: Any = read_json(self._path(key), _of(key))
        except Damaged as error:
            self._tell(f"{error}; if it is a job's, the job is planned anew, and its runs are found again")
            return None
        if stored is None:
            return None
        runs = tuple(SeedRun(**{**run, "root": self._absolute(run["root"])}) for run in stored.pop("runs"))
        job = Job(**stored, runs=runs)
        if job.status == "running" and not is_locked(self._lock(key)):
            return replace(job, status="lost")
        if job.status == "finished" and not all(run.is_there for run in runs):
            return replace(job, status="planned", runs=tuple(run for run in runs if run.is_there))
        return job

    def _planned(self) -> list[Job] | None:
        """The jobs of the plan as they were planned; None where there is no plan, or it is damaged, which is told."""
        try:
            plan = read_json(self._plan, "plan")
        except Damaged as error:
            self._tell(f"{error}; the jobs are taken in the order that they had last")
            return None
        return None if plan is None else [Job(**stated) for stated in plan["jobs"]]

    def _tell(self, fault: str) -> None:
        if fault not in self._told:
            self._told.add(fault)
            _log.warning("%s", fault)

    def has(self, key: str) -> bool:
        """Whether the job was ever planned."""
        return self._path(key).exists()

    def has_failed_enough(self, most: int | None) -> bool:
        """Whether `most` jobs have failed (`sweep.max_failures`); never where it is None."""
        return most is not None and sum(job.status == "failed" for job in self.jobs()) >= most

    def run_label(self, key: str, seed: int, seeds: Sequence[int] | None) -> str:
        """Returns the label of a job's run, which no other one of the plan has; `seeds` are `sweep.seeds`."""
        return next((job for job in self.jobs() if job.key == key), self.job(key)).run_label(seed, seeds)

    def write(self, job: Job) -> Job:
        """Writes the job, whole or not at all, and returns it."""
        stored = asdict(job)
        del stored["shown"]
        for run in stored["runs"]:
            run["root"] = run["root"] and os.path.relpath(run["root"], self.root)
        write_json(self._path(job.key), stored, _of(job.key))
        return job

    @contextmanager
    def held(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """A block in which this process alone runs the job; waits for another one that does.

        Args:
            key: of the job.
            on_wait: called once before waiting.
        """
        with locked(self._lock(key), on_wait):
            yield

    def stamp(self) -> tuple[tuple[str, int], ...]:
        """Returns a value that changes whenever a job's file or the plan does."""
        paths = [*self._jobs.glob("*.json"), *self.root.glob(self._plan.name)]
        return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in paths))

    def _absolute(self, root: str) -> str:
        # As texts: of a folder that is a link, `..` would be the parent of what it leads to.
        return root and os.path.normpath(self.root / root)

    def _lock(self, key: str) -> Path:
        return self._jobs / f"{_checked(key)}.lock"

    def _path(self, key: str) -> Path:
        return self._jobs / f"{_checked(key)}.json"


def _checked(key: str) -> str:
    """The key of a job, which names its files; from a ledger of somebody else it could lead elsewhere.

    Raises:
        RunError: it is none.
    """
    if not _KEY.fullmatch(str(key)):
        raise RunError(f"{key} is no key of a job: the sweep's directory was changed; start it again in another one")
    return key


def labelled(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs with labels that tell them apart."""
    points = short_points([job.point for job in jobs])
    return [replace(job, shown=shown) for job, shown in zip(jobs, points, strict=True)]


def _of(key: str) -> str:
    return f"job {key}"


def _stated(job: Job) -> dict[str, Any]:
    """What the job is, without what became of it."""
    return {key: getattr(job, key) for key in ("number", "point", "command", "identity", "repeat", "values")}


def _mean(values: Any) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
