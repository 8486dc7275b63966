"""Two sections: the metrics of each epoch, and the LR and momentum of each step."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from resnet_exp.config.validation import VALIDATION, Validation
from resnet_exp.interfaces import Metric
from resnet_exp.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, VERMILLION, save
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_csv
from resnet_exp.run_dir.journal import metric_history

_MOST_POINTS = 2000  # of a curve; more could not be distinguished, and would make the page large


def draw_curves(subject: Subject) -> Section:
    """Draws each metric over the epochs, of training and validation images; the chosen epoch is marked."""
    result, history = subject.result, _history(subject)
    data = _write_history(subject, history)
    # A run that is drawn again was made with the metrics of its time.
    measured = [metric for metric in subject.metrics if metric.each_epoch and metric.name in result["test"]]
    drawn = sorted(measured, key=lambda metric: metric.name != "accuracy")
    rows = math.ceil(len(drawn) / 2)
    canvas = Canvas(figsize=(10.5, 4.9 * rows))
    panels = canvas.subplots(rows, 2, squeeze=False).flat
    for metric, axes in zip(drawn, panels, strict=False):
        _draw_history(axes, history, metric, VALIDATION[result["validation"]])
        _mark_chosen(axes, history, result, metric)
        axes.set_title(metric.title, loc="left", fontweight="bold")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=9, frameon=False)
        if metric.unit == "fraction":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    for axes in panels:  # an odd number of metrics leaves one empty
        axes.axis("off")
    canvas.tight_layout(w_pad=3)
    image = save(canvas, subject.folder / "curves.png", svg=True)
    caption = (
        "The training curve is of augmented images, in train mode, while the weights changed; it may lie below that of "
        "whole images."
    )
    return Section("Accuracy and loss", figures=(Figure(image, _alt_text(result), caption, data, wide=True),))


def _history(subject: Subject) -> dict[str, dict[int, float]]:
    """The values of each metric in the journal by epoch, counted from 1."""
    points = metric_history(subject.paths.journal)
    return {
        name: by_epoch
        for name, values in points.items()
        if not name.startswith("perf/")  # what the clock said: equal runs have equal files
        and (
            by_epoch := {epoch: value for epoch, value, _ in values if epoch}
        )  # step 0 has the metrics with one value a run
    }


def _write_history(subject: Subject, history: dict[str, dict[int, float]]) -> Path:
    epochs = range(1, subject.result["epochs"] + 1)
    rows = ((epoch, *(values.get(epoch) for values in history.values())) for epoch in epochs)
    return write_csv(subject.folder / "curves.csv", ("epoch", *history), rows)


def _draw_history(axes: Axes, history: dict[str, dict[int, float]], metric: Metric, validation: Validation) -> None:
    for images, label, colour, style in (
        ("train", "training", GREY, "--"),
        (validation.images, validation.legend, BLUE, "-"),
        (validation.ema_images, validation.ema_legend, GREEN, "-"),
    ):
        values = history.get(f"{metric.name}/{images}", {})
        if values:
            marker = "o" if len(values) < 60 else ""
            axes.plot([*values], [*values.values()], style, color=colour, lw=2, marker=marker, ms=4, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.03)


def _mark_chosen(axes: Axes, history: dict[str, dict[int, float]], result: dict[str, Any], metric: Metric) -> None:
    """Marks the epoch that validation chose, and the value of its weights on the test set."""
    chosen, validation = result["chosen_epoch"], VALIDATION[result["validation"]]
    if validation.chooses:
        value = history.get(f"{metric.name}/{validation.images}", {}).get(chosen, math.nan)
        axes.axvline(chosen, color=ORANGE, lw=1.2, ls=(0, (4, 2)), zorder=1)
        axes.plot(chosen, value, "o", ms=9, mfc="none", mec=ORANGE, mew=2, zorder=4,
                  label=f"chosen by validation, epoch {chosen}: {metric.shown(value)}")  # fmt: skip
    if validation.split != "test":  # with split test the measured curve ends in this very value
        value = math.nan if result["test"][metric.name] is None else result["test"][metric.name]
        axes.plot(chosen, value, "D", ms=7, mfc=VERMILLION, mec="white", zorder=5,
                  label=f"test, once: {metric.shown(value)}")  # fmt: skip


def _alt_text(result: dict[str, Any]) -> str:
    alt = f"Curves over {result['epochs']} epochs; training accuracy ends at {result['train_accuracy']:.1%}"
    if result["best_val_accuracy"] is not None:
        alt += f", validation is best in epoch {result['chosen_epoch']} with {result['best_val_accuracy']:.2%}"
    alt += f"; test accuracy {result['test']['accuracy']:.2%}"
    return f"{alt}, of the weights' EMA {result['ema']['test']['accuracy']:.2%}." if "ema" in result else f"{alt}."


def draw_schedule(subject: Subject) -> Section:
    """Draws the LR of every optimizer step as applied, and the momentum if it changed; the peak is marked.

    Raises:
        Gap: the run directory has no record of its steps.
    """
    lrs, momenta = _steps(subject)
    epochs = subject.result["epochs"]
    x = (np.arange(len(lrs)) + 1) * epochs / len(lrs)
    data = write_csv(
        subject.folder / "schedule.csv",
        ("step", "epochs_done", "lr", "momentum"),
        (
            (step, f"{done:.6g}", repr(lr), repr(m))
            for step, (done, lr, m) in enumerate(zip(x, lrs, momenta, strict=True))
        ),
    )
    peak = int(np.argmax(lrs))
    moves = max(momenta) > min(momenta)
    canvas = Canvas(figsize=(10.5, 5.6 if moves else 3.9))
    axes = canvas.subplots(2 if moves else 1, 1, sharex=True, squeeze=False, height_ratios=(2, 1) if moves else (1,))[
        :, 0
    ]
    _draw_steps(axes[0], x, np.array(lrs), BLUE, "learning rate")
    _mark_peak(axes[0], x, lrs, peak)
    if moves:
        _draw_steps(axes[1], x, np.array(momenta), ORANGE, "momentum")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    momentum = (
        f"momentum {min(momenta):.3g} to {max(momenta):.3g}" if moves else f"momentum {momenta[0]:.3g} throughout"
    )
    title = f"{len(lrs):,} optimizer steps; LR {lrs[0]:.4g} at first, {lrs[-1]:.4g} at last; {momentum}"
    axes[0].set_title(title, loc="left", fontsize=10, color=INK)
    canvas.tight_layout()
    image = save(canvas, subject.folder / "schedule.png", svg=True)
    alt = (
        f"Learning rate of {len(lrs):,} steps: {lrs[0]:.3g} at first, {lrs[peak]:.4g} at its peak in step {peak + 1:,} "
        f"(epoch {x[peak]:.1f}), {lrs[-1]:.3g} at last; {momentum}."
    )
    caption = "Read back from the optimizer after each step: what was applied, not what was planned."
    return Section("Learning rate and momentum", figures=(Figure(image, alt, caption, data, wide=True),))


def _steps(subject: Subject) -> tuple[list[float], list[float]]:
    """LR and momentum of each step, from steps.csv."""
    if not subject.paths.steps.exists():
        raise Gap(f"{subject.paths.steps.name} is missing from the run directory")
    with subject.paths.steps.open() as file:
        rows = list(csv.DictReader(file))
    return [float(row["lr"]) for row in rows], [float(row["momentum"]) for row in rows]


def _draw_steps(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(int))
    shown = np.union1d(shown, [values.argmax(), values.argmin()])
    axes.plot(x[shown], values[shown], color=colour, lw=2)
    axes.set_ylabel(label)
    axes.set_xlim(0, x[-1] * 1.01)
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_peak(axes: Axes, x: np.ndarray, lrs: Sequence[float], peak: int) -> None:
    """Draws a star at the highest LR, with its step; the label stays inside the axes."""
    top = lrs[peak]
    axes.set_ylim(-0.04 * top, 1.25 * top)
    axes.plot(x[peak], top, "*", ms=15, mfc=VERMILLION, mec="white", zorder=4, clip_on=False)
    share = x[peak] / x[-1]
    align = "left" if share < 0.1 else "right" if share > 0.9 else "center"
    axes.annotate(f"peak {top:.4g}\nstep {peak + 1:,}, epoch {x[peak]:.3g}", (x[peak], top), xytext=(0, 9),
                  textcoords="offset points", ha=align, va="bottom", fontsize=9)  # fmt: skip
