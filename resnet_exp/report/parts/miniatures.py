"""The part on the miniature runs: the loss of each, and where the last losses are least."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from resnet_exp.report.drawing import INK, VERMILLION, save
from resnet_exp.report.section import Figure, Section
from resnet_exp.run_dir.files import write_csv
from resnet_exp.training.lr_range import RangeTest
from resnet_exp.training.miniatures import one_cycle

Colour = tuple[float, float, float, float]


def miniatures_section(found: RangeTest, max_lr: float | None, folder: Path) -> Section:
    """The part with the miniatures' figure, saved in the folder with their losses as CSV."""
    columns = ["step", *(f"loss_at_{one.max_lr:.4g}" for one in found.miniatures)]
    steps = range(1, found.miniatures[0].steps + 1)
    # The columns differ in length, since a run that is lost ends early.
    rows = zip_longest(steps, *(one.losses for one in found.miniatures))
    data = write_csv(folder / "range_test.csv", columns, rows)
    image = save(miniatures_figure(found, max_lr), folder / "range_test.png", svg=True)
    verdict = found.verdict
    suggested = "no LR" if verdict.suggestion is None else f"the LR {verdict.suggestion:.4g}"
    taken = f"; max_lr {max_lr:.4g}" if max_lr else ""
    alt = (
        f"Left, the loss of {len(found.miniatures)} short runs; right, their last losses over max_lr: they suggest "
        f"{suggested} ({verdict.reason}){taken}."
    )
    caption = (
        "Each miniature is a complete one-cycle of a few steps with a new network. The suggestion is where a parabola "
        "through the best one and its neighbours is least. With SGD and batch normalisation a long run bears more."
    )
    return Section("LR range test", figures=(Figure(image, alt, caption, data, wide=True),))


def miniatures_figure(found: RangeTest, max_lr: float | None) -> Canvas:
    """The figure: the loss of each step of each miniature, and their last losses over max_lr.

    Args:
        found: the miniatures, and the verdict on them.
        max_lr: the schedule's peak; marked if given.
    """
    figure = Canvas(figsize=(10.4, 5.2))
    left, right = figure.add_axes((0.065, 0.13, 0.4, 0.66)), figure.add_axes((0.55, 0.13, 0.43, 0.66))
    made = found.miniatures
    colours = [mpl.colormaps["viridis"](place) for place in np.linspace(0.0, 0.88, len(made))]
    _draw_losses(left, found, colours)
    _draw_ends(right, found, colours)
    _mark(right, found.verdict.suggestion, max_lr)
    chance = found.verdict.chance_loss
    for axes in (left, right):
        axes.axhline(chance, color="#555555", lw=1.1, ls=(0, (6, 3)), zorder=1)
        axes.spines[["top", "right"]].set_visible(False)
    ends = [one.end for one in made if math.isfinite(one.end)]
    right.set_ylim(*_limits([*ends, chance], 1.15 * chance))
    firsts = [one.losses[0] for one in made if one.losses]
    left.set_ylim(*_limits([loss for one in made for loss in one.losses], 1.3 * max([chance, *firsts])))
    left.annotate("guessing", (made[0].steps, chance), fontsize=8.5, color="#555555", ha="right", va="bottom")
    figure.text(0.02, 0.965, "max_lr by miniature runs", fontsize=14, fontweight="bold", va="top")
    text = "\n".join(textwrap.wrap(found.verdict.reason, 130, max_lines=2, placeholder=" …"))
    figure.text(
        0.02, 0.905, text, fontsize=10, va="top", color="#333333" if found.verdict.status == "ok" else "#A33E00"
    )
    return figure


def _limits(losses: Sequence[float], most: float) -> tuple[float, float]:
    """Those of an axis that has these losses, without the ones far above guessing, which would flatten the rest."""
    shown = [loss for loss in losses if loss < most] or [0.0]
    room = 0.06 * (max(shown) - min(shown) or 1.0)
    return min(shown) - room, max(shown) + room


def _draw_losses(axes: Axes, found: RangeTest, colours: Sequence[Colour]) -> None:
    for one, colour in zip(found.miniatures, colours, strict=True):
        steps = np.arange(1, len(one.losses) + 1)
        label = f"{one.max_lr:.3g}" + ("" if len(one.losses) == one.steps else ", lost")
        axes.plot(steps, one.losses, color=colour, lw=1.5, label=label)
        peak = int(np.argmax(one_cycle(one.max_lr, one.steps)))
        if peak < len(one.losses):
            axes.plot(steps[peak], one.losses[peak], "^", color=colour, ms=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step (triangle: the peak of the LR)")
    axes.set_ylabel("training loss (nats per image)")
    axes.legend(title="max_lr", fontsize=8.5, title_fontsize=8.5, frameon=False, loc="upper right", ncols=2)


def _draw_ends(axes: Axes, found: RangeTest, colours: Sequence[Colour]) -> None:
    made = [(one, colour) for one, colour in zip(found.miniatures, colours, strict=True) if math.isfinite(one.end)]
    axes.plot([one.max_lr for one, _ in made], [one.end for one, _ in made], color=INK, lw=1.2, zorder=2)
    for one, colour in made:
        axes.plot(one.max_lr, one.end, "o", color=colour, ms=8, zorder=3)
    for one in found.miniatures:
        if not math.isfinite(one.end):
            axes.annotate(
                "lost", (one.max_lr, 0.9), xycoords=("data", "axes fraction"), ha="center", va="top", color=INK
            )
    axes.set_xscale("log")
    axes.set_xlim(found.miniatures[0].max_lr / 2, found.miniatures[-1].max_lr * 2)
    axes.set_xlabel("max_lr (log scale)")
    axes.set_ylabel("mean of the last losses (nats per image)")


def _mark(axes: Axes, suggestion: float | None, max_lr: float | None) -> None:
    marks = {"suggestion": (suggestion, INK), "max_lr": (max_lr, VERMILLION)}
    known = [(lr, name, colour) for name, (lr, colour) in marks.items() if lr is not None]
    low, high = axes.get_xlim()
    axes.set_xlim(min([low, *(lr / 1.5 for lr, *_ in known)]), max([high, *(lr * 1.5 for lr, *_ in known)]))
    for number, (lr, name, colour) in enumerate(sorted(known)):
        place = (lr, 1.02 if number % 2 == 0 else 1.14)  # neighbours may be close
        axes.axvline(lr, color=colour, lw=1.6, zorder=1.5)
        axes.annotate(f"{name}\n{lr:.3g}", place, xycoords=("data", "axes fraction"), ha="center", va="bottom",
                      fontsize=9, color=colour, fontweight="bold", annotation_clip=False)  # fmt: skip
