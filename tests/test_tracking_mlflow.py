"""The MLflow mirror says what the journal says, whatever happened on the way."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from resnet_exp.config.redact import redact
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.journal import Journal, metric_history, read
from resnet_exp.run_dir.lock import locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mirror import open_mirror
from resnet_exp.tracking.mlflow import MlflowMirror, MlflowTracker
from resnet_exp.tracking.mlflow_state import LOCK, MirrorState, has_arrived
from resnet_exp.tracking.mlflow_store import (
    absolute_uri,
    import_mlflow,
    open_store,
    redact_text,
    run_link,
    turns_and_migration,
    ui_command,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Forks runs from a process that has imported MLflow, kills each at a random moment, and lets the last one finish.
KILLER = """
import os, random, sys, time
from pathlib import Path
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.run_dir.journal import Journal, read
from resnet_exp.tracking.mlflow import MlflowMirror, import_mlflow
import_mlflow()
root, uri, kills, points = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), 400
paths = RunPaths(root)

def run():
    with Journal(paths.journal) as journal:
        done = [r["step"] for r in read(paths.journal) if r["kind"] == "metrics"]
        tracker = MlflowMirror(paths, uri=uri, experiment="kills", run_name="run")
        journal.status("RUNNING")
        tracker.begin()
        first = max(0, (done[-1] if done else 0) // 50 * 50)
        journal.rewind(first - 1)
        for step in range(first, points):
            journal.metrics({"loss": 1 / (step + 1), "accuracy/train": step / points}, step)
            if step % 50 == 49:
                tracker.sync()
            time.sleep(0.004)
        journal.status("FINISHED")
        tracker.end()
        assert tracker.link

random.seed(kills)
for attempt in range(kills + 1):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    if attempt < kills:
        time.sleep(random.uniform(0.05, 2.5) if attempt else 1.0)  # the first dies while the database is created
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
assert status == 0, status
"""

CREATOR = """
import sys
from pathlib import Path
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.run_dir.journal import Journal
from resnet_exp.tracking.mlflow import MlflowMirror, import_mlflow
import_mlflow()
print("ready", flush=True)
sys.stdin.readline()
paths = RunPaths(Path(sys.argv[1]))
with Journal(paths.journal) as journal:
    journal.status("RUNNING")
    tracker = MlflowMirror(paths, uri=sys.argv[2], experiment="fresh", run_name="run")
    tracker.begin()
    journal.metrics({"loss": 0.5}, 0)
    journal.status("FINISHED")
    tracker.end()
    assert tracker.link
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sqlite store for the tests that do not need a fresh one: creating it takes 2 s."""
    return f"sqlite:///{tmp_path_factory.mktemp('a store')}/mlflow.db"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def tracker_of(paths: RunPaths, uri: str, **options: Any) -> MlflowMirror:
    return MlflowMirror(paths, uri=uri, experiment="tests", run_name="a run", **options)


def mirror(paths: RunPaths, uri: str) -> str | None:
    tracker = tracker_of(paths, uri)
    tracker.begin()
    tracker.end()
    return tracker.link


def state_of(paths: RunPaths) -> dict[str, Any]:
    return json.loads((paths.root / "mlflow.json").read_text())


def client_of(uri: str) -> MlflowClient:
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(uri)


def run_of(paths: RunPaths, uri: str) -> Run:
    """The one MLflow run of a run directory."""
    state = state_of(paths)
    found = client_of(uri).search_runs(
        [state["experiment_id"]], f"tags.`resnet_exp.mirror_id` = '{state['mirror_id']}'"
    )
    assert len(found) == 1
    assert found[0].info.run_id == state["run_id"]
    return found[0]


def mlflow_points(paths: RunPaths, uri: str) -> dict[str, list[tuple[int, str, int]]]:
    run = run_of(paths, uri)
    history = {key: client_of(uri).get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: sorted((m.step, repr(m.value), m.timestamp) for m in points) for key, points in history.items()}


def journal_points(paths: RunPaths) -> dict[str, list[tuple[int, str, int]]]:
    """The journal's points as MLflow stores them: infinities are the greatest floats to it."""

    def stored(value: float) -> float:
        return math.copysign(sys.float_info.max, value) if math.isinf(value) else value

    history = metric_history(paths.journal)
    return {key: [(step, repr(stored(v)), t) for step, v, t in points] for key, points in history.items()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_mlflow_has_what_the_journal_has_and_a_second_replay_adds_nothing(paths: RunPaths, store: str) -> None:
    tracker = tracker_of(paths, store)
    with Journal(paths.journal) as journal:
        journal.status("RUNNING")
        tracker.begin()
        journal.params({f"group.key{i}": "v" * (7000 if i == 0 else i) for i in range(150)})
        journal.tags({"description": "93.1 %", "git_commit": "c0ffee"})
        for context in ("train", "val", "test"):
            journal.dataset(name="digits", digest="d" * 40, context=context, num_rows=9, class_names=["0", "1"])
        for step in range(130):  # more points than one call takes
            journal.metrics({f"m{i}": step / (i + 1) for i in range(9)}, step)
        journal.metrics({"odd/nan": math.nan, "odd/inf": math.inf, "odd/-inf": -math.inf}, 2)
        paths.report.mkdir()
        (paths.report / "report.html").write_text("report")
        journal.artifact(paths.report, folder="report")
        journal.artifact(paths.journal.name)
        tracker.sync()
        journal.status("FINISHED")
    assert tracker.end() == ("look at it in MLflow:", f"  {ui_command(store)}", f"  {tracker.link}")
    link = tracker.link
    for _ in range(2):
        run = run_of(paths, store)
        assert link == run_link(store, run.info.experiment_id, run.info.run_id)
        assert mlflow_points(paths, store) == journal_points(paths)
        assert len(run.data.params) == 150
        assert run.data.params["group.key7"] == "v" * 7
        assert run.data.tags["mlflow.note.content"] == "93.1 %"
        assert run.data.tags["git_commit"] == run.data.tags["mlflow.source.git.commit"] == "c0ffee"
        assert run.data.tags["mlflow.source.name"] == "resnet_exp"
        assert (run.info.status, run.info.run_name) == ("FINISHED", "a run")
        assert run.info.end_time == read(paths.journal)[-1]["time_ms"]
        assert run.info.start_time == read(paths.journal)[0]["time_ms"]
        splits = {i.dataset.name: i.tags[0].value for i in run.inputs.dataset_inputs}
        assert splits == {"digits-train": "train", "digits-val": "val", "digits-test": "test"}
        client = client_of(store)
        assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"journal.jsonl", "report"}
        assert [f.path for f in client.list_artifacts(run.info.run_id, "report")] == ["report/report.html"]
        state = state_of(paths)
        (paths.root / "mlflow.json").write_text(json.dumps({**state, "cursor": 0, "run_id": None}))
        assert mirror(paths, store) == link


def test_an_image_and_a_table_are_there_once_and_as_drawn_last(paths: RunPaths, store: str) -> None:
    """However often they are replayed; the page shows those, and only those, whose names it can read."""
    paths.report.mkdir(parents=True)
    image, table = paths.report / "wrong.png", paths.report / "examples.json"
    for word in ("first", "second"):
        image.write_bytes(f"{word} image".encode())
        table.write_text(json.dumps({"columns": ["image", "taken for"], "data": [[7, word]]}))
        with Journal(paths.journal) as journal:
            journal.image(image, "predictions/wrong")
            journal.image(image, "predictions/wrong", step=3)
            journal.table(table)
            journal.status("FINISHED")
        assert mirror(paths, store)
        (paths.root / "mlflow.json").write_text(json.dumps({**state_of(paths), "cursor": 0}))
        assert mirror(paths, store)
        run, client = run_of(paths, store), client_of(store)

        shown = [Path(file.path) for file in client.list_artifacts(run.info.run_id, "images")]
        assert [parsed(path.stem) for path in shown] == [
            ("predictions/wrong", 0, True), ("predictions/wrong", 0, False),
            ("predictions/wrong", 3, True), ("predictions/wrong", 3, False),
        ]  # fmt: skip
        for path in shown:
            assert Path(client.download_artifacts(run.info.run_id, str(path))).read_text() == f"{word} image"
        assert run.data.tags["mlflow.loggedImages"] == "True"

        assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
            {"path": "report/examples.json", "type": "table"}
        ]
        import mlflow

        mlflow.set_tracking_uri(store)  # `load_table` looks for runs there, whatever the client
        loaded = client.load_table(run.info.experiment_id, "report/examples.json", [run.info.run_id])
        assert loaded.to_dict("list") == {"image": [7], "taken for": [word]}


def parsed(stem: str) -> tuple[str, int, bool]:
    """Key, step, and whether it is the small one, as MLflow's page reads them from an image's name."""
    key, step_word, step, time_word, time_ms, _, *small = stem.split("+")
    assert (step_word, time_word, small) in (("step", "timestamp", []), ("step", "timestamp", ["compressed"]))
    int(time_ms)
    return key.replace("~", "/"), int(step), bool(small)


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_is_the_journal_s(paths: RunPaths, store: str, status: str) -> None:
    with Journal(paths.journal) as journal:
        journal.status("RUNNING")
        journal.status(status, reason=None if status == "FINISHED" else "a reason")
    assert mirror(paths, store)
    run = run_of(paths, store)
    assert run.info.status == status
    assert run.data.tags.get("resnet_exp.reason") == (None if status == "FINISHED" else "a reason")


def test_a_run_is_running_while_it_runs_and_again_when_it_is_resumed(paths: RunPaths, store: str) -> None:
    with Journal(paths.journal) as journal:
        journal.status("FAILED", reason="no power")
        assert mirror(paths, store)
        journal.status("RUNNING")
        tracker = tracker_of(paths, store)
        tracker.begin()
        deadline = time.monotonic() + 10
        while run_of(paths, store).info.status != "RUNNING":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tracker.end()  # without a word on how it ended
        assert tracker.link
    run = run_of(paths, store)
    assert run.info.status == "FAILED"
    assert run.data.tags["resnet_exp.reason"] == ""


def test_an_epoch_done_again_is_one_point_a_step_whatever_its_value(
    paths: RunPaths, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(paths.journal) as journal:
        for step in range(3):
            journal.metrics({"same": 0.5, "other": 0.5, "perf/epoch_s": 0.5}, step)
        journal.status("KILLED")
        assert mirror(paths, store)
        journal.rewind(1)
        time.sleep(0.005)
        journal.params({"workers": 4})
        journal.params({"workers": 8})  # MLflow's parameters never change: it would refuse, and the mirror stick
        journal.metrics({"same": 0.5, "perf/epoch_s": 0.75}, 2)
        assert mirror(paths, store) and not caplog.records
        journal.rewind(1)
        journal.metrics({"same": 0.5, "other": 0.75, "perf/epoch_s": 0.625}, 2)
        journal.metrics({"best": 0.5}, 0)
        journal.metrics({"best": 0.625}, 0)  # not done again: said anew, as of a sweep
        journal.status("FINISHED")
    for _ in range(2):
        assert mirror(paths, store)
        points = mlflow_points(paths, store)
        assert points["same"] == journal_points(paths)["same"]
        for key in ("other", "perf/epoch_s"):
            assert [p[:2] for p in points[key]] == [(0, "0.5"), (1, "0.5"), (2, "0.5")]
        assert [p[:2] for p in points["best"]] == [(0, "0.5"), (0, "0.625")]
        assert run_of(paths, store).data.metrics["best"] == 0.625
        assert run_of(paths, store).data.params == {"workers": "4"}
        (paths.root / "mlflow.json").write_text(json.dumps({**state_of(paths), "cursor": 0, "run_id": None}))
    assert "other of step 2, and maybe more, is another one than when the step was done first" in caplog.text
    assert "perf/epoch_s" not in caplog.text


def test_points_that_a_power_cut_took_from_the_journal_are_there_once_when_they_are_back(
    paths: RunPaths, store: str
) -> None:
    """The checkpoint has them still; they come back with other times, and others of the clock may not."""
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 0.5, "perf/epoch_s": 1.0, "odd": math.inf}, 1)
        journal.status("RUNNING")
        size = paths.journal.stat().st_size
        for step in (2, 3):
            journal.metrics({"loss": 0.5 / step, "perf/epoch_s": float(step), "odd": math.inf}, step)
        assert mirror(paths, store)
    first = mlflow_points(paths, store)
    os.truncate(paths.journal, size)
    time.sleep(0.005)
    with Journal(paths.journal) as journal:
        journal.tags({"description": "so long that the journal is longer than before" * 9})
        for step in (2, 3):
            journal.metrics({"loss": 0.5 / step, "perf/epoch_s": 9.0, "odd": math.inf}, step)
        journal.metrics({"loss": 0.125}, 4)
        journal.status("FINISHED")
    for _ in range(2):
        assert mirror(paths, store)
        points = mlflow_points(paths, store)
        assert {key: [p for p in some if p[0] < 4] for key, some in points.items()} == first
        assert [p[:2] for p in points["loss"]][-1] == (4, "0.125")


def test_a_state_that_is_lost_or_damaged_makes_no_second_run(paths: RunPaths, store: str) -> None:
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 0.5}, 1)
        journal.status("FINISHED")
    assert mirror(paths, store)
    first, state = mlflow_points(paths, store), paths.root / "mlflow.json"
    run_id = state_of(paths)["run_id"]
    for damage in (
        None,
        b"",
        b"{",
        b"\0" * 200,
        b"[]",
        b"{}",
        b'{"uri": 1}',
        b'{"cursor": "x", "mirror_id": 7, "uri": ""}',
    ):
        state.unlink() if damage is None else state.write_bytes(damage)
        assert mirror(paths, store)
        assert state_of(paths)["run_id"] == run_id
    assert mlflow_points(paths, store) == first


@pytest.mark.parametrize("kind", ["artifact", "model", "image", "table"])
def test_a_record_that_leads_out_of_the_run_directory_has_nothing_read(
    kind: str, paths: RunPaths, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a journal that somebody else wrote may say; the files of its own beside them arrive."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("SECRET")
    with Journal(paths.journal) as journal:
        (paths.root / "link").symlink_to(tmp_path / "secret")
        (paths.root / "mine").mkdir()
        (paths.root / "mine" / "own.txt").write_text("own")
        (paths.root / "mine" / "other.txt").symlink_to(tmp_path / "secret" / "key.txt")
        os.mkfifo(paths.root / "mine" / "pipe")
        outside = ("../secret/key.txt", "../secret", f"{tmp_path}/secret/key.txt", "link", "link/key.txt", "mine/pipe")
        for path in outside:
            journal._append(kind, path=path, folder="", key="k", step=0)
        journal._append("artifact", path="mine", folder="../..")
        journal.artifact("mine", folder="mine")
        journal.status("FINISHED")
    assert mirror(paths, store)
    assert caplog.text.count("not mirrored") == len(outside) + 1
    client, run = client_of(store), run_of(paths, store)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["mine"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "mine")] == ["mine/own.txt"]


def test_a_metric_that_mlflow_refuses_holds_up_no_others(
    paths: RunPaths, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(paths.journal) as journal:
        journal.metrics({"fine": 1.0, "what?!": 2.0, "fine too": 3.0}, 0)
        journal.artifact("gone.txt")
        journal.status("FINISHED")
    assert mirror(paths, store)
    assert run_of(paths, store).data.metrics == {"fine": 1.0, "fine too": 3.0}
    assert "what?!" in caplog.text
    assert "gone.txt" in caplog.text


def test_a_run_deleted_in_mlflow_is_mirrored_anew(paths: RunPaths, store: str) -> None:
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 1.0}, 0)
        journal.status("FINISHED")
    assert mirror(paths, store)
    client_of(store).delete_run(state_of(paths)["run_id"])
    assert mirror(paths, store)
    assert mlflow_points(paths, store) == journal_points(paths)


def test_an_outage_is_one_warning_and_a_later_replay_completes_the_run(
    paths: RunPaths, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    import_mlflow()
    caplog.set_level(logging.WARNING)
    tracker = tracker_of(paths, f"http://bob:hunter2@127.0.0.1:{closed_port()}")
    with Journal(paths.journal) as journal:
        start = time.monotonic()
        tracker.begin()
        for step in range(5):
            journal.metrics({"loss": 1 / (step + 1)}, step)
            tracker.sync()
        assert time.monotonic() - start < 1  # training does not wait
        journal.status("FINISHED")
        assert "same command again" in tracker.end()[-1]
        assert tracker.link is None
        assert time.monotonic() - start < 15
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "same command again completes it" in warnings[0]
    assert "hunter2" not in caplog.text
    assert mirror(paths, store)
    assert mlflow_points(paths, store) == journal_points(paths)
    assert run_of(paths, store).info.status == "FINISHED"


@pytest.mark.parametrize("make", ["file", "folder", "port"])
def test_a_store_that_cannot_be_is_a_warning_and_stops_no_other_store(
    paths: RunPaths, tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture, make: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("this is no database")
    bad = f"postgresql+psycopg://127.0.0.1:{closed_port()}/x" if make == "port" else f"sqlite:///{tmp_path / make}"
    Journal(paths.journal).close()
    start = time.monotonic()
    tracker = tracker_of(paths, bad)
    tracker.begin()
    tracker.end()
    assert tracker.link is None
    assert time.monotonic() - start < 15
    assert "same command again completes it" in caplog.text
    assert mirror(paths, store)
    if make == "folder":
        assert mirror(paths, f"sqlite:///{tmp_path}/fresh.db")
    assert time.monotonic() - start < 30


def check_kills(paths: RunPaths, tmp_path: Path, kills: int) -> None:
    uri = f"sqlite:///{tmp_path}/db/mlflow.db"
    subprocess.run([sys.executable, "-c", KILLER, str(paths.root), uri, str(kills)], check=True, timeout=240)
    points = mlflow_points(paths, uri)
    assert points == journal_points(paths)
    assert [p[0] for p in points["loss"]] == list(range(400))
    assert run_of(paths, uri).info.status == "FINISHED"
    assert len(client_of(uri).search_runs([state_of(paths)["experiment_id"]])) == 1


def test_a_killed_run_is_the_same_run_and_exact(paths: RunPaths, tmp_path: Path) -> None:
    check_kills(paths, tmp_path, kills=3)


@pytest.mark.slow
def test_a_run_killed_ten_times_is_the_same_run_and_exact(paths: RunPaths, tmp_path: Path) -> None:
    check_kills(paths, tmp_path, kills=10)


@pytest.mark.slow
def test_six_processes_create_one_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/sub/mlflow.db"
    roots = [tmp_path / f"run{i}" for i in range(6)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([sys.executable, "-c", CREATOR, str(root), uri], stdin=pipe, stdout=pipe, stderr=pipe)
        for root in roots
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:  # all have imported MLflow: now they race
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    for root in roots:
        assert mlflow_points(RunPaths(root), uri) == journal_points(RunPaths(root))
    client = client_of(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "fresh"]
    assert len(client.search_runs([experiment.experiment_id])) == 6
    assert experiment.artifact_location == (tmp_path / "sub" / "mlartifacts").as_uri()


def test_mlflow_is_imported_late_and_does_not_phone_home() -> None:
    code = (
        "import sys; import resnet_exp.tracking.mlflow as ours; assert 'mlflow' not in sys.modules\n"
        "ours.import_mlflow(); from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DO_NOT_TRACK", "CI"))}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept, timeout=60)


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("postgresql+psycopg://bob:p%40ss@db:5432/mlflow", "postgresql+psycopg://bob:***@db:5432/mlflow"),
        ("https://bob:p@ss@host/x", "https://bob:***@host/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("postgresql://db/x?user=bob&password=p&sslmode=on", "postgresql://db/x?user=bob&password=***&sslmode=on"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/m.db", "sqlite:////data/m.db"),
    ],
)
def test_passwords_are_redacted(uri: str, safe: str) -> None:
    assert redact(uri) == safe
    assert redact_text(f"cannot reach {uri}", uri) == f"cannot reach {safe}"


def test_the_run_directory_holds_no_password(tmp_path: Path) -> None:
    state = MirrorState.load(tmp_path / "mlflow.json", "https://bob:hunter2@host", "1")
    state.save(tmp_path / "mlflow.json")
    assert "hunter2" not in (tmp_path / "mlflow.json").read_text()
    assert MirrorState.load(tmp_path / "mlflow.json", "https://bob:hunter2@host", "1") == state
    elsewhere = MirrorState.load(tmp_path / "mlflow.json", "https://other", "1")
    assert (elsewhere.mirror_id, elsewhere.cursor, elsewhere.run_id) == (state.mirror_id, 0, None)


def test_an_error_that_quotes_the_bare_password_is_redacted() -> None:
    assert redact_text("bad login bob / p@ss", "postgresql://bob:p%40ss@db/mlflow") == "bad login bob / ***"


def test_the_ui_command_and_the_link_open_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ui_command("sqlite:///mlflow.db")
    assert f"--backend-store-uri {absolute_uri('sqlite:///mlflow.db')} " in command
    assert str(tmp_path) in command
    assert "--workers 1" in command
    local = "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    assert run_link("sqlite:///mlflow.db", "3", "abc") == local
    remote = "https://host:8/ml/#/experiments/3/runs/abc?workflowType=machine_learning"
    assert run_link("https://bob:p@host:8/ml/", "3", "abc") == remote


def test_a_model_that_does_not_fit_is_told_with_path_and_room_and_leaves_nothing(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch import nn

    def refuse(file: int, start: int, size: int) -> None:
        assert size > 4 * 4 * 300
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    paths.root.mkdir()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 300))
    assert tracker_of(paths, "sqlite:///none.db").export_model(network, (1, 4, 4)) is None
    (line,) = (record.getMessage() for record in caplog.records)
    assert str(paths.root) in line and "needed" in line and "task=report" in line and "\n" not in line
    assert list(paths.root.iterdir()) == []


def test_the_network_comes_back_without_pickle_and_as_one_model_of_the_run(
    paths: RunPaths, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch import nn

    from resnet_exp.tracking.mlflow_model import export_network

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    network(torch.randn(16, 3, 12, 12))  # statistics that are not the initial ones
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folder = export_network(network, (3, 12, 12), paths.root / "model")
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not [f for f in folder.rglob("*") if f.suffix in {".pkl", ".pickle", ".pth", ".pt"}]
    with Journal(paths.journal) as journal:
        journal.model(folder)
        journal.status("FINISHED")
    assert mirror(paths, store)
    (paths.root / "mlflow.json").write_text(json.dumps({**state_of(paths), "cursor": 0}))
    assert mirror(paths, store)

    run = run_of(paths, store)
    (model,) = run.outputs.model_outputs
    assert client_of(store).get_logged_model(model.model_id).status == "READY"
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(store)  # as a user does; each test that needs one sets its own
    network.eval()
    for where in (f"runs:/{run.info.run_id}/model", f"models:/{model.model_id}"):
        loaded = mlflow.pytorch.load_model(where)
        for size in (1, 7):
            images = torch.randn(size, 3, 12, 12)
            with torch.no_grad():
                torch.testing.assert_close(loaded(images), network(images), rtol=0, atol=1e-6)
                strided = images.to(memory_format=torch.channels_last)
                torch.testing.assert_close(loaded(strided), network(images), rtol=0, atol=1e-6)
    predict_by_pyfunc(f"models:/{model.model_id}", network)


def predict_by_pyfunc(model: str, network: Any) -> None:
    """Arrays as MLflow's generic flavor takes them, and lists as its server does, give what the network gives."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import convert_input_example_to_serving_input, validate_serving_input

    loaded = mlflow.pyfunc.load_model(model)
    for size in (1, 7):
        images = np.random.default_rng(size).standard_normal((size, 3, 12, 12), dtype=np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(loaded.predict(images), expected, rtol=0, atol=1e-6)
        for key in ("inputs", "instances"):
            with pytest.warns(FutureWarning):  # MLflow would start another process to check it
                served = validate_serving_input(model, json.dumps({key: images.tolist()}))
            np.testing.assert_allclose(served, expected, rtol=0, atol=1e-6)
    with pytest.warns(FutureWarning):
        example = validate_serving_input(model, convert_input_example_to_serving_input(loaded.input_example))
    assert np.asarray(example).shape == (2, 5)
    with pytest.raises(mlflow.MlflowException, match="dtype of input float64 does not match expected dtype float32"):
        loaded.predict(images.astype(np.float64))
    with pytest.raises(mlflow.MlflowException, match="does not match expected shape"):
        loaded.predict(images[..., :5])


def test_a_job_is_nested_under_its_sweeps_run_in_the_same_store_only(tmp_path: Path, store: str) -> None:
    """The journal names the sweep's directory; which MLflow run that is, MLflow's tracker looks up."""
    sweep, elsewhere = RunPaths(tmp_path / "sweep"), RunPaths(tmp_path / "elsewhere")
    with Journal(sweep.journal) as journal:
        journal.status("FINISHED")
    assert mirror(sweep, store)
    elsewhere.root.mkdir()
    (elsewhere.root / "mlflow.json").write_text(json.dumps({**state_of(sweep), "uri": "sqlite:////other.db"}))
    for parent, expected in ((sweep, state_of(sweep)["run_id"]), (elsewhere, None), (RunPaths(tmp_path / "no"), None)):
        job = RunPaths(tmp_path / f"job of {parent.root.name}")
        with Journal(job.journal) as journal:
            journal.tags({"parent": parent.root, "device": "CPU"})
            journal.status("FINISHED")
        assert mirror(job, store)
        tags = run_of(job, store).data.tags
        assert tags.get("mlflow.parentRunId") == expected
        assert tags["device"] == "CPU"
        assert "parent" not in tags


def test_a_journal_of_before_with_mlflows_own_names_still_replays(paths: RunPaths, store: str) -> None:
    with Journal(paths.journal) as journal:
        journal.tags({"mlflow.note.content": "93.1 %", "mlflow.parentRunId": "abc", "mlflow.source.name": "resnet_exp"})
        journal.params({"train.epochs": "24"})
        journal.status("FINISHED")
    assert mirror(paths, store)
    run = run_of(paths, store)
    assert run.data.tags["mlflow.note.content"] == "93.1 %"
    assert run.data.tags["mlflow.parentRunId"] == "abc"
    assert run.data.params == {"train.epochs": "24"}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        *((uri, "in memory is gone when the command ends") for uri in (
            "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:", "sqlite:///?timeout=3",
            "sqlite:///file::memory:?cache=shared&uri=true", "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        )),
        ("sqlite://data/m.db", "three slashes are needed"),
        ("sqlite:///m.db?timeout=3", "options after a ? would be ignored"),
        ("sqlite+aiosqlite:///m.db", "a driver or options"),
        ("sqlite:///a folder", "that is a folder; a file in it is needed, such as sqlite:///"),
        ("sqlite:///a file", "a file is no sqlite database"),
        ("sqlite:///a file/m.db", "a file is a file, not a folder"),
        ("sqlite:///a%2Fb?/m.db", "with %3F for a ? in it"),
        ("sqlite:///a%41b/m.db", "/aAb/m.db; sqlite:////"),
        ("sqlite:///a%ffb/m.db", "bytes that are not UTF-8"),
        ("sqlite:///a\udce9/m.db", "MLflow cannot name "),
        (f"sqlite:///{'long' * 99}.db", "File name too long"),
        ("sqlite:m.db", "sqlite:///FILE.db, postgresql"),
        ("http://", "sqlite:///FILE.db, postgresql"),
        ("https://host:99999", "http(s)://HOST:PORT is needed"),
    ],
)  # fmt: skip
def test_a_store_that_could_never_be_written_is_refused_beforehand(
    uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a%41b").mkdir()
    (tmp_path / "a file").write_text("this is no database")
    with pytest.raises(ConfigError) as caught:
        MlflowTracker(uri)
    assert str(caught.value).startswith(f"tracker.uri={uri}: ")
    assert said in str(caught.value)


def test_a_store_in_a_folder_that_may_not_be_written_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the folders that are there already; those below them are created."""
    MlflowTracker(f"sqlite:///{tmp_path}/new/folder/m.db")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match="nothing can be written in "):
        MlflowTracker(f"sqlite:///{tmp_path}/new/folder/m.db")


@pytest.mark.parametrize("name", ["m.db", "a b/m.db", "a'b.db", "a#b&;.db", "数据/m.db", "new/m.db"])
def test_a_store_may_lie_in_a_folder_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri(MlflowTracker(f"sqlite:///{name}").uri) == f"sqlite:///{tmp_path}/{name}"
    assert MlflowTracker(f"sqlite:///{tmp_path}/{name}").uri == f"sqlite:///{tmp_path}/{name}"


@pytest.mark.parametrize("name", ["a%20b", "a?b=c#d", "100%", "a'b;c\"d", "数据 \\", "%25?%3F"])
def test_a_store_works_in_a_working_directory_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """And nothing is made beside it. A database that is there already saves the seconds of a new one."""
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    shutil.copy(store.removeprefix("sqlite:///"), "mlflow.db")
    uri, paths = MlflowTracker().uri, RunPaths(tmp_path / name / "run")
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 0.5}, 1)
        (paths.root / "file.txt").write_text("text")
        journal.artifact("file.txt")
        journal.status("FINISHED")
    tracker = MlflowMirror(paths, uri=uri, experiment=f"of {name}", run_name="a run")
    tracker.begin()
    tracker.end()
    assert tracker.link and has_arrived(paths, absolute_uri(uri))
    assert absolute_uri(absolute_uri(uri)) == absolute_uri(uri)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name).iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlartifacts", "run"}
    client, run = client_of(absolute_uri(uri)), run_of(paths, absolute_uri(uri))
    assert Path(client.download_artifacts(run.info.run_id, "file.txt")).read_text() == "text"
    (stored,) = (tmp_path / name / "mlartifacts").rglob("file.txt")
    assert stored.read_text() == "text"


def test_a_percent_sign_in_an_address_is_a_byte_as_mlflow_reads_it(tmp_path: Path) -> None:
    assert absolute_uri(f"sqlite:///{tmp_path}/a%20b/m.db") == f"sqlite:///{tmp_path}/a b/m.db"
    assert absolute_uri(f"sqlite:///{tmp_path}/a%2520b.db") == f"sqlite+pysqlite:///{tmp_path}/a%2520b.db"
    MlflowTracker(f"sqlite:///{tmp_path}/a%20b/m.db")


def test_waiting_until_a_run_is_there_ends_with_it_or_with_the_first_failure(paths: RunPaths, store: str) -> None:
    Journal(paths.journal).close()
    for uri in (store, f"http://127.0.0.1:{closed_port()}"):
        tracker = tracker_of(paths, uri)
        tracker.begin()
        start = time.monotonic()
        tracker.wait_until_started(60)
        assert time.monotonic() - start < 30
        assert (paths.root / "mlflow.json").exists()
        tracker.end()


def test_names_of_any_bytes_and_long_values_are_recorded_as_far_as_mlflow_shows_them(
    paths: RunPaths, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A class folder whose name is not UTF-8, an emoji in a run's name, NUL, and more than MLflow's limits."""
    paths.report.mkdir(parents=True)
    for name in ("caf\udce9 😀 %41 #;&.txt", "plain.txt"):
        (paths.report / name).write_text(name[-5:])
    with Journal(paths.journal) as journal:
        journal.status("RUNNING")
        journal.params({"data.root": "x/caf\udce9\0", "long": "é" * 9000, "lone": "\ud800"})
        journal.tags({"description": "caf\udce9\0" + "x" * 9000, "command": "--\udcff"})
        journal.dataset(name="caf\udce9", digest="d", context="train", num_rows=9, class_names=["caf\udce9", "😀"])
        journal.metrics({"loss": 0.5}, 0)
        journal.artifact(paths.report, folder="report")
        journal.status("FAILED", reason="caf\udce9\0")
    tracker = MlflowMirror(paths, uri=store, experiment="tests", run_name="caf\udce9 😀")
    tracker.begin()
    tracker.end()
    assert tracker.link and not caplog.records
    run = run_of(paths, store)
    assert run.info.run_name == "caf\N{REPLACEMENT CHARACTER} 😀"
    assert run.data.params == {
        "data.root": "x/caf" + 2 * "\N{REPLACEMENT CHARACTER}", "long": "é" * 6000, "lone": "\N{REPLACEMENT CHARACTER}",
    }  # fmt: skip
    assert run.data.tags["mlflow.note.content"].startswith("caf" + 2 * "\N{REPLACEMENT CHARACTER}" + "x")
    assert run.data.tags["command"] == "--\N{REPLACEMENT CHARACTER}"
    assert run.data.tags["resnet_exp.reason"] == "caf" + 2 * "\N{REPLACEMENT CHARACTER}"
    assert run.data.metrics == {"loss": 0.5}
    (split,) = run.inputs.dataset_inputs
    assert json.loads(split.dataset.profile)["classes"] == ["caf\N{REPLACEMENT CHARACTER}", "😀"]
    assert len(client_of(store).list_artifacts(run.info.run_id, "report")) == 2


@pytest.mark.slow
def test_mlflows_own_server_gives_what_the_network_gives(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from torch import nn

    from resnet_exp.tracking.mlflow_model import export_network

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    folder = export_network(network, (3, 12, 12), tmp_path / "model")
    images = np.random.default_rng(0).standard_normal((7, 3, 12, 12), dtype=np.float32)
    port = closed_port()
    address = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", str(folder), "--env-manager",
               "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not answers(f"{address}/ping"):
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
            body = json.dumps({"inputs": images.tolist()}).encode()
            asked = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                predictions = json.load(answer)["predictions"]
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # a session of its own: the server and its worker
            server.wait(30)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(predictions, expected, rtol=0, atol=1e-5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


# The runs of a sweep


@dataclass
class Sweep:
    """A sweep's directory with runs of its own and of others, without any training."""

    root: Path
    store: str
    experiment: str = "tests"

    def command(self, *runs: RunPaths, **changes: str) -> str | None:
        """Mirrors the sweep as a command does at its end; returns its address."""
        for name, value in changes.items():
            setattr(self, name, value)
        with Journal(RunPaths(self.root).journal) as journal:
            journal.status("RUNNING")
            if runs:
                journal.children({run.root: f"peak={run.root.name[-1]}" for run in runs})
            journal.status("FINISHED")
        tracker = MlflowMirror(RunPaths(self.root), uri=self.store, experiment=self.experiment, run_name="sweep")
        tracker.begin()
        tracker.end()
        return tracker.link

    def client(self) -> MlflowClient:
        return client_of(self.store)

    @property
    def run_id(self) -> str:
        return state_of(RunPaths(self.root))["run_id"]

    def shown(self) -> dict[str, Run]:
        """The runs beneath the sweep's own run, by name; a name that is there twice fails."""
        experiment = self.client().get_experiment_by_name(self.experiment).experiment_id
        found = self.client().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{self.run_id}'")
        assert len({run.info.run_name for run in found}) == len(found)
        return {run.info.run_name: run for run in found}


def a_run(folder: Path, name: str, sweep: Sweep | None = None, status: str = "FINISHED") -> RunPaths:
    """The directory of a run that was a job of this sweep, not mirrored yet."""
    paths = RunPaths(folder / name)
    with Journal(paths.journal) as journal:
        journal.params({"train.epochs": 2})
        journal.tags({"description": f"result of {name}\n\n`command`"} | ({"parent": sweep.root} if sweep else {}))
        journal.metrics({"loss": 0.5}, 1)
        journal.metrics({"loss": 0.25}, 2)
        (paths.root / "file.txt").write_text("text")
        journal.artifact("file.txt")
        journal.status(status)
    return paths


@pytest.fixture
def sweep(tmp_path: Path, store: str) -> Sweep:
    return Sweep(tmp_path / "multirun" / "one", store)


def test_a_run_that_was_mirrored_before_its_sweep_was_is_beneath_it_at_the_end(tmp_path: Path, sweep: Sweep) -> None:
    """As where the store was busy when the sweep began."""
    runs = [a_run(tmp_path, f"run {n}", sweep) for n in (1, 2)]
    assert mirror(runs[0], sweep.store)
    assert "mlflow.parentRunId" not in run_of(runs[0], sweep.store).data.tags
    assert sweep.command(*runs) == run_link(sweep.store, state_of(runs[0])["experiment_id"], sweep.run_id)
    shown = sweep.shown()
    assert {run.info.run_id for run in shown.values()} == {state_of(run)["run_id"] for run in runs}
    assert shown["peak=2 run 2"].info.status == "FINISHED"  # it had not been mirrored at all


@pytest.mark.parametrize("hard", [False, True])
def test_a_sweep_deleted_in_mlflow_has_its_runs_again_with_the_same_command(
    tmp_path: Path, sweep: Sweep, hard: bool
) -> None:
    runs = [a_run(tmp_path, f"run {n}", sweep) for n in (1, 2)]
    sweep.command(*runs)
    before, old = set(sweep.shown()), sweep.run_id
    own = {state_of(run)["run_id"] for run in runs}
    delete(sweep.store, old, hard)
    delete(sweep.store, state_of(runs[1])["run_id"], hard)
    sweep.command()
    assert sweep.run_id != old
    assert set(sweep.shown()) == before
    kept = {run.info.run_id for run in sweep.shown().values()}
    assert len(kept & own) == 1 and len(kept) == 2
    sweep.command()
    assert {run.info.run_id for run in sweep.shown().values()} == kept


def delete(store: str, run_id: str, hard: bool) -> None:
    client_of(store).delete_run(run_id)
    if hard:  # as `mlflow gc` does
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(store, "unused")._hard_delete_run(run_id)


@pytest.mark.parametrize("hard", [False, True])
def test_a_run_deleted_in_mlflow_is_beneath_its_sweep_again(tmp_path: Path, sweep: Sweep, hard: bool) -> None:
    runs = [a_run(tmp_path, f"run {n}", sweep) for n in (1, 2)]
    sweep.command(*runs)
    delete(sweep.store, state_of(runs[0])["run_id"], hard)
    assert set(sweep.shown()) == {"peak=2 run 2"}
    sweep.command()
    assert set(sweep.shown()) == {"peak=1 run 1", "peak=2 run 2"}
    assert run_of(runs[0], sweep.store).data.metrics == {"loss": 0.25}


def test_a_run_that_two_sweeps_use_is_beneath_both_and_its_files_are_there_once(tmp_path: Path, sweep: Sweep) -> None:
    other = Sweep(tmp_path / "multirun" / "two", sweep.store)
    both, own = a_run(tmp_path, "run 1", sweep), a_run(tmp_path, "run 2", other)
    sweep.command(both)
    for _ in range(2):
        other.command(both, own)
        sweep.command(both)
        assert set(other.shown()) == {"peak=1 run 1", "peak=2 run 2"}
        (first,), copy = sweep.shown().values(), other.shown()["peak=1 run 1"]
        assert first.info.run_id == state_of(both)["run_id"] == copy.data.tags["resnet_exp.copy_of"]
        assert (copy.data.metrics, copy.data.params) == (first.data.metrics, first.data.params)
        assert (copy.info.status, copy.info.start_time) == ("FINISHED", first.info.start_time)
        note = copy.data.tags["mlflow.note.content"]
        assert note.startswith(first.data.tags["mlflow.note.content"])
        assert f"/runs/{first.info.run_id}?workflowType=machine_learning)" in note
        client = sweep.client()
        one, same = (client.get_metric_history(run.info.run_id, "loss") for run in (first, copy))
        assert [(p.step, p.value, p.timestamp) for p in one] == [(p.step, p.value, p.timestamp) for p in same]
        assert len(client.list_artifacts(first.info.run_id)) == 1 and not client.list_artifacts(copy.info.run_id)
        with Journal(both.journal) as journal:  # the report is drawn again, such as
            journal.tags({"description": "drawn again"})
        assert mirror(both, sweep.store)


def test_a_run_that_stood_alone_moves_beneath_the_first_sweep_that_uses_it(tmp_path: Path, sweep: Sweep) -> None:
    alone = a_run(tmp_path, "run 1")
    assert mirror(alone, sweep.store)
    sweep.command(alone)
    (run,) = sweep.shown().values()
    assert run.info.run_id == state_of(alone)["run_id"]


def test_a_run_whose_other_sweep_was_deleted_in_mlflow_needs_no_copy(tmp_path: Path, sweep: Sweep) -> None:
    other = Sweep(tmp_path / "multirun" / "two", sweep.store)
    both = a_run(tmp_path, "run 1", sweep)
    sweep.command(both)
    delete(sweep.store, sweep.run_id, hard=False)
    other.command(both)
    assert [run.info.run_id for run in other.shown().values()] == [state_of(both)["run_id"]]
    sweep.command(both)  # and now it is shown again
    (copy,) = sweep.shown().values()
    assert copy.data.tags["resnet_exp.copy_of"] == state_of(both)["run_id"]


@pytest.mark.parametrize("change", ["experiment", "store"])
def test_another_experiment_or_store_shows_the_whole_sweep(
    tmp_path: Path, sweep: Sweep, change: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = [a_run(tmp_path, f"run {n}", sweep) for n in (1, 2)]
    sweep.command(*runs)
    first = (sweep.store, sweep.experiment, sweep.run_id)
    values = {"experiment": f"others {tmp_path.name}", "store": f"sqlite:///{tmp_path}/other.db"}
    link = sweep.command(**{change: values[change]})
    assert set(sweep.shown()) == {"peak=1 run 1", "peak=2 run 2"}
    assert link is not None and sweep.run_id in link and sweep.run_id != first[2]
    assert sweep.client().list_artifacts(state_of(runs[0])["run_id"])
    sweep.command(store=first[0], experiment=first[1])  # and back: nothing is there twice
    assert set(sweep.shown()) == {"peak=1 run 1", "peak=2 run 2"}
    assert sweep.run_id == first[2]


def test_a_run_shows_in_the_experiment_that_the_same_command_names_later(paths: RunPaths, store: str) -> None:
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 1.0}, 0)
        journal.status("FINISHED")
    assert mirror(paths, store)
    first = state_of(paths)
    tracker = MlflowMirror(paths, uri=store, experiment="later", run_name="a run")
    tracker.begin()
    tracker.end()
    experiment = client_of(store).get_experiment_by_name("later").experiment_id
    assert tracker.link == run_link(store, experiment, state_of(paths)["run_id"])
    assert run_of(paths, store).data.metrics == {"loss": 1.0}
    assert mirror(paths, store)
    assert state_of(paths) == first


def test_a_sweep_that_goes_on_brings_its_new_runs_beneath_it_as_they_end(tmp_path: Path, sweep: Sweep) -> None:
    runs = [a_run(tmp_path, f"run {n}") for n in (1, 2)]  # which do not know of the sweep
    sweep.command(runs[0])
    with Journal(RunPaths(sweep.root).journal) as journal:
        tracker = tracker_of(RunPaths(sweep.root), sweep.store)
        tracker.begin()
        journal.status("RUNNING")
        journal.children({runs[1].root: "peak=2"})
        tracker.sync()
        deadline = time.monotonic() + 20
        while len(sweep.shown()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        journal.status("KILLED", "interrupted")
        tracker.end()
    assert sweep.client().get_run(sweep.run_id).info.status == "KILLED"


def test_a_sweep_that_was_moved_with_its_runs_is_the_same_one(tmp_path: Path, sweep: Sweep) -> None:
    run = a_run(tmp_path / "multirun", "run 1", sweep)
    sweep.command(run)
    before = sweep.run_id, state_of(run)["run_id"]
    (tmp_path / "multirun").rename(tmp_path / "moved")
    sweep.root = tmp_path / "moved" / "one"
    moved = RunPaths(tmp_path / "moved" / "run 1")
    sweep.command(moved)
    assert (sweep.run_id, state_of(moved)["run_id"]) == before
    assert [one.info.run_id for one in sweep.shown().values()] == [before[1]]


def test_what_cannot_be_read_or_is_gone_holds_up_no_other_run(
    tmp_path: Path, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    broken, gone, good = (a_run(tmp_path, f"run {n}", sweep) for n in (1, 2, 3))
    broken.journal.write_text("no record\n")
    gone.journal.unlink()
    assert sweep.command(broken, gone, good)
    assert set(sweep.shown()) == {"peak=3 run 3"}
    assert "is not shown in MLflow" in caplog.text


def test_a_run_that_is_being_mirrored_is_left_to_whoever_does(tmp_path: Path, sweep: Sweep) -> None:
    run = a_run(tmp_path, "run 1", sweep)
    with locked(run.root / LOCK):
        sweep.command(run)
    assert not sweep.shown()
    sweep.command()
    assert set(sweep.shown()) == {"peak=1 run 1"}


@pytest.mark.slow
def test_a_store_that_another_process_locks_at_first_shows_the_sweep_in_the_end(tmp_path: Path, sweep: Sweep) -> None:
    """The sweep and its run find the database busy, and one of them ends before it is free."""
    sweep.store = f"sqlite:///{tmp_path}/busy.db"
    open_store(sweep.store, "tests")
    run = a_run(tmp_path, "run 1", sweep)
    with Journal(RunPaths(sweep.root).journal) as journal:
        journal.status("RUNNING")
        parent = tracker_of(RunPaths(sweep.root), sweep.store)
        with closing(sqlite3.connect(tmp_path / "busy.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            parent.begin()
            parent.wait_until_started(60)
            child = tracker_of(run, sweep.store)
            child.begin()
            child.give_up()
            assert child.link is None
        journal.children({run.root: "peak=1"})
        journal.status("FINISHED")
        parent.end()
    assert parent.link
    assert len(sweep.shown()) == 1


# --- A store that others open


@pytest.mark.parametrize("others_get_on", [True, False])
def test_a_store_that_others_open_one_after_another_is_waited_for_and_one_that_hangs_is_not(
    others_get_on: bool, paths: RunPaths, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(store, "tests")
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 0.8)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    lock, held = Path(f"{store.removeprefix('sqlite:///')}.lock"), threading.Event()

    def others() -> None:
        with locked(lock):
            held.set()
            for _ in range(20):
                time.sleep(0.1)
                if others_get_on:
                    os.utime(lock)

    waiting = threading.Thread(target=others)
    waiting.start()
    assert held.wait(30)
    with Journal(paths.journal) as journal:
        journal.status("FINISHED")
        mirror = open_mirror(MlflowTracker(store, "tests"), paths)
        mirror.begin()
        lines = str(mirror.end())
    waiting.join()
    assert ("the same command again" not in lines) == others_get_on


def test_an_opened_store_is_a_turn_and_a_migration_is_seen(tmp_path: Path) -> None:
    uri, seen, is_open = f"sqlite:///{tmp_path}/mlflow.db", set[str](), threading.Event()

    def watch() -> None:
        while not is_open.wait(0.05):
            seen.add(str(turns_and_migration(uri)))

    watching = threading.Thread(target=watch)
    watching.start()
    open_store(uri, "tests")
    is_open.set()
    watching.join()
    assert len(seen) > 5
    before = turns_and_migration(uri)
    time.sleep(0.05)
    open_store(uri, "tests")
    assert turns_and_migration(uri) != before


def test_work_is_believed_for_a_while_after_an_arrival_and_no_longer(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tracker_of(paths, "https://store.invalid")
    mirror._arrived = time.monotonic()
    assert mirror.work() is not None
    monkeypatch.setattr("resnet_exp.tracking.mlflow._LONGEST_WORK", -1.0)
    assert mirror.work() is None


# --- A slow link


class SlowLink:
    """A server that takes each file slowly, but steadily, and notes how long it took."""

    SECONDS = 0.02  # between two pieces
    PIECE = 64 * 1024

    def __init__(self) -> None:
        self.took = 0.0
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.PIECE)
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/files"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            with connection:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(1)
        (size,) = re.findall(rb"(?i)content-length: (\d+)", request)
        left, begun = int(size), time.monotonic()
        while left:
            time.sleep(self.SECONDS)
            left -= len(connection.recv(min(left, self.PIECE)))
        self.took = time.monotonic() - begun
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how far a file is sent is known on Linux alone")
def test_a_large_file_over_a_slow_link_is_waited_for_as_long_as_it_gets_on(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_exp.tracking.mirror.PATIENCE", 0.5)
    monkeypatch.setattr("resnet_exp.tracking.mirror._in_vain", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    link, paths = SlowLink(), RunPaths(tmp_path / "run")
    client_of(store).create_experiment("slow link", link.url)
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": 0.5}, 1)
        (paths.root / "large.bin").write_bytes(bytes(4_000_000))
        mirror = open_mirror(MlflowTracker(store, "slow link"), paths)
        mirror.begin()
        mirror.wait_until_started(60)
        journal.artifact("large.bin")
        journal.status("FINISHED")
        lines = mirror.end()
    assert link.took > 2 * 0.5  # else it would not have been given up anyway
    assert "the same command again" not in str(lines)
    assert mirror.is_complete()


# --- A project that was moved


def _artifact_paths(project: Path) -> set[str]:
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        (location,) = database.execute("SELECT artifact_location FROM experiments WHERE name = 'e'").fetchone()
        return {location, *(uri for (uri,) in database.execute("SELECT artifact_uri FROM runs"))}


def _logged(project: Path) -> str:
    """A run with an artifact in the project's store; its id."""
    client, _, experiment = open_store(f"sqlite:///{project}/mlflow.db", "e")
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "file.txt")
    return run


@pytest.mark.parametrize("how", ["moved", "copied", "the database alone"])
def test_files_stay_beside_a_store_that_is_moved_with_them(how: str, tmp_path: Path) -> None:
    old, new = tmp_path / "a project", tmp_path / "somewhere" / "else"
    first = _logged(old)
    if how == "the database alone":
        new.mkdir(parents=True)
        shutil.move(old / "mlflow.db", new)
    else:
        shutil.copytree(old, new)
        if how == "moved":
            shutil.rmtree(old)
    second = _logged(new)
    home = old if how == "the database alone" else new
    artifacts = (home / "mlartifacts").as_uri()
    assert _artifact_paths(new) == {artifacts, *(f"{artifacts}/{run}/artifacts" for run in (first, second))}
    client = open_store(f"sqlite:///{new}/mlflow.db", "e").client
    assert [client.list_artifacts(run)[0].path for run in (first, second)] == ["file.txt", "file.txt"]
    assert old.exists() == (how != "moved")
    if how == "copied":
        assert all(uri.startswith((old / "mlartifacts").as_uri()) for uri in _artifact_paths(old))
        assert not (old / "mlartifacts" / second).exists()
