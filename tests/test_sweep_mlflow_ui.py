"""What people see of a sweep in MLflow's pages, looked at in a browser."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resnet_exp.sweeps.ledger import Ledger
from resnet_exp.tracking.mlflow_store import ui_command
from tests.browser import chromium_page
from tests.test_mlflow_ui import WAIT_MS, in_order, see, split, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Swept:
    """A sweep of four peaks, and the address of the server that shows it."""

    ledger: Ledger
    parent: str
    experiment: str
    address: str


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """The sweep, as a user runs it, and MLflow's server, as the user is told to start it."""
    folder = tmp_path_factory.mktemp("swept")
    plain = ["experiment=quickstart", "train.epochs=4", "data.limit_train=300", "device=cpu"]
    subprocess.run(
        [sys.executable, "-m", "resnet_exp", "--multirun", *plain, "scheduler.peak_epoch=1,2,3,4"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    (root,) = [path for path in (folder / "multirun").iterdir() if path.is_dir()]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables, command = split(ui_command(f"sqlite:///{folder}/mlflow.db", port))
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            state = json.loads((root / "mlflow.json").read_text())
            yield Swept(Ledger(root), state["run_id"], state["experiment_id"], f"http://127.0.0.1:{port}")
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # a session of its own: the server and its worker
            process.wait(30)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page(1500, 1000, "light") as opened:
        opened.set_default_timeout(WAIT_MS)
        yield opened


def visit(page: Page, swept: Swept, route: str) -> Page:
    page.goto("about:blank")
    page.goto(f"{swept.address}/#/experiments/{swept.experiment}/runs{route}?workflowType=machine_learning")
    return page


def test_the_parents_page_lists_its_jobs_and_says_which_was_best(page: Page, swept: Swept) -> None:
    best = max(swept.ledger.jobs(), key=lambda job: (job.objective, -job.number))
    text = see(visit(page, swept, f"/{swept.parent}"), "Child runs", f"best: {best.label}", "Finished")
    assert all(f"peak_epoch={peak} " in text for peak in (1, 2, 3, 4))


def test_the_parents_metrics_show_the_objective_over_the_peak_epoch(page: Page, swept: Swept) -> None:
    shown = visit(page, swept, f"/{swept.parent}/model-metrics")
    see(shown, "objective", "best_objective")
    lines = shown.locator("path.js-line")
    lines.first.wait_for()
    assert any(len(lines.nth(n).get_attribute("d").split("L")) == 4 for n in range(lines.count())), "four peaks"


def test_the_sweeps_page_opens_in_mlflow(page: Page, swept: Swept) -> None:
    frame = visit(page, swept, f"/{swept.parent}/artifacts/sweep.html").frame_locator("iframe").first
    frame.get_by_role("heading", name="Leaderboard").wait_for()
    assert frame.locator("img").evaluate_all("all => all.length > 0 && all.every(one => one.naturalWidth > 0)")


def test_the_runs_table_folds_the_jobs_under_their_parent(page: Page, swept: Swept) -> None:
    text = see(visit(page, swept, ""), f"sweep {swept.ledger.root.name}"[:12])
    assert "peak_epoch=2" not in text


def test_four_jobs_are_compared_by_what_differs(page: Page, swept: Swept) -> None:
    runs = [json.loads((Path(job.runs[0].root) / "mlflow.json").read_text())["run_id"] for job in swept.ledger.jobs()]
    page.goto("about:blank")
    page.goto(
        f"{swept.address}/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([swept.experiment])}"
        "&workflowType=machine_learning"
    )
    text = see(page, "Comparing 4 Runs from 1 Experiment", "scheduler.peak_epoch", "accuracy/best_val")
    assert in_order(text, "Run Name", "peak_epoch=1", "peak_epoch=2", "peak_epoch=3", "peak_epoch=4")
