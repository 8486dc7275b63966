"""The page of a sweep and its tables: what came out so far in one line, best first, whatever state the jobs are in."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from resnet_exp.report.section import Section
from resnet_exp.sweeps.leaderboard import COLUMNS
from resnet_exp.sweeps.ledger import Job, SeedRun
from resnet_exp.sweeps.report import optuna_figures
from resnet_exp.sweeps.report.page import draw_sweep
from tests.browser import chromium_page

PEAK, OPTIMIZER, FACTOR = "scheduler.peak_epoch", "optimizer", "scheduler.find_factor"
SETTINGS = {"task": "train", "data": {"validation": "holdout"}}


def job(
    number: int, point: dict[str, str], *objectives: float, status: str = "finished", reason=None, values=None
) -> Job:
    runs = tuple(
        SeedRun(seed, f"/runs/point{number}-{seed}", status, value, value - 0.01, 40.0)
        for seed, value in enumerate(objectives)
    )
    overrides = " ".join(f"{key}={value}" for key, value in point.items())
    command = f"python -m resnet_exp {overrides}"
    return Job(number, point, command, status, reason, runs=runs, values=values or {})


def grid() -> list[Job]:
    measured = {"1": (0.657, 0.663), "2": (0.703, 0.707), "3": (0.709, 0.715)}
    done = [job(n, {PEAK: peak}, *values) for n, (peak, values) in enumerate(measured.items())]
    failed = job(3, {PEAK: "9"}, status="failed", reason="scheduler.peak_epoch=9: must lie within 1..6")
    return [*done, failed, job(4, {PEAK: "5"}, status="running")]


def square() -> list[Job]:
    points = [{OPTIMIZER: name, PEAK: peak} for name in ("sgd", "adam") for peak in ("1", "2")]
    return [job(n, point, 0.6 + n / 100) for n, point in enumerate(points)]


def trials() -> list[Job]:
    values = [{PEAK: 1 + n * 5 % 12, FACTOR: 1 + (n * 7 % 12) / 3} for n in range(12)]
    return [
        job(n, {key: str(item) for key, item in value.items()}, 0.7 - value[PEAK] / 100, values=value)
        for n, value in enumerate(values)
    ]


def draw(folder: Path, jobs: list[Job], **more) -> tuple[Section, ...]:
    given = {"config": SETTINGS, "environment": {"device": "CPU"}, "seconds": 83.0, **more}
    return draw_sweep(folder, jobs, title="peak_epoch", command="python -m resnet_exp -m +sweep=peak_epoch", **given)


def headline(folder: Path) -> str:
    return (folder / "sweep.html").read_text().partition('<p class="headline">')[2].partition("</p>")[0]


def facts(folder: Path) -> dict[str, str]:
    parts = (folder / "sweep.html").read_text().split("<dt>")[1:]
    return {part.partition("</dt>")[0]: part.partition("<dd>")[2].partition("</dd>")[0] for part in parts}


def titles(sections: tuple[Section, ...]) -> list[str]:
    return [section.title for section in sections]


def one_seed(jobs: list[Job]) -> list[Job]:
    return [replace(one, runs=one.runs[:1]) for one in jobs]


def as_status(status: str) -> list[Job]:
    return [job(n, {PEAK: str(n)}, status=status) for n in range(4)]


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        (grid(), "peak_epoch=3: 71.20% ± 0.42% validation accuracy over 2 seeds, best of 3 points (1 failed, 1 left); "
                 "beyond noise against peak_epoch=2"),
        (one_seed(grid()[:3]), "peak_epoch=3: 70.90% validation accuracy, best of 3 points; "
                               "with one seed it may be noise against peak_epoch=2"),
        (grid()[:1], "peak_epoch=1: 66.00% ± 0.42% validation accuracy over 2 seeds, the only point that has finished"),
        (as_status("failed"), "No point has finished: 4 failed"),
        (as_status("interrupted"), "No point has finished yet: 4 left"),
        (as_status("lost"), "No point has finished yet: 4 left"),
        ([], "No point has finished: none is planned"),
    ],
)  # fmt: skip
def test_the_headline_says_the_result_in_a_line(tmp_path, jobs, told):
    draw(tmp_path, jobs)
    assert headline(tmp_path) == told


def test_what_is_read_first(tmp_path):
    draw(tmp_path, grid())
    assert facts(tmp_path) == {
        "best point": "3\npeak_epoch",
        "validation accuracy": "71.20%\n± 0.42%, n = 2",
        "its test accuracy": "70.20%\nnot used to choose",
        "jobs": "3 of 5 finished\n1 failed, 1 left",
        "time": "83 s",
    }


def test_a_best_point_of_many_digits_fits_into_its_place(tmp_path):
    values = {FACTOR: 7.798542688472198, PEAK: 4}
    draw(tmp_path, [job(0, {key: str(value) for key, value in values.items()}, 0.7, values=values)])
    assert facts(tmp_path)["best point"] == "7.799, 4\nfind_factor, peak_epoch"


@pytest.mark.parametrize(("seconds", "told"), [(8.44, "8.4 s"), (3599, "3,599 s"), (7500, "2 h 05 min")])
def test_the_time_is_told_in_a_unit_that_can_be_read(tmp_path, seconds, told):
    draw(tmp_path, [], seconds=seconds)
    assert facts(tmp_path)["time"] == told


def test_the_leaderboard_is_on_the_page_and_beside_it(tmp_path):
    board = draw(tmp_path, grid())[0]
    assert board.text.startswith("peak_epoch=3 is 0.70% ahead of peak_epoch=2 (95% interval")
    columns, rows = board.tables[0].columns, board.tables[0].rows
    assert columns == ("rank", "what differs", "validation accuracy", "± std", "n", "test accuracy", "time", "status",
                       "reason")  # fmt: skip
    assert rows[0] == (1, "peak_epoch=3", "71.20%", "0.42%", 2, "70.20%", "80 s", "finished", None)
    assert [row[1] for row in rows] == [f"peak_epoch={peak}" for peak in (3, 2, 1, 9, 5)]
    assert rows[3][2:] == (None, None, None, None, None, "failed", "scheduler.peak_epoch=9: must lie within 1..6")
    with (tmp_path / "leaderboard.csv").open() as file:
        first = next(csv.DictReader(file))
    assert tuple(first) == COLUMNS
    assert float(first["objective"]) == grid()[2].objective and first["command"].endswith("peak_epoch=3")
    table = json.loads((tmp_path / "leaderboard.json").read_text())
    assert table["columns"] == [column for column in COLUMNS if column != "command"]
    assert table["data"][0][:3] == [1, "peak_epoch=3", grid()[2].objective] and len(table["data"]) == 5


def test_every_run_is_in_a_table_with_its_points_values(tmp_path):
    draw(tmp_path, square())
    with (tmp_path / "report" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row[OPTIMIZER], row[PEAK], float(row["objective"])) for row in rows] == [
        (one.point[OPTIMIZER], one.point[PEAK], one.objective) for one in square()
    ]


def test_columns_in_which_nothing_stands_are_left_out(tmp_path):
    board = draw(tmp_path, as_status("planned"))[0]
    assert board.tables[0].columns == ("rank", "what differs", "validation accuracy", "status")


@pytest.mark.parametrize(
    ("jobs", "parameters", "expected"),
    [
        (grid(), None, ["Leaderboard", "Objective over peak_epoch", "Failures"]),
        (square(), None, ["Leaderboard", "Objective over optimizer", "Objective over peak_epoch",
                          "Parallel coordinates"]),
        (trials(), [PEAK, FACTOR], ["Leaderboard", "Optimisation history", "Objective over peak_epoch",
                                    "Objective over find_factor", "Parallel coordinates", "Parameter importances"]),
        (trials()[:1], [PEAK, FACTOR], ["Leaderboard", "Optimisation history"]),
        (as_status("planned"), None, ["Leaderboard"]),
        (as_status("failed"), None, ["Leaderboard", "Failures"]),
        ([], [PEAK], ["Leaderboard"]),
    ],
)  # fmt: skip
def test_what_can_be_said_of_the_jobs_is_drawn(tmp_path, jobs, parameters, expected):
    sections = draw(tmp_path, jobs, parameters=parameters)
    assert titles(sections) == expected and not any(section.gap for section in sections)
    assert all(figure.image.exists() and figure.data.exists() for part in sections for figure in part.figures)


@pytest.mark.parametrize("status", ["planned", "running", "lost", "interrupted", "pruned", "failed"])
def test_a_job_of_any_status_costs_nothing(tmp_path, status):
    """Its first seed may have finished: the job has not, and has no place among the points."""
    jobs = [*grid()[:3], replace(job(3, {PEAK: "4"}, 0.99), status=status)]
    sections = draw(tmp_path, jobs)
    assert headline(tmp_path).startswith("peak_epoch=3: 71.20%")
    assert not any(section.gap for section in sections)
    assert sections[0].tables[0].rows[-1][:3] == (None, "peak_epoch=4", None)


def test_importances_wait_for_the_last_trial(tmp_path):
    left = job(12, {PEAK: "3", FACTOR: "2.0"}, status="running", values={PEAK: 3, FACTOR: 2.0})
    part = draw(tmp_path, [*trials(), left], parameters=[PEAK, FACTOR])[-1]
    assert part.title == "Parameter importances" and part.gap == "drawn once every trial has ended; 1 has not"


def test_a_figure_that_breaks_costs_neither_the_others_nor_the_page(tmp_path, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(optuna_figures, "draw_parallel", broken)
    *others, part = draw(tmp_path, square())
    assert part == Section("Parallel coordinates", gap="ZeroDivisionError: no such luck", is_broken=True)
    assert len(others) == 3 and "no such luck" in (tmp_path / "sweep.html").read_text()


def test_a_failure_is_told_with_its_command_and_without_its_password(tmp_path):
    lost = job(3, {PEAK: "4"}, status="failed", reason="postgresql://me:secret@host is away")
    part = draw(tmp_path, [*grid()[:3], replace(lost, command=f"{lost.command} tracker.uri=http://me:secret@host")])[-1]
    assert part.tables[0].rows == (
        ("peak_epoch=4", "postgresql://me:***@host is away",
         "python -m resnet_exp scheduler.peak_epoch=4 tracker.uri=http://me:***@host"),
    )  # fmt: skip
    assert "secret" not in (tmp_path / "sweep.html").read_text()


def test_an_objective_that_is_no_accuracy_is_no_percentage(tmp_path):
    jobs = [job(n, {PEAK: str(n)}, 2.5 - n / 10, 2.51 - n / 10) for n in range(3)]
    draw(tmp_path / "loss", [*jobs, job(3, {PEAK: "7"}, status="running")], direction="minimize")
    assert headline(tmp_path / "loss").startswith("peak_epoch=2: objective 2.305 ± 0.0071 over 2 seeds, best of 3")
    suggestions = draw(tmp_path / "lr", square(), config={"task": "range_test"})
    assert suggestions[0].tables[0].columns[2] == "suggested LR" and suggestions[0].tables[0].rows[0][2] == "0.63"
    assert "%" not in suggestions[0].text


def test_equal_jobs_give_equal_bytes(tmp_path):
    found = []
    for name in ("first", "second"):
        draw(tmp_path / name, grid())
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert {"sweep.html", "leaderboard.csv", "leaderboard.json", "report/runs.csv"} < set(found[0])


def test_a_sweep_that_is_not_drawn_loads_no_matplotlib():
    code = "import sys, resnet_exp.sweeps.report.page; print({'matplotlib', 'optuna', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_whole_on_a_narrow_screen(tmp_path, scheme):
    draw(tmp_path, grid())
    with chromium_page(400, 900, scheme) as tab:
        tab.goto((tmp_path / "sweep.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400, "the page itself does not scroll sideways"
        assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
