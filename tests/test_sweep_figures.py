"""The figures of a sweep: each finished job stands where its values put it, the best is marked, equals draw alike."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest

from resnet_exp.report.section import Gap
from resnet_exp.sweeps.ledger import Job, SeedRun
from resnet_exp.sweeps.report import figures, optuna_figures
from resnet_exp.sweeps.report.figures import draw_over_key, ticks
from resnet_exp.sweeps.report.optuna_figures import draw_history, draw_importances, draw_parallel, importances
from resnet_exp.sweeps.report.sweep import Sweep, scale_of

PEAK, OPTIMIZER, FACTOR = "scheduler.peak_epoch", "optimizer", "scheduler.find_factor"


def job(
    number: int, point: dict[str, Any], *objectives: float, status: str = "finished", is_trial: bool = False
) -> Job:
    runs = tuple(SeedRun(seed, f"/runs/{number}-{seed}", status, value) for seed, value in enumerate(objectives))
    texts = {key: str(value) for key, value in point.items()}
    return Job(number, texts, f"run {number}", status, runs=runs, values=point if is_trial else {})


def sweep(root: Path, jobs: list[Job], direction: str = "maximize", noun: str = "point") -> Sweep:
    return Sweep(root, tuple(jobs), tuple(jobs[0].point), direction, noun, "accuracy", direction == "maximize")


def grid(optimizers=("sgd", "adam"), peaks=(1, 2, 3)) -> list[Job]:
    points = [{OPTIMIZER: name, PEAK: peak} for name in optimizers for peak in peaks]
    return [job(n, point, 0.60 + 0.01 * n, 0.62 + 0.01 * n) for n, point in enumerate(points)]


def trials() -> list[Job]:
    """Twelve in which the peak decides all; the seventh was pruned and the tenth failed."""
    ended = {6: "pruned", 9: "failed"}
    peaks = [1 + n * 5 % 12 for n in range(12)]
    return [
        job(n, {PEAK: peak, FACTOR: 1 + (n * 7 % 12) / 3}, *(() if n in ended else (0.9 - peak / 50,)),
            status=ended.get(n, "finished"), is_trial=True)
        for n, peak in enumerate(peaks)
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The axes of each figure by its file's name, as it was saved."""
    kept: dict[str, Any] = {}

    def save(canvas, path, svg):
        kept[path.name] = canvas.axes[0]
        return path.with_suffix(".svg")

    monkeypatch.setattr(figures, "save", save)
    monkeypatch.setattr(optuna_figures, "save", save)
    return kept


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        (("3", "1", "2"), "linear", ["1", "2", "3"]),
        (("0.1", "0.001", "0.01"), "log", ["0.001", "0.01", "0.1"]),
        (("1", "30"), "linear", ["1", "30"]),
        (("0", "100"), "linear", ["0", "100"]),  # zero has no logarithm
        (("null", "0.5", "1"), "names", ["null", "0.5", "1"]),
        (("sgd", "adam", "sgd"), "names", ["sgd", "adam"]),
        (("nan", "1"), "names", ["nan", "1"]),
        (("true", "false"), "names", ["true", "false"]),
        (tuple(map(str, range(1, 25))), "linear", ["2", "4", "6", "8", "10", "12", "14", "16", "18", "20", "22", "24"]),
        (("123456789", "123456790"), "linear", ["123456789", "123456790"]),
        (("0.1", "0.100001"), "linear", ["0.1", "0.100001"]),
        (("1", "1.01", "1.02", "2"), "linear", ["1", "1.2", "1.4", "1.6", "1.8", "2"]),  # the first would overlap
    ],
)
def test_a_key_is_an_axis_of_numbers_where_it_can_be(values, kind, labels):
    scale = scale_of("model.key", [job(n, {"model.key": value}) for n, value in enumerate(values)], ["model.key"])
    assert (scale.kind, ticks(scale)[1], scale.label) == (kind, labels, "key")


def test_long_names_that_would_be_cut_alike_are_numbered():
    values = [f"/a/long/way/{middle}/to/a/folder/of/images/of/the/same/name" for middle in ("one", "two")]
    scale = scale_of("root", [job(n, {"root": value}) for n, value in enumerate(values)], ["root"])
    shown = ticks(scale, 1.1)[1]
    assert len({*shown}) == 2 and [text[:2] for text in shown] == ["1.", "2."]


def test_a_trial_stands_where_optuna_put_it_and_not_where_its_label_says():
    exact = Job(0, {FACTOR: "7.8"}, "", values={FACTOR: 7.798542688472198})
    assert scale_of(FACTOR, [exact], [FACTOR]).place(exact) == 7.798542688472198


def test_the_seeds_their_mean_and_their_deviation_are_drawn(tmp_path, drawn):
    whole = sweep(tmp_path, [job(0, {PEAK: 1}, 0.6, 0.7), job(1, {PEAK: 2}, 0.8, 0.8)])
    draw_over_key(whole, whole.scales[0])
    axes = drawn[f"over_{PEAK}.png"]
    seeds, means = axes.lines[0], axes.containers[0].lines[0]
    assert list(zip(*seeds.get_data(), strict=True)) == [(1, 0.6), (1, 0.7), (2, 0.8), (2, 0.8)]
    assert list(zip(*means.get_data(), strict=True)) == [(1, pytest.approx(0.65)), (2, 0.8)]
    (bar, _) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 1] == pytest.approx([0.65 - 0.0707107, 0.65 + 0.0707107])
    assert legend_of(axes) == ["best 80.00%"]


def test_a_second_key_of_few_values_has_colours_that_stay_while_jobs_come_in(tmp_path, drawn):
    jobs = grid()
    unfinished = [job(n, one.point, status="planned") if one.point[OPTIMIZER] == "sgd" else one
                  for n, one in enumerate(jobs)]  # fmt: skip
    colours = []
    for some in (jobs, unfinished):
        whole = sweep(tmp_path, some)
        draw_over_key(whole, whole.scales[1])
        axes = drawn[f"over_{PEAK}.png"]
        groups = {group.get_label(): group.lines[0].get_color() for group in axes.containers}
        assert [text for text in legend_of(axes) if "=" in text] == list(groups)
        colours.append(groups)
    assert list(colours[0]) == ["optimizer=sgd", "optimizer=adam"]
    assert colours[1] == {"optimizer=adam": colours[0]["optimizer=adam"]}


def test_points_of_one_place_and_colour_have_no_bars_that_run_through_one_another(tmp_path, drawn):
    whole = sweep(tmp_path, grid(peaks=range(1, 9)))  # eight peaks are too many for colours
    draw_over_key(whole, whole.scales[0])
    (group,) = drawn[f"over_{OPTIMIZER}.png"].containers
    assert not group.lines[2] and len(group.lines[0].get_xdata()) == 16


def test_names_stand_beside_their_points_first_on_top_and_failures_at_the_edge(tmp_path, drawn):
    jobs = [
        job(0, {OPTIMIZER: "sgd"}, 0.7),
        job(1, {OPTIMIZER: "adam"}, status="failed"),
        job(2, {OPTIMIZER: "a$b"}, 0.6),
    ]
    whole = sweep(tmp_path, jobs)
    draw_over_key(whole, whole.scales[0])
    axes = drawn[f"over_{OPTIMIZER}.png"]
    assert axes.yaxis.get_majorticklabels()[2].get_text() == r"a\$b" and axes.yaxis_inverted()
    assert list(axes.containers[0].lines[0].get_ydata()) == [0, 2]
    failed = next(line for line in axes.lines if line.get_label() == "failed")
    assert list(failed.get_ydata()) == [1]


def test_the_axis_spans_all_that_is_planned(tmp_path, drawn):
    whole = sweep(tmp_path, [job(0, {PEAK: 1}, 0.6), *(job(n, {PEAK: n + 1}, status="planned") for n in range(1, 6))])
    draw_over_key(whole, whole.scales[0])
    low, high = drawn[f"over_{PEAK}.png"].get_xlim()
    assert low < 1 and high > 6


@pytest.mark.parametrize(("direction", "best", "height"), [("maximize", 5, 1.0), ("minimize", 0, 0.0)])
def test_a_job_is_a_line_across_its_values_and_the_best_lies_on_top(tmp_path, drawn, direction, best, height):
    jobs = [*grid(), job(6, {OPTIMIZER: "sgd", PEAK: 9}, status="failed")]
    (figure,) = draw_parallel(sweep(tmp_path, jobs, direction)).figures
    lines = [line for line in drawn["parallel.png"].lines if len(line.get_xdata()) == 3]
    assert len(lines) == 6
    widest = max(lines, key=lambda line: line.get_linewidth())
    place = (int(jobs[best].point[PEAK]) - 1) / 8  # on an axis that the failed job makes longer
    assert widest is lines[-1] and list(widest.get_ydata()) == [1.0 if best == 0 else 0.0, place, height]
    assert sum(widest.get_color()[:3]) == min(sum(line.get_color()[:3]) for line in lines), "the darkest"
    assert jobs[best].label in figure.alt


@pytest.mark.parametrize(("direction", "steps"), [("maximize", [0.5, 0.7, 0.7]), ("minimize", [0.5, 0.5, 0.4])])
def test_the_history_tells_the_best_so_far_and_who_ended_early(tmp_path, drawn, direction, steps):
    ends = [
        (0.5, "finished"),
        (None, "pruned"),
        (0.7, "finished"),
        (None, "failed"),
        (0.4, "finished"),
        (None, "running"),
    ]
    jobs = [job(n, {PEAK: n}, *([value] if value else []), status=status) for n, (value, status) in enumerate(ends)]
    draw_history(sweep(tmp_path, jobs, direction, "trial"))
    lines = {line.get_label(): line for line in drawn["history.png"].lines}
    assert list(lines["best so far"].get_ydata()) == steps
    assert {name: list(lines[name].get_xdata()) for name in ("finished", "pruned", "failed")} == {
        "finished": [0, 2, 4],
        "pruned": [1],
        "failed": [3],
    }


def test_what_decides_the_objective_is_the_most_important(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger(optuna.__name__), "propagate", True)
    caplog.set_level(logging.INFO, optuna.__name__)
    shares = importances(sweep(tmp_path, trials(), noun="trial"))
    assert list(shares) == ["peak_epoch", "find_factor"] and shares["peak_epoch"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == importances(sweep(tmp_path, trials(), noun="trial"))
    assert not caplog.records, "Optuna's own study is none of the reader's business"


def test_names_and_booleans_have_an_importance_too(tmp_path):
    jobs = [
        job(
            n,
            {OPTIMIZER: ("sgd", "adam")[n % 2], "train.channels_last": n % 3 == 0},
            0.5 + 0.1 * (n % 2),
            is_trial=True,
        )
        for n in range(12)
    ]
    assert importances(sweep(tmp_path, jobs, noun="trial"))["optimizer"] > 0.9


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        (trials()[:3], "4 finished trials are needed; there are 3"),
        ([*trials(), job(12, {PEAK: 1, FACTOR: 2.0}, status="running", is_trial=True)], "1 has not"),
        ([job(n, {PEAK: n, FACTOR: n / 3}, 0.5, is_trial=True) for n in range(6)], "the same objective"),
    ],
)
def test_importances_that_would_say_nothing_are_a_gap(tmp_path, jobs, reason):
    with pytest.raises(Gap, match=reason):
        draw_importances(sweep(tmp_path, jobs, noun="trial"))


def test_equal_jobs_draw_equal_bytes(tmp_path):
    found = []
    for name in ("first", "second"):
        whole = sweep(tmp_path / name, trials(), noun="trial")
        draw_history(whole), draw_parallel(whole), draw_importances(whole), draw_over_key(whole, whole.scales[1])
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert found[0] == found[1] and len(found[0]) == 9
