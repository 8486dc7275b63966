"""What every tracker in conf/ fulfils, what `tracker=csv` writes, and how a tracker of one's own is added."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from hydra import compose, initialize_config_dir

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import flat, typed
from resnet_exp.interfaces import Mirror, Tracker
from resnet_exp.run_dir.journal import Journal, last_status, metric_history, read
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import run as way
from resnet_exp.runs.evaluate import evaluate_checkpoint
from resnet_exp.tracking.csv_files import CsvTracker
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.tracking.thread_work import ThreadWork
from tests.test_plugin_folders import ROOT, command
from tests.test_run import GIVEN, config_of, newest

TRACKERS = sorted(path.stem for path in (CONF / "tracker").glob("*.yaml"))
INCOMPLETE = "the same command again"
# A run whose process is gone at once, without a word, when it has recorded its second epoch.
KILLED = """
import os, sys
from resnet_exp.run_dir.journal import Journal
from resnet_exp.runs import run as way
from tests.test_run import config_of
record = Journal.metrics
def metrics(self, values, step):
    record(self, values, step)
    if step == 2:
        os._exit(9)
Journal.metrics = metrics
way.run(config_of(*sys.argv[1:]), "command")
"""
METHODS = ("begin", "wait_until_started", "sync", "export_model", "end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that the tests share: a store that a tracker creates there takes seconds."""
    return tmp_path_factory.mktemp("trackers")


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


@pytest.fixture(params=TRACKERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tracker(name: str) -> Tracker:
    return build.tracker_of(yaml.safe_load((CONF / "tracker" / f"{name}.yaml").read_text()), ())


def fill(journal: Journal) -> None:
    """One of everything that a journal holds."""
    root = journal.path.parent
    journal.params({"train.epochs": 2, "name": None, "optimizer.betas": [0.9, 0.99]})
    journal.tags({"command": "python -m resnet_exp", "git_commit": "c0ffee", "description": "running", "parent": root})
    journal.dataset(name="digits", digest="d", context="train", num_rows=5, class_names=("0", "1"))
    journal.metrics({"loss": 0.5, "odd": math.nan}, 1)
    journal.metrics({"loss": 0.25}, 2)
    journal.rewind(1)
    journal.metrics({"loss": 0.125}, 2)
    for file in ("a.png", "a.json"):
        (root / file).write_text('{"columns": ["x"], "data": [[1]]}')
    journal.artifact("a.json")
    journal.image("a.png", "a")
    journal.table("a.json")
    journal.event("environment", device="CPU")


def left_in(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def end(mirror: Mirror) -> Sequence[str]:
    """The lines of a mirror that was begun and ended."""
    mirror.begin()
    return mirror.end()


# Every tracker


def test_a_mirror_takes_all_that_a_journal_holds_and_a_second_replay_changes_nothing(
    tracker: Tracker, paths: RunPaths
) -> None:
    mirror = tracker.open(paths.root, "peak_epoch=2")
    with Journal(paths.journal) as journal:
        journal.status("RUNNING")
        mirror.begin()
        mirror.wait_until_started(20)
        fill(journal)
        mirror.sync()
        journal.status("FINISHED")
    lines = mirror.end()
    assert all(isinstance(line, str) for line in lines)
    assert INCOMPLETE not in str(lines)
    before = left_in(paths.root)
    for _ in range(2):
        assert end(tracker.open(paths.root, "peak_epoch=2")) == lines
        assert left_in(paths.root) == before


def test_a_mirror_may_begin_and_end_with_nothing_in_between(tracker: Tracker, paths: RunPaths) -> None:
    Journal(paths.journal).close()
    assert INCOMPLETE not in str(end(tracker.open(paths.root, "")))
    tracker.open(paths.root, "").end()


def test_a_tracker_opens_nothing_until_a_run_begins(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(f"tracker={name}")
    build.plugins(config).tracker.open(tmp_path / "run", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_run_is_complete_when_it_is_done_again(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"tracker={name}", GIVEN, f"output_dir={tmp_path}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], env=environment, timeout=120)
    assert killed.returncode == 9
    paths = newest(tmp_path)
    assert last_status(paths.journal) == "RUNNING"
    for _ in range(2):  # goes on, and then finds it finished
        way.run(config_of(*given), "command")
        assert last_status(paths.journal) == "FINISHED"
        assert INCOMPLETE not in capsys.readouterr().out


# A tracker that fails


class Broken(Mirror):
    """A mirror of which one method, or each, raises."""

    def __init__(self, *methods: str) -> None:
        for method in methods:
            setattr(self, method, self._fail)

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("no way to http://me:SECRET@host")


class BrokenTracker:
    def __init__(self, *methods: str) -> None:
        self._methods = methods

    def open(self, run_dir: Path, label: str) -> Mirror:
        if "open" in self._methods:
            raise RuntimeError("no way to http://me:SECRET@host")
        return Broken(*self._methods)


@pytest.mark.parametrize("method", ["open", *METHODS])
def test_what_a_tracker_raises_is_one_warning(method: str, paths: RunPaths, caplog: pytest.LogCaptureFixture) -> None:
    mirror = open_mirror(BrokenTracker(method), paths)
    for _ in range(2):
        mirror.begin()
        mirror.wait_until_started(1)
        mirror.sync()
        assert mirror.export_model(None, (1, 8, 8)) is None  # type: ignore[arg-type]
    assert INCOMPLETE in mirror.end()[-1]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "BrokenTracker has failed (RuntimeError: no way to http://me:***@host)" in warning


class Hanging(Mirror):
    """A mirror whose end never returns, or takes long and gets on."""

    def __init__(self, steps: int | None) -> None:
        self._steps, self._done = steps, 0

    def end(self) -> Sequence[str]:
        while self._steps is None or self._done < self._steps:
            time.sleep(0.1)
            self._done += 1
        return ["done"]

    def progress(self) -> object:
        return None if self._steps is None else self._done


class HangingTracker:
    def __init__(self, steps: int | None = None) -> None:
        self._steps = steps

    def open(self, run_dir: Path, label: str) -> Mirror:
        return Hanging(self._steps)


def test_an_end_that_hangs_is_given_up_and_the_runs_of_a_sweep_do_not_each_wait_for_it(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 1.0)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    start = time.monotonic()
    for _ in range(5):
        assert INCOMPLETE in end(open_mirror(HangingTracker(), paths))[-1]
    assert time.monotonic() - start < 4
    assert "it has not ended within 5 s" in caplog.text


def test_an_end_that_is_slow_and_gets_on_is_waited_for(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 1.0)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    assert end(open_mirror(HangingTracker(steps=25), paths)) == ["done"]


class Computing(Mirror):
    """A mirror whose end takes long and says so by its work alone."""

    def __init__(self, seconds: float) -> None:
        self._end, self._work = time.monotonic() + seconds, ThreadWork()

    def end(self) -> Sequence[str]:
        self._work.begin()
        while time.monotonic() < self._end:
            pass
        return ["done"]

    def work(self) -> object:
        return self._work.count()


class ComputingTracker:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def open(self, run_dir: Path, label: str) -> Mirror:
        return Computing(self._seconds)


def test_an_end_that_computes_is_waited_for(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 1.0)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    assert end(open_mirror(ComputingTracker(2.5), paths)) == ["done"]


def test_work_is_what_a_thread_computes_and_not_what_it_waits_for() -> None:
    work, stop = ThreadWork(), threading.Event()
    state = {"computes": False}

    def now_and_then() -> None:
        work.begin()
        while not stop.is_set():
            if not state["computes"]:
                time.sleep(0.05)

    thread = threading.Thread(target=now_and_then)
    thread.start()
    time.sleep(0.3)
    before = work.count()
    for _ in range(30):
        time.sleep(0.05)
        assert work.count() == before
    state["computes"] = True
    end = time.monotonic() + 30
    while work.count() == before and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert work.count() > before
    for _ in range(3):
        assert work.count() >= before  # of a thread that has ended


def test_a_run_survives_a_tracker_that_always_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_exp.tracking.none.NoTracker.open", lambda *_: Broken(*METHODS))
    assert way.run(config_of(GIVEN, f"output_dir={tmp_path}"), "command") is not None
    assert last_status(newest(tmp_path).journal) == "FINISHED"
    assert "NoTracker has failed and may lack some of this run" in capsys.readouterr().out


# The CSV tracker


def table(paths: RunPaths) -> pandas.DataFrame:
    return pandas.read_csv(paths.root / "metrics.csv", index_col="step")


def test_pandas_reads_a_row_a_step_and_a_column_a_metric(paths: RunPaths) -> None:
    with Journal(paths.journal) as journal:
        journal.params({"train.epochs": 3, "name": None, "model.width": 8.5, "plugins": ["a", "b"], "flip": True})
        journal.metrics({"loss/train": 1.5, "lr": math.inf}, 2)
        journal.metrics({"loss/train": 0.1 + 0.2, "lr": math.nan}, 1)
        journal.metrics({"accuracy/test": 0.75}, 0)
        journal.params({"train.epochs": 4})  # of a run that goes on: a run's parameters do not change
    lines = end(CsvTracker().open(paths.root, ""))
    read_back = table(paths)
    assert list(read_back.index) == [0, 1, 2]
    assert list(read_back.columns) == ["accuracy/test", "loss/train", "lr"]
    assert read_back["loss/train"].dropna().to_dict() == pytest.approx({1: 0.1 + 0.2, 2: 1.5}, rel=1e-12)
    assert read_back["lr"][2] == math.inf and math.isnan(read_back["lr"][1])
    assert (paths.root / "metrics.csv").read_text().splitlines()[1:3] == ["0,0.75,,", "1,,0.30000000000000004,nan"]
    assert str(paths.root / "metrics.csv") in lines[1]
    params = pandas.read_json(paths.root / "params.json", typ="series")
    assert params.to_dict() == {
        "train.epochs": 3, "name": None, "model.width": 8.5, "plugins": ["a", "b"], "flip": True,
    }  # fmt: skip


def test_steps_done_again_are_there_once_and_rewound_ones_are_gone(paths: RunPaths) -> None:
    with Journal(paths.journal) as journal:
        for step in (1, 2, 3):
            journal.metrics({"loss": 1 / step}, step)
        journal.rewind(1)
        journal.metrics({"loss": 9.0}, 2)
    end(CsvTracker().open(paths.root, ""))
    assert table(paths)["loss"].to_dict() == {1: 1.0, 2: 9.0}


def test_a_run_without_metrics_has_an_empty_table(paths: RunPaths) -> None:
    Journal(paths.journal).close()
    end(CsvTracker().open(paths.root, ""))
    assert table(paths).empty
    assert json.loads((paths.root / "params.json").read_text()) == {}


def test_writing_takes_a_small_share_of_a_long_run(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that takes 2 s to write is not written at each of many steps."""
    clock = Clock()
    monkeypatch.setattr("resnet_exp.tracking.csv_files.time", clock)
    written: list[float] = []

    def write(*_: Any) -> None:
        clock.now += 2.0
        written.append(clock.now)

    monkeypatch.setattr("resnet_exp.tracking.csv_files.write_csv", write)
    with Journal(paths.journal) as journal:
        mirror = CsvTracker().open(paths.root, "")
        mirror.begin()
        for step in range(1000):
            journal.metrics({"loss": 1.0}, step)
            mirror.sync()
            clock.now += 1.0
        assert 5 < len(written) < 20
        mirror.end()
        assert written[-1] > clock.now - 1


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("task", ["train", "range_test", "evaluate"])
def test_each_task_leaves_its_metrics_and_params(
    task: str, trained: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if task == "train":
        paths = trained
    elif task == "range_test":
        way.run(config_of("tracker=csv", "task=range_test", f"output_dir={tmp_path}"), "command")
        paths = newest(tmp_path)
    else:
        given = ["task=evaluate", f"checkpoint={trained.root}", "data=digits", "data.image_size=8", "tracker=csv",
                 "report=none", f"output_dir={tmp_path}"]  # fmt: skip
        with initialize_config_dir(str(CONF)):
            config = typed(compose("config", overrides=given), given)
        evaluate_checkpoint(config, "command")
        paths = newest(tmp_path)
    history = metric_history(paths.journal)
    assert history
    read_back = table(paths)
    assert set(read_back.columns) == history.keys()
    for key, points in history.items():
        expected = {step: value for step, value, _ in points}
        assert read_back[key].dropna().to_dict() == pytest.approx(expected, rel=1e-12)
    params = json.loads((paths.root / "params.json").read_text())
    assert params["task"] == task
    tree = flat(yaml.safe_load(paths.config.read_text()))
    assert params == {key: value for key, value in tree.items() if not key.startswith(("report.", "sweep."))}
    if task != "train":
        assert f"pandas.read_csv('{paths.root / 'metrics.csv'}')" in capsys.readouterr().out.replace("\n", "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    folder = tmp_path_factory.mktemp("trained")
    way.run(config_of("tracker=csv", GIVEN, f"output_dir={folder}"), "command")
    return newest(folder)


@pytest.mark.slow
def test_a_sweep_and_its_jobs_have_their_tables(tmp_path: Path) -> None:
    plain = ("experiment=quickstart", "data.limit_train=200", "train.epochs=2", "scheduler.max_lr=0.05")
    done = command(tmp_path, "--multirun", *plain, "scheduler.peak_epoch=1,2", "tracker=csv")
    assert done.returncode == 0, done.stderr
    (root,) = [path for path in (tmp_path / "multirun").iterdir() if path.is_dir()]
    assert str(root / "metrics.csv") in done.stdout
    assert set(table(RunPaths(root))["objective"].dropna().index) == {1, 2}
    assert json.loads((root / "params.json").read_text())["sweep.scheduler.peak_epoch"] == "1,2"
    jobs = list((tmp_path / "outputs").glob("*/metrics.csv"))
    assert len(jobs) == 2
    parents = [record["values"].get("parent") for job in jobs for record in read(RunPaths(job.parent).journal)
               if record["kind"] == "tags"]  # fmt: skip
    assert str(root) in parents
    assert not list(tmp_path.rglob("mlflow*"))


# A tracker of one's own

OWN = '''
"""Prints the losses of a run."""
from resnet_exp.interfaces import ConfigError, Mirror
from resnet_exp.run_dir.journal import metric_history

class Printer:
    def __init__(self, word: str = "losses", api_key: str | None = None) -> None:
        if word == "bad":
            raise ConfigError("tracker.word=bad: another word is needed")
        self.word, self.api_key = word, api_key

    def open(self, run_dir, label):
        return Printed(run_dir, self.word, self.api_key)

class Printed(Mirror):
    def __init__(self, run_dir, word, api_key):
        self.run_dir, self.word = run_dir, word
        print("opened with the key", api_key[::-1])

    def end(self):
        losses = metric_history(self.run_dir / "journal.jsonl")["loss/train"]
        return [f"{self.word}: {len(losses)} of them"]
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own" / "conf" / "tracker").mkdir(parents=True)
    (tmp_path / "own" / "printer.py").write_text(OWN)
    (tmp_path / "own" / "conf" / "tracker" / "printed.yaml").write_text(
        "# Mine.\n_target_: printer.Printer\nword: losses\napi_key: null\n"
    )
    return tmp_path / "own"


QUICK = (
    "experiment=quickstart", "data.limit_train=100", "train.epochs=2", "scheduler.peak_epoch=1",
    "scheduler.max_lr=0.05", "report=none",
)  # fmt: skip


def test_a_tracker_is_added_by_one_file_and_one_yaml(own: Path, tmp_path: Path) -> None:
    """Its secret is used, and recorded nowhere."""
    given = (f"plugins={own}", "tracker=printed", "tracker.word=LOSSES", "tracker.api_key=SECRET")
    done = command(tmp_path, *QUICK, *given)
    assert done.returncode == 0, done.stderr
    assert "  LOSSES: 2 of them\n" in done.stdout
    assert "opened with the key TERCES" in done.stdout
    (run,) = (tmp_path / "outputs").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["tracker"] == {
        "_target_": "printer.Printer", "word": "LOSSES", "api_key": "***",
    }  # fmt: skip
    assert not [file for file, content in left_in(run).items() if b"SECRET" in content]
    assert b"tracker.api_key=***" in (run / "result.json").read_bytes()
    assert "SECRET" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracker.word=bad", "tracker.word=bad: another word is needed"),
        ("tracker.word=[1]", "tracker.word=[1]: a text is needed"),
        ("+tracker.uri=sqlite:///a.db", "tracker.uri would be ignored: the tracker that is chosen"),
        ("tracker._target_=os.system", "tracker._target_=os.system: a name in resnet_exp.tracking or printer is"),
    ],
)
def test_its_settings_are_refused_before_torch_is_imported(
    override: str, message: str, own: Path, tmp_path: Path
) -> None:
    done = command(tmp_path, *QUICK, f"plugins={own}", "tracker=printed", override, heavy=True)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
    assert " torch\n" not in done.stderr
    assert not (tmp_path / "outputs").exists()
