"""Bug reports of MLflow, and of what logs to it, as small tests of what holds here; each names its source."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.journal import Journal
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow import MlflowMirror, MlflowTracker
from tests.test_tracking_mlflow import (
    Sweep,
    a_run,
    client_of,
    delete,
    mirror,
    mlflow_points,
    run_of,
    state_of,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


@pytest.fixture
def sweep(tmp_path: Path, store: str) -> Sweep:
    return Sweep(tmp_path / "sweep", store)


def test_children_of_a_deleted_parent_are_beneath_the_new_one(tmp_path: Path, sweep: Sweep) -> None:
    """mlflow/mlflow#3694: where a parent run is deleted, its children stay, and turn into runs of the top level."""
    run = a_run(tmp_path, "run 1", sweep)
    sweep.command(run)
    delete(sweep.store, sweep.run_id, hard=False)
    sweep.command()
    assert [one.info.run_id for one in sweep.shown().values()] == [state_of(run)["run_id"]]


def test_children_are_in_the_experiment_of_their_parent(tmp_path: Path, sweep: Sweep) -> None:
    """mlflow/mlflow#1109: a child can lie in another experiment than its parent, whose page does not show it then."""
    run = a_run(tmp_path, "run 1")
    assert mirror(run, sweep.store)
    sweep.command(run, experiment=f"of the parent {tmp_path.name}")
    experiment = sweep.client().get_run(sweep.run_id).info.experiment_id
    assert [one.info.experiment_id for one in sweep.shown().values()] == [experiment]


def test_a_run_of_the_environment_is_not_written_into(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlflow/mlflow#15713: with MLFLOW_RUN_ID set, a nested run overwrites the run that the variable names."""
    first = a_run(tmp_path, "run 1")
    assert mirror(first, sweep.store)
    monkeypatch.setenv("MLFLOW_RUN_ID", state_of(first)["run_id"])
    other = a_run(tmp_path, "run 2", sweep)
    sweep.command(other)
    assert state_of(other)["run_id"] != state_of(first)["run_id"]
    assert "result of run 1" in run_of(first, sweep.store).data.tags["mlflow.note.content"]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    """mlflow/mlflow#2569: sqlite in memory as the store ends the server without an error."""
    with pytest.raises(ConfigError, match="a database in memory is gone"):
        MlflowTracker(uri)


def test_a_long_parameter_is_cut_and_the_others_arrive(paths: RunPaths, store: str) -> None:
    """mlflow/mlflow#10512: one parameter above the limit, and nothing of the run is tracked."""
    with Journal(paths.journal) as journal:
        journal.params({"long": "x" * 7000, "short": 1})
        journal.metrics({"loss": 0.5}, 1)
        journal.status("FINISHED")
    assert mirror(paths, store)
    run = run_of(paths, store)
    assert run.data.params == {"long": "x" * 6000, "short": "1"}
    assert run.data.metrics == {"loss": 0.5}


def test_a_parameter_logged_again_with_another_value_keeps_its_first(paths: RunPaths, store: str) -> None:
    """mlflow/mlflow#7152: a run that goes on logs its parameters again, which MLflow refuses where one differs."""
    with Journal(paths.journal) as journal:
        journal.params({"workers": None})
        journal.params({"workers": 0, "shuffle": True})
        journal.status("FINISHED")
    assert mirror(paths, store)
    assert run_of(paths, store).data.params == {"workers": "None", "shuffle": "True"}


def test_a_model_arrives_where_a_metric_of_its_step_is_nan(paths: RunPaths, store: str) -> None:
    """mlflow/mlflow#26108: a model logged at a step that has a NaN metric fails on a UNIQUE constraint."""
    folder = paths.root / "mlflow_model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\nmodel_uuid: a\nutc_time_created: '2026-01-01 00:00:00'\n")
    with Journal(paths.journal) as journal:
        journal.metrics({"loss": math.nan, "up": math.inf}, 0)
        journal.model(folder)
        journal.status("FINISHED")
    for _ in range(2):
        assert mirror(paths, store)
        (model,) = run_of(paths, store).outputs.model_outputs
        assert client_of(store).get_logged_model(model.model_id).status == "READY"
        assert mlflow_points(paths, store)["loss"][0][1] == "nan"
        (paths.root / "mlflow.json").write_text(json.dumps({**state_of(paths), "cursor": 0}))


@pytest.fixture(params=[401, 403])
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that answers every request with this code."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(request.param)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://me:SECRET@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_server_that_refuses_the_user_is_one_warning(
    paths: RunPaths, refusing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """mlflow/mlflow#7795, mlflow/mlflow#11036: a server that answers 403 or 401 ends the training."""
    with Journal(paths.journal) as journal:
        tracker = MlflowMirror(paths, uri=refusing, experiment="tests", run_name="run")
        tracker.begin()
        journal.metrics({"loss": 0.5}, 1)
        journal.status("FINISHED")
        assert "the same command again completes it" in tracker.end()[-1]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("403" in warning or "401" in warning) and "SECRET" not in warning
