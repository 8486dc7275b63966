"""The figure of class activation maps: images in rows, each with heat maps of its layers in groups of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from resnet_exp.report.drawing import INK, mosaic
from resnet_exp.report.heat_maps import COLOURS, enlarged, overlaid
from resnet_exp.report.network.class_maps import ClassMaps
from resnet_exp.report.tiles import short

_WIDTH, _LEAST = 10.4, 6.6  # inches: width with nine columns, and least width
_CELL = 1.2  # inches of an image's side at most
_LABELS, _APART, _EDGE = 1.75, 0.14, 0.1  # inches: the column of labels, between groups, at the edges
_TITLES, _LINE, _SCALE = 0.72, 0.145, 0.55  # inches: above the layers' names, a line of them, for the colour bar
_GAP = 4  # pixels between images
_LETTERS, _LINES = 12, 3  # of a layer's name: letters in a line, lines


@dataclass(frozen=True)
class Group:
    """Columns under one title: the maps of each layer, by its name, for one class of each image."""

    key: str  # in the data file
    title: str
    maps: dict[str, ClassMaps]

    def part(self, images: slice) -> Group:
        """The same with these images alone."""
        return Group(self.key, self.title, {name: maps.part(images) for name, maps in self.maps.items()})


def gradcam_figure(
    title: str, pixels: np.ndarray, labels: Sequence[Sequence[str]], groups: Sequence[Group], scale: str
) -> Figure:
    """The images below one another, each with its maps on the right; one colour bar for all.

    Args:
        title: first line.
        pixels: the images, `[N, S, S, 3], uint8`.
        labels: for each image the lines on its left; the first is bold.
        groups: at least one, all with the same layers.
        scale: what the colour bar measures.
    """
    layers, images = groups[0].maps, enlarged(pixels)
    columns = 1 + len(groups) * len(layers)
    cell = min(_CELL, (_WIDTH - _LABELS - len(groups) * _APART - _EDGE) / columns)
    heads = [_head(name, maps.side) for name, maps in layers.items()]
    right = _LABELS + columns * cell + len(groups) * _APART
    width = max(right + _EDGE, _LEAST)
    above = _TITLES + _LINE * max(len(head) for head in heads)
    height = above + len(pixels) * cell + _SCALE
    figure = Figure(figsize=(width, height))
    figure.text(_EDGE / width, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top", color=INK)
    grid = figure.add_gridspec(
        1, 1 + 2 * len(groups), left=_LABELS / width, right=right / width, bottom=_SCALE / height,
        top=1 - above / height, wspace=0, width_ratios=[cell, *(_APART, len(layers) * cell) * len(groups)],
    )  # fmt: skip
    axes = [figure.add_subplot(grid[0, column]) for column in range(0, 1 + 2 * len(groups), 2)]
    _show(axes[0], images[:, None])
    _write_labels(axes[0], labels, images.shape[1])
    for place, group in zip(axes[1:], groups, strict=True):
        _show(place, np.stack([overlaid(images, maps.values) for maps in group.maps.values()], axis=1))
        _write_heads(place, group.title, heads, images.shape[1])
        _mark_even(place, group, images.shape[1])
    _draw_scale(figure, scale, _LABELS)
    return figure


def _show(axes: Axes, cells: np.ndarray) -> None:
    """Draws images `[rows, columns, P, P, 3], uint8` as one picture; axes units are its pixels."""
    axes.imshow(mosaic(cells, gap=_GAP), aspect="auto")
    axes.set_axis_off()


def _head(name: str, side: int) -> list[str]:
    """A layer's name in a few lines, broken at its dots, a long one without its beginning; then its map's size."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?", name):
        if lines[-1] and len(lines[-1] + part) > _LETTERS:
            lines.append("")
        lines[-1] += part if len(part) <= _LETTERS else f"…{part[1 - _LETTERS :]}"
    if len(lines) > _LINES:
        lines = [f"…{lines[-_LINES][1 - _LETTERS :]}", *lines[1 - _LINES :]]
    return [*lines, f"{side}x{side}"]


def _write_heads(axes: Axes, title: str, heads: Sequence[Sequence[str]], side: int) -> None:
    """Writes the group's title, and below it the names of its columns."""
    most = max(len(head) for head in heads)
    for column, head in enumerate(heads):
        axes.annotate("\n".join(head), (column * (side + _GAP) + side / 2, 0), (0, 3), textcoords="offset points",
                      ha="center", va="bottom", fontsize=8.5, linespacing=1.15, color=INK)  # fmt: skip
    axes.annotate(title, (0.5, 1), (0, 9 + 10.5 * most), xycoords="axes fraction", textcoords="offset points",
                  ha="center", va="bottom", fontsize=10.5, color=INK)  # fmt: skip


def _write_labels(axes: Axes, labels: Sequence[Sequence[str]], side: int) -> None:
    """Writes each image's lines on its left, the middle line at the middle of the image."""
    for row, lines in enumerate(labels):
        middle = row * (side + _GAP) + side / 2
        for i, line in enumerate(lines):
            above = 12.5 * ((len(lines) - 1) / 2 - i)
            axes.annotate(short(line, _LABELS - 0.15, 9), (0, middle), (-6, above), textcoords="offset points",
                          ha="right", va="center", fontsize=9, fontweight="normal" if i else "bold", color=INK,
                          parse_math=False)  # fmt: skip


def _mark_even(axes: Axes, group: Group, side: int) -> None:
    """Writes on maps without a bright place `none`, no evidence for the class, or `even`, equal evidence everywhere."""
    dark = {"boxstyle": "round", "facecolor": "#000000B0", "edgecolor": "none"}
    for column, maps in enumerate(group.maps.values()):
        for row in np.flatnonzero(maps.even):
            x, y = (place * (side + _GAP) + side / 2 for place in (column, int(row)))
            text = "even" if maps.largest[row] > 0 else "none"
            axes.text(x, y, text, fontsize=9, color="white", ha="center", va="center", bbox=dark)


def _draw_scale(figure: Figure, label: str, left: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 0.35 / height, 1.6 / width, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), cax=axes, orientation="horizontal", ticks=(0, 0.5, 1))
    bar.outline.set_linewidth(0.5)
    axes.tick_params(labelsize=8.5, length=2, pad=2)
    axes.annotate(label, (1, 0.5), (10, 0), xycoords="axes fraction", textcoords="offset points", va="center",
                  fontsize=9, color=INK)  # fmt: skip
