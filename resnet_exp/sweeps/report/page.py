"""sweep.html and the tables of a sweep, with the results so far, best first; written again after every job."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from resnet_exp.config.redact import redact
from resnet_exp.config.validation import VALIDATION
from resnet_exp.report.html import Page, write_html
from resnet_exp.report.section import Section, Table, drawn
from resnet_exp.run_dir.files import write_csv, write_json
from resnet_exp.sweeps.leaderboard import COLUMNS, Comparison, compare_best, deviation, ranked, rows
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.report.sweep import Sweep

_log = logging.getLogger(__name__)


def draw_sweep(
    folder: Path,
    jobs: Sequence[Job],
    *,
    title: str,
    command: str,
    direction: str = "maximize",
    parameters: Sequence[str] | None = None,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    seconds: float,
) -> tuple[Section, ...]:
    """Draws the sections of the sweep's page into `report/`, writes the leaderboard's tables and `sweep.html`.

    A figure that cannot be drawn is a section with the reason. The same jobs give the same bytes.

    Args:
        folder: the directory of the sweep.
        jobs: with any status.
        title: the name on the page.
        command: continues the sweep.
        direction: of the objective: maximize or minimize.
        parameters: names of a study's search space; None for a grid, whose keys are those of its points.
        config: shared by all jobs.
        environment: of the jobs.
        seconds: taken by the sweep so far.
    """
    noun = "point" if parameters is None else "trial"
    keys = tuple(dict.fromkeys(parameters or (key for job in jobs for key in job.point)))
    name, may_be_fraction = _objective(config, keys, direction)
    sweep = Sweep(folder / "report", tuple(jobs), keys, direction, noun, name, may_be_fraction)
    write_tables(folder, jobs, keys, direction)
    sections = _sections(sweep)
    comparison = compare_best(sweep.finished, sweep.direction)
    page = Page(
        title, _headline(sweep, comparison), _facts(sweep, seconds), command, sections, config, environment, "sweep"
    )
    write_html(page, folder / "sweep.html")
    return sections


def write_tables(folder: Path, jobs: Sequence[Job], keys: Sequence[str], direction: str) -> None:
    """Writes leaderboard.csv and .json, and report/runs.csv, which has every run with its point's values."""
    table = rows(jobs, direction)
    write_csv(folder / "leaderboard.csv", COLUMNS, table)
    shown = [place for place, column in enumerate(COLUMNS) if column != "command"]
    data = [[row[place] for place in shown] for row in table]
    write_json(folder / "leaderboard.json", {"columns": [COLUMNS[place] for place in shown], "data": data})
    columns = ("job", *keys, "seed", "objective", "test_accuracy", "seconds", "status")
    runs = (
        (job.number, *(_value(job, key) for key in keys), run.seed, run.objective, run.test_accuracy, run.seconds,
         run.status)
        for job in jobs for run in job.runs
    )  # fmt: skip
    write_csv(folder / "report" / "runs.csv", columns, runs)


def _value(job: Job, key: str) -> Any:
    return job.values.get(key, job.point.get(key))


def _objective(config: Mapping[str, Any], keys: Sequence[str], direction: str) -> tuple[str, bool]:
    """The name of the objective, and whether it may be a fraction: an accuracy."""
    if config.get("task") == "range_test":
        return "suggested LR", False
    if direction != "maximize" or {"task", "data.validation"} & {*keys}:
        return "objective", direction == "maximize"
    data = config.get("data")
    validation = data.get("validation") if isinstance(data, Mapping) else None
    known = VALIDATION.get(str(validation), VALIDATION["holdout"])  # a swept one is "objective", above
    return known.objective_title, True


def _sections(sweep: Sweep) -> tuple[Section, ...]:
    """The sections in reading order, the figures between the tables; an error in a figure is logged too."""
    figures = [drawn(*part) for part in _figures(sweep)] if sweep.finished else []
    for section in figures:
        if section.is_broken:
            _warn_once(f"not drawn: {section.title}: {section.gap}")
    has_failed = any(job.status == "failed" for job in sweep.jobs)
    return leaderboard(sweep), *figures, *([failures(sweep)] if has_failed else [])


@cache
def _warn_once(text: str) -> None:
    """The figures are drawn again after each job, and would fail again."""
    _log.warning(text)


def _figures(sweep: Sweep) -> list[tuple[str, Callable[[], Section]]]:
    """The title of each figure's section and the function that draws it; only those that apply."""
    try:
        from resnet_exp.sweeps.report import figures, optuna_figures
    except Exception as error:  # a broken matplotlib: the tables need none
        return [("Figures", partial(_not_drawn, error))]
    parts: list[tuple[str, Callable[[], Section]]] = []
    if sweep.noun == "trial":
        parts.append((optuna_figures.HISTORY, partial(optuna_figures.draw_history, sweep)))
    for scale in sweep.scales:
        parts.append((f"Objective over {scale.label}", partial(figures.draw_over_key, sweep, scale)))
    if len(sweep.scales) > 1:
        parts.append((optuna_figures.PARALLEL, partial(optuna_figures.draw_parallel, sweep)))
        if sweep.noun == "trial":
            parts.append((optuna_figures.IMPORTANCES, partial(optuna_figures.draw_importances, sweep)))
    return parts


def _not_drawn(error: Exception) -> Section:
    raise error


def leaderboard(sweep: Sweep) -> Section:
    """Returns the section with all jobs, the best first, and whether the best is better than noise."""
    comparison = compare_best(sweep.finished, sweep.direction)
    is_better_when_higher = sweep.is_fraction and sweep.direction == "maximize"
    text = f"{comparison.sentence(is_better_when_higher)}." if comparison else ""
    order = ranked(sweep.jobs, sweep.direction)
    columns = ("rank", "what differs", sweep.objective, "± std", "n", "test accuracy", "time", "status", "reason")
    table = [_line(sweep, rank, job) for rank, job in enumerate(order, 1)]
    # A column that is empty in every row is left out.
    filled = [place for place in range(len(columns)) if place < 3 or any(row[place] for row in table)]
    shown = tuple(tuple(row[place] for place in filled) for row in table)
    caption = (
        ""
        if not sweep.finished
        else "± is the standard deviation over the seeds, n their number; time is of all of them together."
    )
    data = sweep.folder.parent / "leaderboard.csv"
    board = Table(tuple(columns[place] for place in filled), shown, caption, data)
    return Section("Leaderboard", text, tables=(board,))


def _line(sweep: Sweep, rank: int, job: Job) -> tuple[str | int | None, ...]:
    has_one = job in sweep.finished
    test = None if job.test_accuracy is None else f"{job.test_accuracy:.2%}"
    results = (sweep.as_text(job.objective), _spread(sweep, job) if has_one else None)
    took = _duration(job.seconds) if job.seconds else None
    count, reason = len(job.objectives) or None, redact(job.reason) if job.reason else None
    return (rank if has_one else None, job.label, *results, count, test, took, job.status, reason)


def failures(sweep: Sweep) -> Section:
    """Returns the section with the jobs that failed: why, and how to run each again."""
    failed = [job for job in sweep.jobs if job.status == "failed"]
    lines = tuple((job.label, redact(job.reason or ""), redact(job.command)) for job in failed)
    return Section("Failures", tables=(Table(("what differs", "reason", "to run it again"), lines),))


def _headline(sweep: Sweep, comparison: Comparison | None) -> str:
    """The result in one line."""
    best, counts = sweep.best, _counts(sweep)
    if best is None:
        return f"No {sweep.noun} has finished{' yet' if 'left' in counts else ''}: {counts or 'none is planned'}"
    line = f"{best.label}: {_with_spread(sweep, best)}"
    seeds = len(best.objectives)
    line += f" over {seeds} seeds" if seeds > 1 else ""
    count = len(sweep.finished)
    line += f", best of {count} {sweep.noun}s" if count > 1 else f", the only {sweep.noun} that has finished"
    line += f" ({counts})" if counts else ""
    if comparison is None:
        return line
    against = f"against {comparison.second.label}"
    if comparison.beyond_noise is None:
        return f"{line}; {'with one seed ' if comparison.n < 2 else ''}it may be noise {against}"
    return f"{line}; {'' if comparison.beyond_noise else 'not '}beyond noise {against}"


def _with_spread(sweep: Sweep, job: Job) -> str:
    """`71.20% ± 0.40% validation accuracy`, or `objective 1.234 ± 0.0021`."""
    spread = _spread(sweep, job)
    value = f"{sweep.as_text(job.objective)} ± {spread}" if spread else f"{sweep.as_text(job.objective)}"
    return f"{value} {sweep.objective}" if sweep.is_fraction else f"{sweep.objective} {value}"


def _spread(sweep: Sweep, job: Job) -> str | None:
    spread = deviation(job)
    return None if spread is None else f"{spread:.2%}" if sweep.is_fraction else f"{spread:.2g}"


def _counts(sweep: Sweep) -> str:
    """How many jobs are not finished: `1 failed, 2 left`."""
    found = Counter(job.status if job.status in ("finished", "failed", "pruned") else "left" for job in sweep.jobs)
    return ", ".join(f"{found[status]} {status}" for status in ("pruned", "failed", "left") if found[status])


def _facts(sweep: Sweep, seconds: float) -> dict[str, str]:
    """The facts at the top of the page; the first line of each is large."""
    facts, best = {}, sweep.best
    if best is not None:
        facts["best point"] = _set_by(best)
        spread, seeds = _spread(sweep, best), len(best.objectives)
        over = f"± {spread}, n = {seeds}" if spread else f"{seeds} seed"
        facts[sweep.objective] = f"{sweep.as_text(best.objective)}\n{over}"
        if best.test_accuracy is not None:
            chosen = "not used to choose" if sweep.objective == "validation accuracy" else "mean over its seeds"
            facts["its test accuracy"] = f"{best.test_accuracy:.2%}\n{chosen}"
    facts["jobs"] = f"{len(sweep.finished)} of {len(sweep.jobs)} finished\n{_counts(sweep)}"
    facts["time"] = _duration(seconds)
    return facts


def _set_by(job: Job) -> str:
    """The values of the job's point, and its keys in the next line: both would not fit into one."""
    return f"{', '.join(job.short_point.values())}\n{', '.join(job.short_point)}"


def _duration(seconds: float) -> str:
    """`8.4 s`, `85 s` or `2 h 05 min`."""
    if not math.isfinite(seconds) or seconds < 3600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"
