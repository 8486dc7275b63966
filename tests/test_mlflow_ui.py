"""What people see of runs in MLflow's pages: asked of the store, and, marked slow, looked at in a browser."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hydra import compose, initialize_config_dir

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.interfaces import COMPARED_IMAGES
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import run as way
from resnet_exp.tracking.mlflow import MlflowMirror
from resnet_exp.tracking.mlflow_store import ui_command
from resnet_exp.tracking.mlflow_view import VIEW, VIEW_TAG
from tests.browser import chromium_page

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from playwright.sync_api import Page

TINY = (
    "data=digits", "data.image_size=8", "data.limit_train=600", "augmentation=crop", "augmentation.padding=1",
    "model.width=8", "train.epochs=4", "train.batch_size=32", "train.checkpoint_interval=0", "scheduler.peak_epoch=2",
    "report.gradcam=2", "report.receptive_field=4", "tracker=mlflow",
)  # fmt: skip
SECTIONS = ["accuracy", "ece", "loss", "lr", "perf"]  # and range_test, where there was one
WAIT_MS = 20_000


@dataclass(frozen=True)
class Shown:
    """Two runs of one experiment that differ in max_lr."""

    store: str
    experiment: Experiment
    runs: tuple[Run, Run]
    results: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Both runs with their reports, mirrored into a store of their own."""
    folder = tmp_path_factory.mktemp("shown")
    store = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowMirror, "export_model", lambda *_: None)  # seconds, and not looked at here
        made = [train(folder, store, max_lr) for max_lr in ("0.05", "0.2")]
    from mlflow import MlflowClient

    client = MlflowClient(store)
    states = [json.loads((paths.root / "mlflow.json").read_text()) for paths in made]
    first, second = (client.get_run(state["run_id"]) for state in states)
    results = [json.loads(paths.result.read_text()) for paths in made]
    return Shown(store, client.get_experiment(states[0]["experiment_id"]), (first, second), (results[0], results[1]))


def train(folder: Path, store: str, max_lr: str) -> RunPaths:
    given = [*TINY, f"scheduler.max_lr={max_lr}", f"output_dir={folder}/runs", f"tracker.uri={store}"]
    with initialize_config_dir(str(CONF)):
        config = typed(compose("config", overrides=given), given)
    way.run(config, f"python -m resnet_exp {' '.join(given)}")
    return RunPaths(max(folder.glob("runs/*/journal.jsonl"), key=lambda path: path.stat().st_mtime_ns).parent)


# Asked of the store


def test_the_description_begins_with_the_result_and_ends_with_the_command(shown: Shown) -> None:
    for run, result in zip(shown.runs, shown.results, strict=True):
        first, blank, last = run.data.tags["mlflow.note.content"].splitlines()
        assert first.startswith(f"{result['test']['accuracy']:.2%} test accuracy")
        assert blank == ""
        assert last == f"`{run.data.tags['command']}`"


def test_metrics_are_few_and_their_sections_stand_in_reading_order(shown: Shown) -> None:
    for run in shown.runs:
        assert len(run.data.metrics) <= 25
        assert list(dict.fromkeys(key.partition("/")[0] for key in sorted(run.data.metrics))) == SECTIONS
    assert sorted([*SECTIONS, "range_test"]) == [*SECTIONS, "range_test"]


def test_the_params_that_differ_are_those_given(shown: Shown) -> None:
    one, other = (run.data.params for run in shown.runs)
    assert {key for key in one if one[key] != other[key]} == {"scheduler.max_lr"}


def test_images_and_tables_have_the_same_names_in_both_runs(shown: Shown) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(shown.store)
    names = [[Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")] for run in shown.runs]
    assert names[0] == names[1]
    assert {name.partition("+")[0] for name in names[0]} == set(COMPARED_IMAGES)
    for run in shown.runs:
        assert run.data.tags["mlflow.loggedImages"] == "True"
        tables = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
        assert tables == {"report/class_accuracy.json", "report/examples.json"}


def test_the_saved_view_names_what_the_runs_have(shown: Shown) -> None:
    saved = json.loads(shown.experiment.tags[VIEW_TAG])
    state = json.loads(saved["state"])
    assert saved["name"] == VIEW
    run = shown.runs[0]
    known = {f"metrics.`{key}`" for key in run.data.metrics} | {f"params.`{key}`" for key in run.data.params}
    assert {*state["selectedColumns"], state["orderByKey"]} <= known | {"attributes.`Duration`"}
    charts = state["compareRunCharts"]
    assert {chart["metricKey"] for chart in charts if "metricKey" in chart} <= run.data.metrics.keys()
    grid = next(chart for chart in charts if len(chart.get("imageKeys", ())) > 1)
    assert set(grid["imageKeys"]) == set(COMPARED_IMAGES)
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts} == sections
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    assert len(shown.experiment.tags[VIEW_TAG]) < 20_000  # MLflow's limit


# Looked at in a browser


@pytest.fixture(scope="module")
def server(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server, as the user is told to start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables, command = split(ui_command(shown.store, port))
    with (tmp_path_factory.mktemp("server") / "log").open("w+") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # a session of its own: the server and its worker
            process.wait(30)


def split(shell: str) -> tuple[dict[str, str], list[str]]:
    """The variables and the words of a shell command that begins with assignments."""
    words = shlex.split(shell)
    assigned = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return assigned, [str(Path(sys.executable).with_name("mlflow")), *words[len(assigned) + 1 :]]


def wait_for(address: str, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tall page: MLflow draws what is in sight only."""
    with chromium_page(width=1500, height=3200) as page:
        page.set_default_timeout(WAIT_MS)
        yield page


@pytest.fixture
def visit(page: Page, server: str, shown: Shown) -> Callable[..., Page]:
    """Opens a route of the experiment, or another."""

    def go(route: str, **query: str) -> Page:
        query = {**query, "workflowType": "machine_learning"}  # the compare page wants `runs` first
        route = route.format(experiment=f"experiments/{shown.experiment.experiment_id}", run=shown.runs[0].info.run_id)
        page.goto("about:blank")  # else only the part after # changes, and the page is not loaded
        page.goto(f"{server}/#/{route}?{'&'.join(f'{key}={quote(value)}' for key, value in query.items())}")
        return page

    return go


def see(page: Page, *words: str) -> str:
    """Waits until all these words stand on the page; its text."""
    for word in words:
        page.get_by_text(word).first.wait_for()
    return page.inner_text("body")


def in_order(text: str, *words: str) -> bool:
    """Whether the text has these words one after the other."""
    return re.search(".*".join(map(re.escape, words)), text, re.DOTALL) is not None


@pytest.mark.slow
def test_the_run_s_page_shows_result_and_command(visit: Callable[..., Page], shown: Shown) -> None:
    accuracy = f"{shown.results[0]['test']['accuracy']:.2%} test accuracy"
    page = visit("{experiment}/runs/{run}")
    text = see(page, accuracy, "python -m resnet_exp", "Finished")
    assert in_order(text, "Description", accuracy, "python -m resnet_exp data=digits")
    assert page.locator("code", has_text="python -m resnet_exp").count() == 1, "the note is rendered as Markdown"


@pytest.mark.slow
def test_the_metrics_page_draws_accuracy_first(visit: Callable[..., Page]) -> None:
    page = visit("{experiment}/runs/{run}/model-metrics")
    text = see(page, "best_val", "images_per_s")
    assert in_order(text, *(f"\n{section}" for section in SECTIONS))
    page.locator(".js-plotly-plot .scatterlayer .js-line").first.wait_for(state="attached")
    lines = page.locator(".js-plotly-plot .scatterlayer .js-line")
    assert any(len(lines.nth(n).get_attribute("d").split("L")) == 4 for n in range(lines.count())), "four epochs"


@pytest.mark.slow
def test_the_artifacts_page_shows_report_figure_and_table(visit: Callable[..., Page], shown: Shown) -> None:
    accuracy = f"{shown.results[0]['test']['accuracy']:.2%} test accuracy"
    page = visit("{experiment}/runs/{run}/artifacts/report/report.html")
    report = page.frame_locator("iframe").first
    report.get_by_text(accuracy).first.wait_for()
    pictures = report.locator("img")
    assert pictures.count() > 5
    assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
    config, place = report.locator("#config"), "one => one.getBoundingClientRect().top"
    before = config.evaluate(place)
    report.locator("a[href='#config']").click()  # a link within the page works in the frame too
    assert config.evaluate(place) < before

    page = visit("{experiment}/runs/{run}/artifacts/report/examples.png")
    figure = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    figure.wait_for()
    assert figure.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100

    page = visit("{experiment}/runs/{run}/artifacts/report/class_accuracy.json")
    see(page, "View as table")
    assert page.get_by_text("correct", exact=True).count() >= 1


@pytest.mark.slow
def test_the_compare_page_shows_the_params_that_differ(visit: Callable[..., Page], shown: Shown) -> None:
    runs = json.dumps([run.info.run_id for run in shown.runs])
    page = visit("compare-runs", runs=runs, experiments=json.dumps([shown.experiment.experiment_id]))
    see(page, "Comparing 2 Runs from 1 Experiment", "train.epochs")
    page.get_by_role("switch").first.click()  # show differences only
    page.get_by_text("train.epochs", exact=True).first.wait_for(state="hidden")
    text = see(page, "scheduler.max_lr", "accuracy/best_val")
    assert "0.05" in text
    assert in_order(text, "Parameters", "scheduler.max_lr", "accuracy/best_val", "accuracy/test", "loss/test")


@pytest.mark.slow
def test_the_saved_view_shows_what_differs_then_accuracies_then_predictions(
    visit: Callable[..., Page], shown: Shown
) -> None:
    page = visit("{experiment}/runs", viewStateShareKey=VIEW, compareRunsMode="CHART")
    text = see(page, "what differs", "examples", "confusion_matrix", "loss/val")
    assert in_order(text, "what differs", "scheduler.max_lr", "accuracy/best_val", "predictions", "loss/val")
    assert "data.image_size" not in text, "no other parameters, above the images neither"
    for key in COMPARED_IMAGES:
        row = page.get_by_role("row").filter(has_text=re.compile(rf"^\s*{key}\s*$"))
        row.locator("img").nth(1).wait_for()
        assert row.locator("img").count() == 2, "one of each run"

    page = visit("{experiment}/runs", viewStateShareKey=VIEW)
    see(
        page, "accuracy/best_val", "scheduler.max_lr", *(f"{one['best_val_accuracy']:.4f}"[:5] for one in shown.results)
    )


@pytest.mark.slow
def test_a_table_is_compared_across_runs(visit: Callable[..., Page], shown: Shown) -> None:
    """A row for each value of the first column, and of each run the second."""
    page = visit("{experiment}/runs", compareRunsMode="ARTIFACT")
    text = see(page, "report/class_accuracy.json", "Group by:")
    assert in_order(
        text, "Group by:", "class", "Compare:", "accuracy", *(run.info.run_name for run in shown.runs[::-1])
    )
    zeros = (result["per_class"]["0"] for result in shown.results[::-1])
    accuracies = (f"{one['correct'] / one['count']:.6g}" for one in zeros)
    assert in_order(text, "\n".join(("", "0", *accuracies, "1", "")))
