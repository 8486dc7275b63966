"""A sweeper of one's own: one file and one yaml in a folder that `plugins=` names; and what is no sweeper."""

from __future__ import annotations

import csv
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnet_exp.sweeps.callback import SweepCallback
from resnet_exp.sweeps.ledger import SWEEP_VARIABLE, Ledger

TINY = (
    "experiment=quickstart", "data.limit_train=100", "train.epochs=1", "scheduler.peak_epoch=1", "device=cpu",
    "tracker=none", "report=none",
)  # fmt: skip
RANDOM_SEARCH = '''
"""Random search."""
import random

from resnet_exp.sweeps.sweeper import PlanningSweeper


class RandomSearch(PlanningSweeper):
    """Values drawn at random from each interval."""

    def __init__(self, n_jobs, params=None):
        super().__init__(params)
        self.n_jobs = n_jobs

    def points(self, space):
        draw = random.Random(0)
        intervals = {key: override.value() for key, override in space.items()}
        for _ in range(self.n_jobs):
            yield {key: f"{draw.uniform(each.start, each.end):.4f}" for key, each in intervals.items()}


class NoSweeper:
    pass
'''


def own(folder: Path, target: str = "search.RandomSearch") -> Path:
    """A folder with the sweeper's file and its yaml."""
    (folder / "own" / "conf" / "hydra" / "sweeper").mkdir(parents=True)
    (folder / "own" / "search.py").write_text(RANDOM_SEARCH)
    yaml = f"# Random search.\n_target_: {target}\nn_jobs: 3\nparams: null\n"
    (folder / "own" / "conf" / "hydra" / "sweeper" / "mine.yaml").write_text(yaml)
    return folder / "own"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != SWEEP_VARIABLE}
    return subprocess.run(
        [sys.executable, "-m", "resnet_exp", "--multirun", *TINY, *arguments],
        cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_sweeper_is_added_by_one_file_and_one_yaml(launcher: str, tmp_path: Path) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    own(tmp_path)
    chosen = ["plugins=own", "hydra/sweeper=mine", "scheduler.max_lr=interval(0.01,0.1)", f"hydra/launcher={launcher}"]
    shown = command(tmp_path, *chosen, "sweep.dry_run=true")
    assert "3 jobs, 3 runs; nothing is run" in shown.stdout, shown.stderr
    assert not (tmp_path / "multirun").exists()
    done = command(tmp_path, *chosen)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 jobs finished" in done.stdout
    (root,) = (tmp_path / "multirun").iterdir()
    jobs = Ledger(root).jobs()
    assert [job.status for job in jobs] == ["finished"] * 3
    with (root / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["what_differs"] for row in rows} == {job.label for job in jobs}
    page = (root / "sweep.html").read_text()
    assert all(job.label in page for job in jobs)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "hydra.sweeper._target_=os.system: a sweeper that is installed, or a class in "
                      "resnet_exp.sweeps or search, is needed"),
        ("resnet_exp.sweeps.grid.os", "hydra.sweeper._target_=resnet_exp.sweeps.grid.os: a sweeper that is installed"),
        ("search.Missing", "hydra.sweeper._target_=search.Missing: there is no such sweeper"),
        ("search.NoSweeper", "search.NoSweeper: a subclass of resnet_exp.sweeps.sweeper.PlanningSweeper is needed"),
        ("search.PlanningSweeper", "search.PlanningSweeper: a subclass of resnet_exp.sweeps.sweeper.PlanningSweeper"),
    ],
)  # fmt: skip
def test_what_is_no_sweeper_is_refused_in_words(target: str, said: str, tmp_path: Path) -> None:
    own(tmp_path, target)
    done = command(tmp_path, "plugins=own", "hydra/sweeper=mine", "scheduler.max_lr=0.1,0.2")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_sweeper_of_a_folder_that_is_not_named_is_no_option(tmp_path: Path) -> None:
    own(tmp_path)
    done = command(tmp_path, "hydra/sweeper=mine", "scheduler.max_lr=0.1,0.2")
    assert done.returncode == 2
    assert "hydra/sweeper=mine is no option of hydra/sweeper; " in done.stderr


def test_a_yaml_that_would_be_ignored_beside_ours_is_refused_in_a_group_of_hydras_too(tmp_path: Path) -> None:
    folder = own(tmp_path)
    (folder / "conf" / "hydra" / "sweeper" / "grid.yaml").write_text("_target_: search.RandomSearch\n")
    done = command(tmp_path, "plugins=own", "scheduler.max_lr=0.1,0.2")
    assert done.returncode == 2
    assert "conf/hydra/sweeper/grid.yaml has the name of one of resnet_exp's own; rename it" in done.stderr


def test_the_callback_reaches_workers_without_the_open_sweep() -> None:
    """Launchers send it along with Hydra's context: a lock and a thread would not arrive."""
    callback = SweepCallback()
    callback._session = threading.Lock()  # type: ignore[assignment]  # it cannot be sent, as a session cannot
    assert pickle.loads(pickle.dumps(callback))._session is None
