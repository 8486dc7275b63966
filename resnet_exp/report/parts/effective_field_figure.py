"""The figure of effective receptive fields: heat maps side by side, with axes in pixels and one colour bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from resnet_exp.report.drawing import INK, SKY
from resnet_exp.report.heat_maps import COLOURS

_COLUMNS = 4  # that fit on a page
_PANEL = 2.1  # inches of a heat map's side
_BESIDE, _OVER, _UNDER = 0.2, 0.48, 0.78  # inches: between heat maps, for the text above and below each
_LEFT, _RIGHT, _TITLE = 0.62, 0.95, 0.45  # inches: for the axis, the colour bar, the title
_LETTERS = 24  # of a layer's name at most


@dataclass(frozen=True)
class Panel:
    """One heat map, and the texts above and below it."""

    name: str
    size: str
    values: np.ndarray  # [H, W], 0..1
    text: str
    square: tuple[tuple[float, float], tuple[float, float]] | None  # first and last row, first and last column


def effective_field_figure(panels: Sequence[Panel]) -> Figure:
    """The heat maps, up to four in a row, in rows of about equal length, with a dashed square if they have one."""
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = math.ceil(len(panels) / rows)
    width = max(_LEFT + columns * (_PANEL + _BESIDE) + _RIGHT, 6.6)
    down = _OVER + _PANEL + _UNDER
    height = _TITLE + rows * down
    figure = Figure(figsize=(width, height))
    figure.text(0.1 / width, 1 - 0.1 / height, "Effective receptive field of the unit in the middle of each layer",
                fontsize=13, fontweight="bold", va="top", color=INK)  # fmt: skip
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        left, bottom = _LEFT + column * (_PANEL + _BESIDE), height - _TITLE - row * down - _OVER - _PANEL
        axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
        _draw(axes, panel)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("pixels", fontsize=9)
    left = _LEFT + columns * (_PANEL + _BESIDE)
    bar = figure.add_axes((left / width, (height - _TITLE - _OVER - _PANEL) / height, 0.13 / width, _PANEL / height))
    drawn = figure.colorbar(ScalarMappable(cmap=COLOURS), cax=bar)
    drawn.outline.set_linewidth(0.5)
    bar.tick_params(labelsize=8.5)
    bar.set_ylabel("relative to the largest", fontsize=9)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    height, width = panel.values.shape
    axes.imshow(panel.values, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
    name = panel.name if len(panel.name) <= _LETTERS else f"…{panel.name[1 - _LETTERS :]}"
    axes.set_title(f"{name}\n{panel.size}", fontsize=9.5, color=INK)
    axes.set_xlabel(panel.text, fontsize=9, color=INK, labelpad=4)
    axes.tick_params(labelsize=8.5)
    axes.locator_params(nbins=5, integer=True)
    if panel.square is not None:
        (top, bottom), (left, right) = (
            (max(first, 0) - 0.5, min(last, side - 1) + 0.5)
            for (first, last), side in zip(panel.square, (height, width), strict=True)
        )
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=SKY, linewidth=1.8,
                                 linestyle=(0, (4, 2)), clip_on=False, zorder=3))  # fmt: skip
