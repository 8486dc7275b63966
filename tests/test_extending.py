"""One of each kind that people add, as CONTRIBUTING.md says: one file and at most one yaml, seen wherever it shows."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_exp.run_dir.journal import metric_history
from resnet_exp.sweeps.ledger import Ledger

ROOT = Path(__file__).parents[1]
TINY = (
    "data.limit_train=120", "model.width=4", "train.epochs=2", "train.batch_size=60", "scheduler.max_lr=0.05",
)  # fmt: skip

# A kind, its one file, and its one yaml where it has one: what CONTRIBUTING.md promises.
MODEL = '''
from typing import Annotated
from annotated_types import Ge
from torch import nn

class Mine(nn.Module):
    """Logits of the pixels, through one hidden layer."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, hidden: Annotated[int, Ge(1)] = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(hidden, num_classes),
        )

    def forward(self, images):
        return self.layers(images)
'''
SCHEDULER = '''
from resnet_exp.config.ranges import AutoOrNumber, Factor, FoundOrNumber
from resnet_exp.interfaces import Schedule

class Halving:
    """max_lr, halved with every epoch."""

    measured_factor = 1.0

    def __init__(self, max_lr: FoundOrNumber = "find", find_factor: AutoOrNumber = "auto", by: Factor = 2.0):
        self.max_lr = None if max_lr == "find" else max_lr
        self.find_factor, self.by = (None if find_factor == "auto" else find_factor), by

    def check(self, epochs, steps_per_epoch=None):
        pass

    def comparable_after(self, epochs):
        return 0

    def first_lr(self, max_lr):
        return max_lr

    def plan(self, max_lr, epochs, steps_per_epoch):
        lrs = tuple(max_lr / self.by ** (step // steps_per_epoch) for step in range(epochs * steps_per_epoch))
        return Schedule(lrs, None, max_lr, lrs[-1])
'''
AUGMENTATION = '''
from dataclasses import replace
import torch
from resnet_exp.augmentation.views import crop_flip

class UpsideDown:
    """Every image upside down."""

    padding = 0

    def __init__(self, really: bool = True):
        self.really = really

    def sample(self, keys, image_size):
        view = crop_flip(keys, image_size, 0, False)
        return replace(view, rows=view.rows.flip(1)) if self.really else view
'''
METRIC = '''
import torch
from resnet_exp.interfaces import Metric

def macro_recall(logits, labels):
    """The mean over classes of the share of their images that is right."""
    right = (logits.argmax(1) == labels).double()
    return torch.stack([right[labels == label].mean() for label in labels.unique()]).mean()

recall = Metric("recall", macro_recall, title="macro recall", unit="fraction", higher_is_better=True, column="recall")
'''
FIGURE = '''
from matplotlib.figure import Figure as Canvas
from resnet_exp.report.drawing import save
from resnet_exp.report.section import Figure, Section

def draw_labels(subject):
    """How many test images each class has."""
    canvas = Canvas(figsize=(4, 3))
    canvas.subplots().hist(subject.predictions.labels)
    return Section("My own figure", figures=(Figure(save(canvas, subject.folder / "mine.png"), "Labels.", "Labels."),))
'''
TRACKER = '''
import json
from resnet_exp.interfaces import Mirror
from resnet_exp.run_dir.journal import metric_history

class Notes:
    """The last value of each metric in one file."""

    def __init__(self, name: str = "notes"):
        self.name = name

    def open(self, run_dir, label):
        return Note(run_dir, self.name)

class Note(Mirror):
    def __init__(self, run_dir, name):
        self.run_dir, self.path = run_dir, run_dir / f"{name}.json"

    def end(self):
        history = metric_history(self.run_dir / "journal.jsonl")
        self.path.write_text(json.dumps({key: points[-1][1] for key, points in history.items()}))
        return [f"my notes: {self.path.name}"]
'''
SWEEPER = '''
from resnet_exp.config.overrides import values_of
from resnet_exp.sweeps.sweeper import PlanningSweeper

class Backwards(PlanningSweeper):
    """The values of one key, the last one first."""

    def points(self, space):
        (key, override), = space.items()
        return [{key: value} for value in reversed(list(values_of(override)))]
'''
DATA = '''
import numpy as np
from resnet_exp.interfaces import DataSize, LabelledImages, LoadedData

class Twelve:
    """Twelve classes of grey images, each of its own brightness."""

    image_size = 8

    def identity(self):
        return "twelve-1"

    def size(self):
        return DataSize(240, 12)

    def load(self, progress):
        def split(count, seed):
            labels = np.arange(count, dtype=np.int64) % 12
            noise = np.random.default_rng(seed).integers(0, 20, (count, 8, 8, 1))
            return LabelledImages((labels[:, None, None, None] * 19 + noise).astype(np.uint8), labels)

        return LoadedData(split(240, 0), split(48, 1), tuple("abcdefghijkl"))
'''
YAMLS = {
    "data/twelve": "_target_: my_data.Twelve\nvalidation: holdout\nholdout: null\nlimit_train: null\n",
    "model/mine": "_target_: my_model.Mine\nhidden: 16\n",
    "scheduler/halving": "_target_: my_scheduler.Halving\nmax_lr: find\nfind_factor: auto\nby: 2.0\n",
    "augmentation/upside_down": "_target_: my_augmentation.UpsideDown\nreally: true\n",
    "tracker/notes": "_target_: my_tracker.Notes\nname: notes\n",
    "hydra/sweeper/backwards": "_target_: my_sweeper.Backwards\nparams: null\n",
}
FILES = {
    "my_data": DATA, "my_model": MODEL, "my_scheduler": SCHEDULER, "my_augmentation": AUGMENTATION, "my_metric": METRIC,
    "my_figure": FIGURE, "my_tracker": TRACKER, "my_sweeper": SWEEPER,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plug-ins: seven files, and the yamls of those that have one."""
    root = tmp_path_factory.mktemp("plugins")
    for name, code in FILES.items():
        (root / f"{name}.py").write_text(code)
    for name, content in YAMLS.items():
        path = root / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def command(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resnet_exp", "experiment=quickstart", *arguments],
        cwd=where,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def run_dir(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with one of each kind, and what it printed."""
    where = tmp_path_factory.mktemp("run")
    done = command(
        where, f"plugins={folder}", "model=mine", "model.hidden=12", "scheduler=halving", "~scheduler.peak_epoch",
        "scheduler.max_lr=0.05", "augmentation=upside_down", "tracker=notes",
        "metrics=[my_metric.recall]", "report=none", "report.curves=true", "report.html=true",
        "report.extra=[my_figure.draw_labels]", "data.limit_train=120", "~model.width", "train.epochs=2",
        "train.batch_size=60",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (path for path in (where / "outputs").iterdir() if path.name.startswith("quickstart-"))
    return run, done.stdout


def test_a_model_a_scheduler_and_an_augmentation_make_the_run(run_dir: tuple[Path, str]) -> None:
    run, printed = run_dir
    assert re.search(r"model +mine hidden=12", printed)
    assert re.search(r"augmentation +upside_down really=true", printed)
    assert re.search(r"training +2 epochs, batch 60, halving", printed)
    lrs = [float(row["lr"]) for row in csv.DictReader((run / "steps.csv").open())]
    assert lrs == [0.05, 0.05, 0.025, 0.025]
    assert "_target_: my_augmentation.UpsideDown" in (run / "config.yaml").read_text()


def test_a_metric_shows_everywhere(run_dir: tuple[Path, str]) -> None:
    """One file; no other line says its name."""
    run, printed = run_dir
    history = metric_history(run / "journal.jsonl")
    each_epoch = [value for _, value, _ in history["recall/val"]]
    assert len(each_epoch) == 2
    (header,) = (line for line in printed.splitlines() if "train loss" in line)
    assert "val recall" in header
    assert f"{each_epoch[0]:.2%}" in printed
    result = json.loads((run / "result.json").read_text())
    assert [epoch["recall/val"] for epoch in result["history"]] == each_epoch
    assert result["test"]["recall"] == history["recall/test"][0][1]
    assert f"{result['test']['recall']:.2%} macro recall" in printed
    rows = list(csv.DictReader((run / "report" / "curves.csv").open()))
    assert [float(row["recall/val"]) for row in rows] == each_epoch
    assert "macro recall" in (run / "report" / "curves.svg").read_text()
    assert "macro recall" in (run / "report" / "report.html").read_text()
    assert json.loads((run / "notes.json").read_text())["recall/val"] == each_epoch[-1]


def test_top5_accuracy_shows_everywhere_where_there_are_more_than_ten_classes(folder: Path, tmp_path: Path) -> None:
    done = command(
        tmp_path, f"plugins={folder}", "data=twelve", "model.width=4", "train.epochs=2", "scheduler.peak_epoch=1",
        "scheduler.max_lr=0.05", "tracker=csv", "report=none", "report.curves=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (path for path in (tmp_path / "outputs").iterdir() if path.name.startswith("quickstart-"))
    assert re.search(r"val acc +val top5", done.stdout)
    assert re.search(r"also measured +[\d.]+% top-5 accuracy, [\d.]+% calibration error \(ECE\)", done.stdout)
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["accuracy"] <= result["test"]["top5_accuracy"] <= 1
    measured = [epoch["top5_accuracy/val"] for epoch in result["history"]]
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["top5_accuracy/val"]]
    assert [float(row["top5_accuracy/val"]) for row in rows] == measured
    assert "top-5 accuracy" in (run / "report" / "curves.svg").read_text()


def test_a_figure_is_a_section_of_the_report(run_dir: tuple[Path, str]) -> None:
    run, _ = run_dir
    assert (run / "report" / "mine.png").stat().st_size > 1000
    assert "My own figure" in (run / "report" / "report.html").read_text()
    assert "My own figure" in (run / "report" / "report.json").read_text()


def test_a_tracker_has_what_was_recorded_and_says_where(run_dir: tuple[Path, str]) -> None:
    run, printed = run_dir
    notes = json.loads((run / "notes.json").read_text())
    assert notes["accuracy/test"] == json.loads((run / "result.json").read_text())["test"]["accuracy"]
    assert "my notes: notes.json" in printed


def test_a_sweeper_runs_a_sweep(folder: Path, tmp_path: Path) -> None:
    done = command(
        tmp_path, "--multirun", f"plugins={folder}", "hydra/sweeper=backwards", "scheduler.peak_epoch=1,2", *TINY,
        "tracker=none", "report=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (root,) = (path for path in (tmp_path / "multirun").iterdir() if path.is_dir())
    jobs = Ledger(root).jobs()
    assert [job.point["scheduler.peak_epoch"] for job in jobs] == ["2", "1"]
    assert {job.status for job in jobs} == {"finished"}
    assert "peak_epoch=2" in (root / "leaderboard.csv").read_text()
    assert "peak_epoch=2" in (root / "sweep.html").read_text()


def test_a_kind_takes_as_many_files_as_contributing_says() -> None:
    """The table's rows name what is to be written: one file, or one and its yaml, and nothing of ours to edit."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("## Where do I add") : text.index("## Habits")]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| a")]
    kinds = {row[0].strip() for row in rows}
    assert kinds >= {
        "a model",
        "a scheduler",
        "an augmentation",
        "a metric",
        "a figure of the report",
        "a tracker",
        "a sweeper",
    }
    for row in rows:
        assert len(re.findall(r"`[^`]*\.py`", row[1])) == 1, row[0]
        assert row[1].count(".yaml") <= 1, row[0]
