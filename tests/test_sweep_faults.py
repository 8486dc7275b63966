"""Sweeps when things go wrong: jobs that fail, processes that are killed, settings that change meanwhile."""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resnet_exp.interfaces import Mirror
from resnet_exp.run_dir.files import write_json
from resnet_exp.run_dir.journal import last_status
from resnet_exp.sweeps.ledger import SWEEP_VARIABLE, Job, Ledger
from resnet_exp.sweeps.parent_run import Parent

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("RESNET_EXP_KILLS", "10"))
# A linear network whose training goes wrong in its second epoch, in the way that it is told.
FAULTY = '''
import os, signal, sys, time
from pathlib import Path

import torch
from torch import nn


class Net(nn.Sequential):
    """Logits; training begins its second epoch with its seventh step."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, fault: str = "none"):
        super().__init__(nn.Flatten(), nn.Dropout(0.1), nn.Linear(in_channels * image_size * image_size, num_classes))
        self.fault, self.steps = fault, 0

    def forward(self, images):
        logits = super().forward(images)
        if not self.training or images.is_meta:
            return logits
        self.steps += 1
        if self.fault == "slow":
            time.sleep(0.1)
        if self.fault == "noise":
            return logits * (1 + 0.1 * torch.rand(()))
        return self.go_wrong(logits) if self.steps == 8 else logits

    def go_wrong(self, logits):
        if self.fault == "raise":
            raise ValueError("the network is at fault")
        if self.fault == "exit":
            sys.exit("the network leaves")
        if self.fault == "kill_once" and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill":
            while not Path("killed").exists():  # the other, whose worker goes with this one, has had its turn
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return logits * float("nan") if self.fault == "nan" else logits
'''
QUICK = (
    "plugins=own", "model=faulty", "data=digits", "data.limit_train=300", "augmentation=none", "train.epochs=3",
    "train.batch_size=50", "scheduler.peak_epoch=1", "report=none",
)  # fmt: skip
GIVEN_LR = ("scheduler.max_lr=0.05", "tracker=none")
STUDY = ("hydra/sweeper=study", "hydra.sweeper.n_startup_trials=2")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code: a sweep whose code is edited meanwhile is another sweep."""
    folder = tmp_path_factory.mktemp("code")
    for part in ("resnet_exp", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@dataclass(frozen=True)
class Sweep:
    """A command in a folder of its own, which holds the faulty network too."""

    folder: Path
    code: Path
    arguments: tuple[str, ...]

    def __post_init__(self) -> None:
        options = self.folder / "own" / "conf" / "model"
        options.mkdir(parents=True, exist_ok=True)
        (self.folder / "own" / "faulty.py").write_text(FAULTY)
        (options / "faulty.yaml").write_text("# At fault.\n_target_: faulty.Net\nfault: none\n")

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The sweep from where it is to its end."""
        return self.alone("--multirun", *QUICK, *self.arguments, *more)

    def alone(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "resnet_exp", *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        """The sweep in a process group of its own, that can be killed as a whole."""
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "resnet_exp", "--multirun", *QUICK, *self.arguments],
                cwd=self.folder, env=self._environment, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    @property
    def _environment(self) -> dict[str, str]:
        own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.code)}
        return {**{key: value for key, value in os.environ.items() if key != SWEEP_VARIABLE}, **own}

    @property
    def ledger(self) -> Ledger:
        (root,) = (self.folder / "multirun").iterdir()
        return Ledger(root)

    def jobs(self) -> dict[str, Job]:
        """Each job by what is swept over."""
        return {job.label: job for job in self.ledger.jobs()}

    def leaderboard(self) -> dict[str, dict[str, str]]:
        with (self.ledger.root / "leaderboard.csv").open(newline="") as file:
            return {row["what_differs"]: row for row in csv.DictReader(file)}

    def run_directories(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "outputs").iterdir() if (path / "config.yaml").exists())


@pytest.fixture
def sweep(code: Path, tmp_path: Path) -> Any:
    """Makes a sweep in a folder of its own."""
    return lambda *arguments, name="sweep": Sweep(tmp_path / name, code, arguments)


def times(folder: str) -> dict[str, int]:
    """When each file was last written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*"))}


@pytest.mark.slow
def test_jobs_that_fail_are_told_and_stop_no_other(sweep: Any) -> None:
    grid = sweep("model.fault=raise,exit,nan,none", *GIVEN_LR)
    done = grid.run()
    assert done.returncode == 1, done.stderr
    jobs, leaderboard = grid.jobs(), grid.leaderboard()
    assert jobs["fault=none"].status == "finished"
    reasons = {"raise": "ValueError: the network is at fault", "exit": "the network leaves", "nan": "not finite"}
    for fault, reason in reasons.items():
        job = jobs[f"fault={fault}"]
        assert job.status == leaderboard[job.label]["status"] == "failed"
        assert reason in (job.reason or "")
        assert reason in leaderboard[job.label]["reason"]
        assert leaderboard[job.label]["command"] == job.command
        assert job.command in done.stdout + done.stderr
        assert last_status(Path(job.runs[0].root) / "journal.jsonl") == "FAILED"

    alone = grid.alone(*shlex.split(jobs["fault=raise"].command)[3:])
    assert alone.returncode == 1
    assert "the network is at fault" in alone.stderr
    assert len(grid.run_directories()) == 4  # it went on in the directory that the job had

    before = times(jobs["fault=none"].runs[0].root)
    again = grid.run()
    assert again.returncode == 1
    assert times(jobs["fault=none"].runs[0].root) == before
    assert {job.label: job.attempts for job in grid.ledger.jobs()} == {
        "fault=raise": 2, "fault=exit": 2, "fault=nan": 2, "fault=none": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_enough_failures_stop_a_sweep(sweep: Any) -> None:
    grid = sweep("model.fault=none,raise,exit,nan", "sweep.max_failures=1", *GIVEN_LR)
    assert grid.run().returncode == 1
    assert [job.status for job in grid.ledger.jobs()] == ["finished", "failed", "planned", "planned"]
    assert last_status(grid.ledger.paths.journal) == "FAILED"


@pytest.mark.slow
def test_jobs_whose_worker_was_killed_are_run_once_more_by_themselves(sweep: Any) -> None:
    """Every worker dies with one of them, so that a job which kills must not take others along a second time."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = sweep("model.fault=kill_once,kill,none,slow", *GIVEN_LR, *JOBLIB)
    done = grid.run()
    assert done.returncode == 1, done.stderr
    jobs = grid.jobs()
    assert {label: job.status for label, job in jobs.items()} == {
        "fault=kill_once": "finished", "fault=kill": "failed", "fault=none": "finished", "fault=slow": "finished",
    }  # fmt: skip
    killer = jobs["fault=kill"]
    assert "its process was killed" in (killer.reason or "")
    assert last_status(Path(killer.runs[0].root) / "journal.jsonl") == "FAILED"
    assert jobs["fault=kill_once"].attempts == killer.attempts == 2
    assert len(grid.run_directories()) == 4


@pytest.mark.slow
def test_equal_points_at_once_are_one_run(sweep: Any) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = sweep("scheduler.max_lr=0.05,5e-2", "model.fault=slow", "tracker=none", *JOBLIB)
    done = grid.run()
    assert done.returncode == 0, done.stderr
    assert "waits for another process" in done.stdout and "2 of 2 jobs finished" in done.stdout
    assert sorted(run.reused for job in grid.ledger.jobs() for run in job.runs) == [False, True]
    assert len(grid.run_directories()) == 1


KINDS = {
    "basic": ("scheduler.max_lr=0.01,0.02,0.03,0.05", "tracker=mlflow"),
    "joblib": ("scheduler.max_lr=0.01,0.02,0.03,0.05", "tracker=none", *JOBLIB),
    "study": (
        "scheduler.max_lr=choice(0.01,0.02,0.05)", "tracker=none", *STUDY, "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
    ),
}  # fmt: skip
JOBS = 4  # of each
OPENING, WORKING, CLOSING = range(3)  # until a job is touched; until all have finished; until the command ends


@pytest.mark.slow
@pytest.mark.timeout(200 + 20 * KILLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_killed_at_random_moments_comes_to_the_same_end(sweep: Any, kind: str) -> None:
    if kind == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    unharmed = sweep(*KINDS[kind], "model.fault=slow", name="unharmed")
    seconds = seconds_of_phases(unharmed)
    killed = sweep(*KINDS[kind], "model.fault=slow", name="killed")
    for phase, moment in moments(kind, seconds):
        kill(killed, phase, moment)
    last = killed.run()
    assert last.returncode == 0, last.stderr

    assert outcome(killed) == outcome(unharmed)
    assert [job.status for job in killed.ledger.jobs()] == ["finished"] * JOBS
    assert killed.run_directories() == unharmed.run_directories()
    assert {run.name for job in killed.ledger.jobs() for run in job.runs} == set(killed.run_directories())
    assert last_status(killed.ledger.paths.journal) == "FINISHED"
    if kind == "basic":
        assert_one_family_in_mlflow(killed)


def moments(kind: str, seconds: list[float]) -> list[tuple[int, float]]:
    """When to kill: in which phase, and how many seconds after it has begun. All phases have their share."""
    share = (KILLS + 2 - list(KINDS).index(kind)) // len(KINDS)
    phases = [(OPENING, WORKING, CLOSING, WORKING)[number % 4] for number in range(share)]
    rng = random.Random(f"kill {kind}")
    parts = {phase: 1 if phase != WORKING else phases.count(WORKING) for phase in phases}  # what was done stays done
    return [(phase, rng.random() * seconds[phase] / parts[phase]) for phase in sorted(phases)]


def seconds_of_phases(sweep: Sweep) -> list[float]:
    """The sweep run to its end, and how long each phase took."""
    times = [time.monotonic()]
    process = sweep.start()
    for phase in (WORKING, CLOSING):
        assert until_phase(phase, sweep, process, None), said(sweep)
        times.append(time.monotonic())
    assert process.wait(120) == 0, said(sweep)
    times.append(time.monotonic())
    return [after - before for before, after in pairwise(times)]


def kill(sweep: Sweep, phase: int, moment: float) -> None:
    """Starts the sweep and kills it with all its processes, unless it has come to its end by then."""
    before = stamp(sweep)
    process = sweep.start()
    until_phase(phase, sweep, process, before)
    try:
        assert process.wait(moment) == 0, said(sweep)
    except subprocess.TimeoutExpired:
        members = [pid for pid, stat in processes().items() if stat.group == process.pid]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert until_gone(members, 10)


def until_phase(phase: int, sweep: Sweep, process: subprocess.Popen[bytes], before: Any) -> bool:
    """Waits for a phase, of a sweep whose ledger had this stamp before; False if the process ends earlier."""
    while process.poll() is None:
        touched = stamp(sweep) not in (None, before)
        finished = touched and sum(job.status == "finished" for job in sweep.ledger.jobs())
        if phase == OPENING or (phase == WORKING and touched) or finished == JOBS:
            return True
        time.sleep(0.02)
    return False


def stamp(sweep: Sweep) -> Any:
    """Changes whenever a job is touched; None before there is one."""
    return sweep.ledger.stamp() or None if list(sweep.folder.glob("multirun/*")) else None


def said(sweep: Sweep) -> str:
    return (sweep.folder / "said").read_text()


def outcome(sweep: Sweep) -> list[tuple[Any, ...]]:
    """What came out, to the last bit: of each job, and the weights of its networks."""
    return [
        (job.point, job.values, job.objective, job.test_accuracy, job.curve, [weights(run.root) for run in job.runs])
        for job in sweep.ledger.jobs()
    ]


def weights(root: str) -> bytes:
    return (Path(root) / "model.safetensors").read_bytes()


def assert_one_family_in_mlflow(sweep: Sweep) -> None:
    """A parent, one child a job, nothing besides, and none of them still running."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.folder / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if run.data.tags.get("sweep") == "parent")
    children = [run for run in runs if run is not parent]
    assert len(children) == len(sweep.ledger.jobs())
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {parent.info.run_id}


@dataclass(frozen=True)
class Stat:
    """Of a process that is alive."""

    parent: int
    group: int
    started: str  # a pid alone may be another's by now


def processes() -> dict[int, Stat]:
    """Every process of the machine that has not ended."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, group, *rest = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found[int(path.name)] = Stat(int(parent), int(group), rest[16])
    return found


def descendants(pid: int) -> dict[int, Stat]:
    """The living processes below this one."""
    living = processes()
    found: dict[int, Stat] = {}
    parents = {pid}
    while parents:
        children = {child: stat for child, stat in living.items() if stat.parent in parents}
        found |= children
        parents = set(children)
    return found


def until_gone(pids: Any, seconds: float) -> bool:
    """Whether none of these processes is left after so many seconds at most."""
    known = {pid: stat.started for pid, stat in processes().items() if pid in pids}
    until = time.monotonic() + seconds
    while left := {pid for pid, stat in processes().items() if known.get(pid) == stat.started}:
        if time.monotonic() > until:
            return not left
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_process_behind_and_goes_on(sweep: Any) -> None:
    """Interrupted by Ctrl-C, and when it was begun again by SIGTERM, each sent to the sweep's own process alone."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    grid = sweep("scheduler.max_lr=0.01,0.02,0.03,0.05", "model.fault=slow", "tracker=none", *JOBLIB)
    for number in (signal.SIGINT, signal.SIGTERM):
        interrupt(grid, number)
        assert {job.status for job in grid.ledger.jobs()} <= {"finished", "planned", "interrupted", "lost"}
        assert last_status(grid.ledger.paths.journal) == "KILLED"
    last = grid.run()
    assert last.returncode == 0, last.stderr
    assert {job.status for job in grid.ledger.jobs()} == {"finished"}


def interrupt(sweep: Sweep, number: signal.Signals) -> None:
    """Starts the sweep, and sends the signal once two jobs are at work: within 10 s no process is left."""
    process = sweep.start()
    try:
        wait_until_two_run(sweep, process)
        below = descendants(process.pid)
        assert len(below) >= 2
        process.send_signal(number)
        assert until_gone(below, 10)
        assert process.wait(10) == 128 + number, said(sweep)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_two_run(sweep: Sweep, process: subprocess.Popen[bytes]) -> None:
    """Returns once two jobs are in their training."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if list(sweep.folder.glob("multirun/*/plan.json")):
            running = [run for job in sweep.ledger.jobs() if job.status == "running" for run in job.runs]
            if sum((Path(run.root) / "journal.jsonl").exists() for run in running) >= 2:
                return
        time.sleep(0.05)
    raise AssertionError(said(sweep))


@pytest.mark.slow
def test_a_job_after_another_equals_the_job_alone(sweep: Any) -> None:
    """Of networks that draw from torch's generator in every step, with a range test each."""
    fixed = ("model.fault=noise", "tracker=none", "range_test.repeats=1", "range_test.num_steps=20")
    both = sweep("optimizer=adam,sgd", *fixed)
    alone = sweep(name="alone")
    assert both.run().returncode == 0
    done = alone.alone(*QUICK, *fixed, "optimizer=sgd")
    assert done.returncode == 0, done.stderr
    (after_another,) = both.jobs()["optimizer=sgd"].runs
    assert alone.run_directories() == [after_another.name]
    root = alone.folder / "outputs" / after_another.name
    assert weights(after_another.root) == weights(str(root))
    assert untimed(Path(after_another.root)) == untimed(root)


def untimed(root: Path) -> Any:
    """A run's result without what the clock said, and in what order its command was."""
    result = json.loads((root / "result.json").read_text())
    for epoch in result["history"]:
        del epoch["perf/epoch_s"], epoch["perf/images_per_s"]
    return {key: value for key, value in result.items() if key not in ("seconds", "command")}


@pytest.mark.slow
def test_a_study_runs_no_point_twice_and_refuses_another_space(sweep: Any) -> None:
    study = sweep("scheduler.max_lr=choice(0.02,0.05)", "tracker=none", *STUDY, "hydra.sweeper.n_trials=4")
    assert study.run().returncode == 0
    jobs = study.ledger.jobs()
    assert [job.status for job in jobs] == ["finished"] * 4
    seen: dict[str, float | None] = {}
    for job in jobs:
        (run,) = job.runs
        assert run.reused == (run.name in seen)
        assert job.objective == seen.setdefault(run.name, job.objective)
    assert study.run_directories() == sorted(seen)

    other = sweep("scheduler.max_lr=choice(0.02,0.06)", *study.arguments[1:])
    refused = other.run()
    assert refused.returncode == 2
    assert "scheduler.max_lr: " in refused.stderr
    assert "0.05" in refused.stderr and "0.06" in refused.stderr
    assert study.ledger.jobs() == jobs


@pytest.mark.parametrize("changed", ["yaml", "images"])
def test_a_job_that_is_not_the_planned_one_any_more_is_refused(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra import compose, initialize_config_dir

    from resnet_exp.config.conf import CONF
    from resnet_exp.config.config import typed
    from resnet_exp.data.digits import Digits
    from resnet_exp.interfaces import RunError
    from resnet_exp.sweeps import job
    from resnet_exp.sweeps.plan import identity_of

    point = {"scheduler.peak_epoch": "2"}
    given = ("experiment=quickstart", "scheduler.peak_epoch=2", f"output_dir={tmp_path / 'outputs'}")
    edit = ["train.batch_size=32"] if changed == "yaml" else []
    with initialize_config_dir(str(CONF)):
        planned = typed(compose("config", overrides=[*given]), given)
        one = Job(0, point, "command", identity=identity_of(point, planned, Digits().identity()))
        with_key = (*given, f"sweep.job='{one.key}'")
        now = typed(compose("config", overrides=[*with_key, *edit]), with_key)
    if changed == "images":
        monkeypatch.setattr(Digits, "identity", lambda self: "others")
    ledger = Ledger(tmp_path)
    write_json(tmp_path / "sweep.json", {"space": {"scheduler.peak_epoch": "2,3"}}, "sweep")
    ledger.plan([one])
    with pytest.raises(RunError, match="a yaml was edited or images were changed meanwhile"):
        job.run_job(now, ledger)
    assert ledger.job(one.key).status == "failed"
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_whose_directory_was_moved_meanwhile_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "sweep")
    ledger.begin({"command": "sweep", "space": {"seed": "1,2"}, "seeds": 1, "config": {"task": "train"}})
    parent = Parent(ledger, Mirror(), {}, "maximize")
    (tmp_path / "sweep").rename(tmp_path / "elsewhere")
    for _ in range(3):
        parent._seen = None
        parent.refresh()
    (warning,) = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert f"{tmp_path / 'sweep'} was moved or deleted" in warning.getMessage()
    assert warning.exc_info is None
