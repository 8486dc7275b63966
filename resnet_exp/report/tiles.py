"""`draw_tiles`: images side by side in one figure, each with a few lines of text below it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from resnet_exp.report import fonts
from resnet_exp.report.drawing import DPI, GREY, INK, as_rgb

_SIDE = 1.16  # inches of an image
_GAP = 0.13  # inches between images
_LINE = 0.155  # inches of a line of text
_FONT = 8.5  # points
_WORDS = 1.2  # inches of a line below an image
_LEAST_PIXELS = 96  # of a side: smaller images are enlarged by a whole factor, so that their pixels stay sharp


@dataclass(frozen=True)
class Tile:
    """An image `[H, W, C], uint8`, lines of (text, colour) below it, and the colour of its frame."""

    image: np.ndarray
    lines: tuple[tuple[str, str], ...] = ()
    frame: str | None = None


def short(text: str, inches: float = _WORDS, points: float = _FONT) -> str:
    """The text in one line of at most `inches`; a wider text loses its middle, since names often differ at the ends.

    Bytes of a file name that are not text become `?`, and so do characters that no installed font has. Draw it with
    `parse_math=False`, so that a `$` stays a `$`.
    """
    line = " ".join(text.encode(errors="replace").decode().splitlines())
    return _cut(fonts.drawable(line), inches, points, fonts.families())


@cache
def _cut(line: str, inches: float, points: float, families: tuple[str, ...]) -> str:
    """The line, cut to its width in these fonts."""
    if _width(line, points) <= inches:
        return line
    letters = bisect_right(range(2, len(line)), inches, key=lambda most: _width(_without_middle(line, most), points))
    return _without_middle(line, letters + 1)


def _without_middle(text: str, most: int) -> str:
    """The text cut to `most` characters, an ellipsis in its middle; two are left at least."""
    end = max((most - 1) // 2, 1)
    beginning = text[: max(most, 2) - 1 - end]
    return f"{beginning.rstrip() or beginning}…{text[-end:].lstrip()}"  # a beginning of blanks alone is not stripped


def _width(line: str, points: float) -> float:
    """The width of a line in inches."""
    pixels, _, _ = RendererAgg(1, 1, DPI).get_text_width_height_descent(line, FontProperties(size=points), False)
    return pixels / DPI


def draw_tiles(
    rows: Sequence[Sequence[Tile]], *, heads: Sequence[str] = (), sides: Sequence[str] = (), side_inches: float = 1.9
) -> Canvas:
    """The figure of the tiles, row by row.

    Args:
        rows: at least one, each with a tile; they may be of different lengths.
        heads: the text above each column.
        sides: the text left of each row, of one line or several.
        side_inches: their width.
    """
    lines = max(len(tile.lines) for row in rows for tile in row)
    left, top = (side_inches if sides else 0.08), (0.3 if heads else 0.08)
    step_x, step_y = _SIDE + _GAP, _SIDE + _GAP + lines * _LINE
    width, height = left + max(map(len, rows)) * step_x, top + len(rows) * step_y
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches from the top left
    axes.axis("off")
    _draw_images(axes, rows, left, top, step_x, step_y)
    for row_number, row in enumerate(rows):
        y = top + row_number * step_y
        if sides:
            axes.text(left - 0.12, y + _SIDE / 2, sides[row_number], ha="right", va="center", fontsize=9, color=INK,
                      parse_math=False)  # fmt: skip
        for column, tile in enumerate(row):
            _write_under(axes, tile, left + column * step_x, y + _SIDE)
    for column, head in enumerate(heads):
        axes.text(left + column * step_x + _SIDE / 2, top - 0.08, head, ha="center", fontsize=9, color=GREY)
    return canvas


def _draw_images(
    axes: Axes, rows: Sequence[Sequence[Tile]], left: float, top: float, step_x: float, step_y: float
) -> None:
    """Draws all images as one picture, since hundreds of axes would take seconds."""
    first = enlarged(rows[0][0].image)
    dots = len(first) / _SIDE  # pixels an inch
    columns = max(map(len, rows))
    whole = np.full((math.ceil(len(rows) * step_y * dots), math.ceil(columns * step_x * dots), 3), 255, np.uint8)
    for row_number, row in enumerate(rows):
        for column, tile in enumerate(row):
            y, x = round(row_number * step_y * dots), round(column * step_x * dots)
            image = enlarged(tile.image)
            whole[y : y + len(image), x : x + len(image)] = image
            if tile.frame:
                corner = (left + x / dots, top + y / dots)
                axes.add_patch(Rectangle(corner, _SIDE, _SIDE, fill=False, ec=tile.frame, lw=2.2, zorder=3))
    extent = (left, left + whole.shape[1] / dots, top + whole.shape[0] / dots, top)
    axes.imshow(whole, extent=extent, interpolation="nearest" if len(first) <= 2 * _LEAST_PIXELS else "antialiased")
    axes.set_aspect("auto")


def _write_under(axes: Axes, tile: Tile, x: float, y: float) -> None:
    for number, (words, colour) in enumerate(tile.lines):
        axes.text(x, y + 0.07 + number * _LINE, short(words), ha="left", va="top", fontsize=_FONT, color=colour,
                  parse_math=False)  # fmt: skip


def enlarged(image: np.ndarray) -> np.ndarray:
    """The image in RGB, each pixel repeated until the side has at least 96 pixels."""
    factor = math.ceil(_LEAST_PIXELS / len(image))
    return as_rgb(image).repeat(factor, 0).repeat(factor, 1)


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
    """The tiles in rows of `columns`, the last one perhaps shorter."""
    return [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
