"""Figures of a study, as Optuna has them: parallel coordinates, which grids have too, history, and importances.

Optuna computes the importances; the drawing is ours. Optuna's own plots (5.0.0, with matplotlib, tried on a study of
24 trials) all warn that they are experimental and change pyplot's style permanently; besides:
- plot_optimization_history leaves out failed and pruned trials;
- plot_param_importances cuts long names off, and shows no percent;
- plot_parallel_coordinate cuts names off too, writes values over lines, and does not mark the best trial.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from resnet_exp.report.drawing import BLUE, GREY, INK, ORANGE, VERMILLION, save
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.run_dir.files import write_csv
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.report.figures import add_legend, label_objective, plain, plain_names, ticks
from resnet_exp.sweeps.report.sweep import Scale, Sweep, objective_of, value_of

HISTORY, PARALLEL, IMPORTANCES = "Optimisation history", "Parallel coordinates", "Parameter importances"
_FEWEST = 4  # finished trials from which importances can be estimated at all
_HALO = [withStroke(linewidth=2.5, foreground="white")]


def draw_parallel(sweep: Sweep) -> Section:
    """Draws every finished job as a line through its values to its objective; the best one is emphasised."""
    scales = sweep.scales
    jobs = [job for job in sweep.finished if all(scale.place(job) is not None for scale in scales)]
    left, right = 1.3 if scales[0].kind == "names" else 0.75, 1.1  # inches for the labels
    width = max(7.2, left + 1.9 * len(scales) + right)
    canvas = Canvas(figsize=(width, 4.2))
    axes = canvas.add_axes((left / width, 0.06, 1 - (left + right) / width, 0.8))
    results = _Results(sweep, [objective_of(job) for job in jobs])
    thin = min(1.6, max(0.5, 60 / len(jobs)))
    for job in sorted(jobs, key=lambda job: results.goodness(objective_of(job))):  # the best on top
        places = [scale.unit(scale.place(job) or 0) for scale in scales]
        heights = [*places, float(results.norm(objective_of(job)))]
        is_best = job == sweep.best
        axes.plot(range(len(heights)), heights, lw=4 if is_best else thin, zorder=4 if is_best else 3,
                  color=results.colour(objective_of(job)), solid_joinstyle="round", solid_capstyle="round",
                  path_effects=[withStroke(linewidth=6.5, foreground=ORANGE)] if is_best else None)  # fmt: skip
    for number, scale in enumerate(scales):
        places, labels = ticks(scale, 1.1)
        _draw_axis(axes, number, [scale.unit(place) for place in places], labels, scale.label)
    _draw_objective(axes, len(scales), results)
    axes.set(xlim=(-0.05, len(scales) + 0.03), ylim=(-0.03, 1.03))
    axes.set_axis_off()
    image = save(canvas, sweep.folder / "parallel.png", svg=True)
    return Section(PARALLEL, figures=(_parallel_figure(sweep, scales, len(jobs), image),))


class _Results:
    """The objectives of some jobs as heights and colours; darker is better."""

    def __init__(self, sweep: Sweep, values: Sequence[float]) -> None:
        self.sweep = sweep
        even = min(values) == max(values)
        margin = (abs(values[0]) * 0.01 or 1.0) if even else 0.0
        self.norm = Normalize(min(values) - margin, max(values) + margin)
        # The palest colours of the map could not be seen on white. Cividis looks alike with any colour vision.
        colours = mpl.colormaps["cividis_r"](np.linspace(0.12, 1, 256))
        self.colours: Colormap = ListedColormap(colours if sweep.direction == "maximize" else colours[::-1])

    def goodness(self, value: float) -> float:
        return value if self.sweep.direction == "maximize" else -value

    def colour(self, value: float) -> Any:
        return self.colours(self.norm(value))


def _draw_axis(axes: Axes, x: float, places: Sequence[float], labels: Sequence[str], title: str) -> None:
    axes.plot([x, x], [0, 1], color=INK, lw=1, zorder=2)
    for place, label in zip(places, labels, strict=True):
        axes.plot([x - 0.012, x], [place, place], color=INK, lw=1, zorder=2)
        axes.annotate(label, (x, place), (-6, 0), textcoords="offset points", ha="right", va="center", fontsize=9,
                      path_effects=_HALO, zorder=6)  # fmt: skip
    axes.annotate(plain(title, 1.8), (x, 1), (0, 14), textcoords="offset points", ha="center", va="bottom",
                  fontweight="bold", fontsize=10, annotation_clip=False)  # fmt: skip


def _draw_objective(axes: Axes, x: float, results: _Results) -> None:
    """Draws the last axis: the objective, with its colours."""
    low, high = results.norm.vmin or 0.0, results.norm.vmax or 0.0
    marks = [mark for mark in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= mark <= high]
    axes.imshow(results.colours(np.linspace(0, 1, 256))[:, None], extent=(x, x + 0.03, 0, 1), origin="lower",
                aspect="auto", zorder=2, clip_on=False)  # fmt: skip
    for mark in marks:
        label = f"{mark:.4g}" if not results.sweep.is_fraction else f"{100 * mark:.4g}%"
        axes.annotate(label, (x + 0.03, float(results.norm(mark))), (5, 0), textcoords="offset points", ha="left",
                      va="center", fontsize=9, annotation_clip=False)  # fmt: skip
    axes.annotate(results.sweep.objective, (x, 1), (0, 14), textcoords="offset points", ha="center", va="bottom",
                  fontweight="bold", fontsize=10, annotation_clip=False)  # fmt: skip


def _parallel_figure(sweep: Sweep, scales: Sequence[Scale], count: int, image: Any) -> Figure:
    assert sweep.best is not None
    alt = (
        f"{count} finished {sweep.noun}s as lines across {', '.join(scale.label for scale in scales)} to the "
        f"{sweep.objective}; the best one, {sweep.best.label}, reaches {sweep.as_text(sweep.best.objective)}."
    )
    caption = (
        f"A line is a {sweep.noun}; where dark lines meet, values do well. The one with the orange edge is the best."
    )
    return Figure(image, alt, caption, sweep.folder / "runs.csv", wide=True)


def draw_history(sweep: Sweep) -> Section:
    """Draws the objective of each trial in order, and the best so far; trials without one are marked at the edge."""
    canvas = Canvas(figsize=(8.2, 4.2))
    axes = canvas.subplots()
    numbers, values = [job.number for job in sweep.finished], [objective_of(job) for job in sweep.finished]
    running = np.maximum.accumulate(values) if sweep.direction == "maximize" else np.minimum.accumulate(values)
    axes.step(numbers, running, where="post", color=ORANGE, lw=2, label="best so far", zorder=2)
    axes.plot(numbers, values, "o", ms=7, color=BLUE, mec="white", label="finished", zorder=3)
    for status, marker, colour in (("pruned", "v", GREY), ("failed", "x", VERMILLION)):
        places = [job.number for job in sweep.jobs if job.status == status]
        if places:
            axes.plot(places, [0.025] * len(places), marker, ms=7, mew=2, color=colour, label=status,
                      ls="none", transform=axes.get_xaxis_transform(), zorder=2)  # fmt: skip
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.1)
    label_objective(axes.yaxis, sweep)
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(canvas, axes)
    image = save(canvas, sweep.folder / "history.png", svg=True)
    assert sweep.best is not None
    alt = f"{sweep.objective} of {len(values)} finished trials in their order; trial {sweep.best.number} is the best."
    return Section(HISTORY, figures=(Figure(image, alt, "", sweep.folder / "runs.csv", wide=True),))


def draw_importances(sweep: Sweep) -> Section:
    """Draws the share of the objective's variance that each parameter explains.

    Source: fANOVA, Hutter, Hoos, Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance" (ICML
    2014), as Optuna has it.

    Raises:
        Gap: too few trials have finished, or all have the same objective.
    """
    shares = importances(sweep)
    data = write_csv(sweep.folder / "importances.csv", ("parameter", "importance"), shares.items())
    canvas = Canvas(figsize=(7.2, 1.1 + 0.42 * len(shares)))
    axes = canvas.subplots()
    names = plain_names(list(shares), 2.4)
    bars = axes.barh(names, list(shares.values()), color=BLUE, height=0.62)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(*shares.values(), 0.01) * 1.12)
    axes.set_xlabel("share of the variance explained")
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    image = save(canvas, sweep.folder / "importances.png", svg=True)
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    count = len(sweep.finished)
    caption = f"fANOVA over {count} finished trials{'; with so few, only a hint' if count < 30 else ''}."
    return Section(IMPORTANCES, figures=(Figure(image, f"Importances: {listed}.", caption, data, wide=True),))


def importances(sweep: Sweep) -> dict[str, float]:
    """Returns each parameter's share of the objective's variance, the largest first; they add up to 1.

    Raises:
        Gap: too few trials have finished, or all have the same objective.
    """
    left = [job for job in sweep.jobs if job.status in ("planned", "running")]
    if left:
        raise Gap(f"drawn once every trial has ended; {len(left)} {'has' if len(left) == 1 else 'have'} not")
    if len(sweep.finished) < _FEWEST:
        raise Gap(f"{_FEWEST} finished trials are needed; there are {len(sweep.finished)}")
    if len({objective_of(job) for job in sweep.finished}) < 2:
        raise Gap("all trials have the same objective")
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = _study(sweep)
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    labels = {scale.key: scale.label for scale in sweep.scales}
    return {labels[key]: float(share) for key, share in found.items()}


def _study(sweep: Sweep) -> Any:
    """An Optuna study in memory that holds the finished trials."""
    import optuna

    scales = sweep.scales
    spaces = {scale.key: _distribution(scale, sweep.finished) for scale in scales}
    with _quiet("optuna.storages._in_memory"):
        study = optuna.create_study(direction="maximize" if sweep.direction == "maximize" else "minimize")
    for job in sweep.finished:
        values = {scale.key: _proposed(scale, job) for scale in scales if value_of(job, scale.key) is not None}
        known = {key: spaces[key] for key in values}
        study.add_trial(optuna.trial.create_trial(params=values, distributions=known, value=objective_of(job)))
    return study


def _distribution(scale: Scale, jobs: Sequence[Job]) -> Any:
    """The distribution over the range of values so far; the searched range is not known here."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if scale.kind == "names":
        return CategoricalDistribution(scale.values)
    low, high = scale.ends
    is_log = scale.kind == "log"
    if all(isinstance(value_of(job, scale.key), int) for job in jobs):
        return IntDistribution(int(low), int(high), log=is_log)
    return FloatDistribution(low, high, log=is_log)


def _proposed(scale: Scale, job: Job) -> Any:
    value = value_of(job, scale.key)
    return str(value) if scale.kind == "names" else value if isinstance(value, int) else float(value)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A block in which a logger prints warnings only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
