"""Figures of the objective over each swept key; and what all figures of a sweep share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resnet_exp.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.report.tiles import short
from resnet_exp.sweeps.leaderboard import deviation
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.report.sweep import Scale, Sweep, objective_of, value_of

_GROUPS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (SKY, "v"), ("#666666", "P"))


def ticks(scale: Scale, inches: float = 2.0) -> tuple[list[float], list[str]]:
    """Returns tick positions and labels, `inches` wide at most: each value if it fits, else round numbers."""
    if scale.kind == "names":
        return [float(place) for place in range(len(scale.values))], plain_names(scale.values, inches)
    marks = list(scale.values)
    if len(marks) > 8 or any(scale.unit(high) - scale.unit(low) < 0.07 for low, high in pairwise(marks)):
        low, high = scale.ends
        marks = [mark for mark in _round_numbers(scale) if low <= mark <= high]
    # Four digits, or as many as tell the marks apart.
    labels = ([f"{mark:.{digits}g}" for mark in marks] for digits in range(4, 18))
    return marks, next(texts for texts in labels if len({*texts}) == len({*marks}))


def _round_numbers(scale: Scale) -> list[float]:
    low, high = scale.ends
    if scale.kind == "linear":
        most = 12 if all(value.is_integer() for value in scale.values) else 6
        return list(MaxNLocator(most, steps=[1, 2, 5, 10], integer=most == 12).tick_values(low, high))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in ((1, 2, 5) if len(powers) < 5 else (1,))]


def label_objective(axis: Any, sweep: Sweep) -> None:
    """Labels an axis with the objective and its unit."""
    axis.set_label_text(sweep.objective)
    if sweep.is_fraction:
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def plain(text: str, inches: float = 3.0) -> str:
    """Returns the text, cut to so many inches, for a figure: matplotlib would read a `$` as the start of a formula."""
    return short(text, inches, 10).replace("$", r"\$")


def plain_names(texts: Sequence[str], inches: float = 3.0) -> list[str]:
    """Returns the texts as `plain` does; they are numbered where two of them would look alike."""
    shown = [plain(text, inches) for text in texts]
    if len({*shown}) == len({*texts}):
        return shown
    return [plain(f"{number}. {text}", inches) for number, text in enumerate(texts, 1)]


def draw_over_key(sweep: Sweep, scale: Scale) -> Section:
    """Draws the objective over one key: hollow points for seeds, their mean with ± their standard deviation."""
    by_name, groups = scale.kind == "names", _groups(sweep, scale)
    height = 1.3 + len(scale.values) * (0.25 + 0.13 * len(groups)) if by_name else 4.0
    canvas = Canvas(figsize=(8.2, min(max(height, 2.4), 12)))
    axes = canvas.subplots()
    for number, (label, jobs) in enumerate(zip(plain_names(list(groups)), groups.values(), strict=True)):
        steps = number - (len(groups) - 1) / 2
        if jobs:
            _draw_group(axes, scale, jobs, _GROUPS[number % len(_GROUPS)], label, steps)
    _mark_failed(axes, sweep, scale)
    _format_axes(axes, sweep, scale)
    add_legend(canvas, axes)
    name = re.sub(r"[^\w.-]+", "_", scale.key)
    image = save(canvas, sweep.folder / f"over_{name}.png", svg=True)
    return Section(f"Objective over {scale.label}", figures=(_figure(sweep, scale, image),))


def _groups(sweep: Sweep, scale: Scale) -> dict[str, list[Job]]:
    """The finished jobs, grouped by another key with few enough values to have a colour each; else in one group."""
    few = [other for other in sweep.scales if other.key != scale.key and len(other.values) <= len(_GROUPS)]
    few = [other for other in few if not any(isinstance(value_of(job, other.key), float) for job in sweep.jobs)][:1]
    groups: dict[str, list[Job]] = {}
    for job in sorted(sweep.jobs, key=lambda job: [other.place(job) or 0 for other in few]):
        group = groups.setdefault("".join(f"{other.label}={value_of(job, other.key)}" for other in few), [])
        group += [job] if job in sweep.finished and scale.place(job) is not None else []
    return groups


def _draw_group(axes: Axes, scale: Scale, jobs: Sequence[Job], look: tuple[str, str], label: str,
                steps: float) -> None:  # fmt: skip
    by_name, (colour, marker) = scale.kind == "names", look
    jobs = sorted(jobs, key=lambda job: (scale.place(job) or 0, job.number))
    places = [scale.beside(scale.place(job) or 0, steps) for job in jobs]
    is_clear = len({*places}) == len(places)  # else bars and lines would overlap
    seeds = [(place, value) for place, job in zip(places, jobs, strict=True) for value in job.objectives.values()]
    if is_clear and len(seeds) > len(jobs):
        spots = _swapped(by_name, *zip(*seeds, strict=True))
        axes.plot(*spots, "o", ms=4.2, mfc="white", mec=colour, mew=0.9, zorder=4)
    bars = [deviation(job) or 0.0 for job in jobs]
    spread: dict[str, Any] = {"xerr" if by_name else "yerr": bars if is_clear and any(bars) else None}
    line = "-" if is_clear and not (by_name or jobs[0].values) else ""
    axes.errorbar(*_swapped(by_name, places, [objective_of(job) for job in jobs]), fmt=marker + line, lw=1.2, ms=7.5,
                  color=colour, mec="white", elinewidth=1.4, capsize=3.5, label=label, zorder=5, **spread)  # fmt: skip


def _swapped(
    by_name: bool, places: Sequence[float], values: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    return (values, places) if by_name else (places, values)


def _mark_failed(axes: Axes, sweep: Sweep, scale: Scale) -> None:
    """Draws a cross at the edge for every job that failed, which has no objective."""
    places = [place for job in sweep.jobs if job.status == "failed" and (place := scale.place(job)) is not None]
    if places:
        by_name = scale.kind == "names"
        along = axes.get_yaxis_transform() if by_name else axes.get_xaxis_transform()
        marks = _swapped(by_name, places, [0.025] * len(places))
        axes.plot(*marks, "x", ms=7, mew=2, color=VERMILLION, transform=along, label="failed", zorder=2)


def _format_axes(axes: Axes, sweep: Sweep, scale: Scale) -> None:
    by_name = scale.kind == "names"
    along, up = (axes.yaxis, axes.xaxis) if by_name else (axes.xaxis, axes.yaxis)
    if scale.kind == "log":
        axes.set_xscale("log")
    along.set_ticks(*ticks(scale))
    along.set_ticks([], minor=True)
    along.set_label_text(plain(scale.label))
    label_objective(up, sweep)
    low, high = scale.ends  # of all planned jobs, so that the axis stays the same while they finish
    if by_name:
        axes.set_ylim(high + 0.5, low - 0.5)  # the first name on top
    else:
        axes.set_xlim(scale.beside(low, -5), scale.beside(high, 5))
    if sweep.best:
        across, label = axes.axvline if by_name else axes.axhline, f"best {sweep.as_text(sweep.best.objective)}"
        across(objective_of(sweep.best), color=INK, lw=1, ls=(0, (4, 3)), zorder=1, label=label)
    axes.grid(axis="both" if by_name else "y", color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(canvas: Canvas, axes: Axes) -> None:
    """Puts the legend under the axes, groups of points first, and fits the axes into the rest of the figure."""
    entries = [entry for entry in zip(*axes.get_legend_handles_labels(), strict=True) if entry[1]]
    entries.sort(key=lambda entry: isinstance(entry[0], Line2D))
    rows = math.ceil(len(entries) / 4)
    columns = math.ceil(len(entries) / rows)
    canvas.tight_layout(rect=(0, (0.12 + 0.2 * rows) / canvas.get_figheight(), 1, 1))
    canvas.legend(*zip(*entries, strict=True), loc="lower center", ncols=columns, fontsize=9, frameon=False)


def _figure(sweep: Sweep, scale: Scale, image: Path) -> Figure:
    assert sweep.best is not None
    alt = (
        f"{sweep.objective} over {scale.label} of {len(sweep.finished)} finished {sweep.noun}s; the best is "
        f"{sweep.best.label} with {sweep.as_text(sweep.best.objective)}."
    )
    several = any(len(job.objectives) > 1 for job in sweep.finished)
    seeds = "; where there is space, hollow: a seed; bar: ± the seeds' standard deviation"
    caption = f"Filled: a {sweep.noun}{', the mean over its seeds' + seeds if several else ''}."
    if others := [other.label for other in sweep.scales if other.key != scale.key]:
        caption += f" Those at one {scale.label} differ in {', '.join(others)}."
    return Figure(image, alt, caption, sweep.folder / "runs.csv", wide=True)
