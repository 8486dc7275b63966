"""The part on the LR range test: loss over LR, the LR that each rule suggests, and the LRs that the run took."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from resnet_exp.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION, save
from resnet_exp.report.parts.miniatures import miniatures_section
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.contents import read_recorded
from resnet_exp.run_dir.files import write_csv
from resnet_exp.training.lr_range import RangeTest
from resnet_exp.training.range_curve import Curve
from resnet_exp.training.range_rules import Verdict

RULE_COLOURS = {"valley": GREEN, "steep": ORANGE, "minimum/10": SKY, "slide": PURPLE}
REPEAT_STYLES = ((INK, "-"), (INK, "--"), (INK, ":"), ("#777777", "-"), ("#777777", "--"))
HEADLINES = {"low_confidence": "Low confidence", "failed": "Failed"}
_CACHED = "Cached: an earlier run made this range test; all that determines a range test is the same in this run."
LABEL_WIDTH = 0.108  # of the axes: room for two lines such as "minimum/10", "0.00433"


def draw_range_test(subject: Subject) -> Section:
    """The part with the range test and the LRs that the run took from it.

    Raises:
        Gap: the run made no range test.
    """
    known = read_recorded(subject.paths.range_test)
    if known is None:
        raise Gap(f"there was no range test: max_lr={subject.result['max_lr']:g} was given")
    found = RangeTest.from_json(known)
    max_lr, min_lr = subject.result.get("max_lr"), subject.result.get("min_lr")
    section = range_test_section(found, max_lr, min_lr, subject.folder)
    return replace(section, text=_CACHED) if known.get("remembered") else section


def range_test_section(found: RangeTest, max_lr: float | None, min_lr: float | None, folder: Path) -> Section:
    """The part with the range test's figure, saved in the folder with the curves as CSV."""
    if found.miniatures:
        return miniatures_section(found, max_lr, folder)
    verdict = found.verdict
    columns = [f"{kind}_{i}" for i in range(1, len(found.curves) + 1) for kind in ("lr", "loss", "smoothed")]
    values = [
        column
        for curve, reading in zip(found.curves, verdict.readings, strict=True)
        for column in (curve.lrs, curve.losses, reading.smoothed)
    ]
    # The columns differ in length, since a repeat that diverges ends early.
    data = write_csv(folder / "range_test.csv", columns, zip_longest(*values))
    image = save(range_test_figure(verdict, found.curves, max_lr, min_lr), folder / "range_test.png", svg=True)
    suggested = "no LR" if verdict.suggestion is None else f"the LR {verdict.suggestion:.4g}"
    alt = (
        f"Training loss over the learning rate; {len(found.curves)} repeats suggest {suggested} ({verdict.reason})"
        + (f"; max_lr {max_lr:.4g}" if max_lr else "")
        + "."
    )
    caption = (
        "Thin: the loss of each step; thick: smoothed. The suggestion is where the smoothed loss is least within the "
        "first valley; dashed lines: the LRs that other rules suggest. max_lr is a multiple of the suggestion, which "
        "depends on the schedule."
    )
    return Section("LR range test", figures=(Figure(image, alt, caption, data, wide=True),))


def range_test_figure(
    verdict: Verdict,
    curves: Sequence[Curve],
    max_lr: float | None,
    min_lr: float | None,
    title: str = "LR range test",
) -> Canvas:
    """The figure of the range test: loss over LR, the LR that each rule suggests, and the LRs that were taken.

    Each repeat has its raw losses thin and its smoothed ones thick. Where repeats diverge or are non-finite the
    background is shaded, darker for more of them. A verdict other than ok is below the title, with its reason.

    Args:
        verdict: of `range_rules.judge`.
        curves: the repeats that it judged, in its order.
        max_lr: the schedule's peak, a multiple of what the curves suggest; marked if given.
        min_lr: where the schedule starts; marked if given.
        title: first line, above the axes.
    """
    figure = Canvas(figsize=(9.6, 6.2))
    chosen = _chosen(verdict, max_lr, min_lr)
    marked = bool(verdict.rules) or bool(chosen)
    axes = figure.add_axes((0.075, 0.175, 0.9, 0.59 if marked else 0.7))  # the rest is for labels above
    _draw_repeats(axes, verdict, curves)
    _set_limits(axes, verdict, curves, [lr for lr, *_ in chosen.values()])
    _shade_divergence(axes, verdict, curves)
    _draw_suggestions(axes, verdict, curves, chosen)
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("training loss (nats per image)")
    figure.legend(loc="lower center", bbox_to_anchor=(0.525, 0.005), ncols=3, fontsize=8.5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _write_title(figure, verdict, title)
    return figure


def _draw_repeats(axes: Axes, verdict: Verdict, curves: Sequence[Curve]) -> None:
    axes.set_xscale("log")
    for i, (curve, reading) in enumerate(zip(curves, verdict.readings, strict=True)):
        colour, style = REPEAT_STYLES[i % len(REPEAT_STYLES)]
        losses = np.asarray(curve.losses, dtype=float)
        losses[~np.isfinite(losses)] = np.nan  # not drawn; infinity would break the limits of the axis
        width, alpha = (0.7, 0.4) if reading.smoothed else (1.6, 0.9)
        axes.plot(curve.lrs[: len(losses)], losses, style, color=colour, lw=width, alpha=alpha, zorder=2)
        smoothed = reading.smoothed or [math.nan]
        label = f"repeat {i + 1}" + (", smoothed" if reading.smoothed else "")
        label += "" if reading.status == "ok" else f" ({reading.status.replace('_', ' ')})"
        axes.plot(curve.lrs[: len(smoothed)], smoothed, style, color=colour, lw=2.0, zorder=3, label=label)
        if reading.lr is not None and reading.loss_min is not None:
            axes.plot(reading.lr, reading.loss_min, "o", ms=5, mfc="white", mec=colour, mew=1.4, zorder=5)
    classes = round(math.exp(verdict.chance_loss))
    axes.axhline(verdict.chance_loss, color="#555555", lw=1.1, ls=(0, (6, 3)), zorder=1.5,
                 label=f"guessing, ln {classes} = {verdict.chance_loss:.2f}")  # fmt: skip


def _chosen(verdict: Verdict, max_lr: float | None, min_lr: float | None) -> dict[str, tuple[float, str, str, float]]:
    """The LRs that the rule suggests and the schedule takes, by name: LR, colour, marker, marker size."""
    marks: dict[str, tuple[float, str, str, float]] = {}
    if verdict.suggestion is not None and verdict.suggestion != max_lr:  # equal ones would cover each other
        marks["suggestion"] = (verdict.suggestion, INK, "o", 9)
    if max_lr is not None:
        marks["max_lr"] = (max_lr, VERMILLION, "*", 17)
    if min_lr is not None:
        marks["min_lr"] = (min_lr, BLUE, "D", 8)
    return marks


def _set_limits(axes: Axes, verdict: Verdict, curves: Sequence[Curve], marked: Sequence[float]) -> None:
    """Limits the axes to all LRs, and to losses from the least to a little above the untrained network's."""
    lrs = [lr for curve in curves for lr in (curve.lrs[0], curve.lrs[-1])] + list(marked)
    axes.set_xlim(min(lrs) / 1.15, max(lrs) * 1.15)
    # The upper limit comes from the losses before the divergence, without their worst tenth; larger ones are cut off.
    starts, leasts = [verdict.chance_loss], [verdict.chance_loss]
    for curve, reading in zip(curves, verdict.readings, strict=True):
        finite = [loss for loss in curve.losses if math.isfinite(loss)] or [verdict.chance_loss]
        starts.append(float(np.quantile(finite[: max(reading.valley_end, 5)], 0.9)))
        leasts.append(min(finite))
    low, high = min(leasts), max(starts)
    widen = max(0.5 * verdict.chance_loss - (high - low), 0.0) / 2  # or noise would fill the picture
    low, high = low - widen, high + widen
    axes.set_ylim(low - 0.12 * (high - low), high + 0.25 * (high - low))


def _shade_divergence(axes: Axes, verdict: Verdict, curves: Sequence[Curve]) -> None:
    ends = [reading.valley_end for reading in verdict.readings]
    starts = [curve.lrs[end] for curve, end in zip(curves, ends, strict=True) if end < len(curve.lrs)]
    for i, lr in enumerate(starts):  # the areas overlap, and so are darker where more repeats diverge
        label = "past a repeat's first valley: diverging" if i == 0 else None
        axes.axvspan(lr, axes.get_xlim()[1], color=VERMILLION, alpha=0.22 / len(curves), lw=0, zorder=0, label=label)


def _draw_suggestions(
    axes: Axes, verdict: Verdict, curves: Sequence[Curve], chosen: Mapping[str, tuple[float, str, str, float]]
) -> None:
    marks = [(lr, name, RULE_COLOURS[name], False) for name, lr in verdict.rules.items() if name in RULE_COLOURS]
    for name, (lr, colour, marker, size) in chosen.items():
        marks.append((lr, name, colour, True))
        _mark_on_curves(axes, verdict, curves, lr, colour, marker, size)
    marks.sort()
    low, high = (math.log10(limit) for limit in axes.get_xlim())
    wanted = [(math.log10(lr) - low) / (high - low) for lr, *_ in marks]
    for (lr, name, colour, is_chosen), x, at in zip(marks, wanted, _spread_out(wanted), strict=True):
        axes.axvline(lr, color=colour, lw=2.0 if is_chosen else 1.3, ls="-" if is_chosen else (0, (4, 2)), zorder=2.5)
        axes.annotate(f"{name}\n{lr:.3g}", xy=(x, 1.0), xytext=(at, 1.07), xycoords="axes fraction", ha="center",
                      va="bottom", fontsize=9, color=colour if is_chosen else INK,
                      fontweight="bold" if is_chosen else "normal", annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 1.3, "shrinkA": 1, "shrinkB": 0,
                                  "relpos": (0.5, 0.0)})  # fmt: skip


def _mark_on_curves(
    axes: Axes, verdict: Verdict, curves: Sequence[Curve], lr: float, colour: str, marker: str, size: float
) -> None:
    """Marks an LR at the mean of the usable smoothed curves there."""
    heights = [np.interp(math.log(lr), np.log(curve.lrs[: len(reading.smoothed)]), reading.smoothed)
               for curve, reading in zip(curves, verdict.readings, strict=True) if reading.lr is not None]  # fmt: skip
    if heights:
        axes.plot(lr, np.mean(heights), marker, ms=size, mfc=colour, mec="white", mew=1.2, zorder=6)


def _spread_out(wanted: Sequence[float]) -> list[float]:
    """Returns label positions near the wanted ones (rising), LABEL_WIDTH apart, in fractions of the axes."""
    at = list(wanted)
    for _ in range(200):  # neighbours that overlap push each other apart; the edges push back
        for i in range(len(at) - 1):
            overlap = max(LABEL_WIDTH - (at[i + 1] - at[i]), 0.0)
            at[i], at[i + 1] = at[i] - overlap / 2, at[i + 1] + overlap / 2
        at = [min(max(x, 0.0), 1.0 - LABEL_WIDTH / 4) for x in at]
    return at


def _write_title(figure: Canvas, verdict: Verdict, title: str) -> None:
    figure.text(0.02, 0.975, title, fontsize=14, fontweight="bold", va="top")
    if headline := HEADLINES.get(verdict.status):
        lines = textwrap.wrap(f"{headline}: {verdict.reason}", 125, max_lines=2, placeholder=" …")
        figure.text(0.02, 0.928, "\n".join(lines), fontsize=10, va="top", color="#A33E00", linespacing=1.25)
    else:
        text = f"suggestion {verdict.suggestion:.3g}: {verdict.reason}"
        figure.text(0.02, 0.928, text, fontsize=10, va="top", color="#333333")
