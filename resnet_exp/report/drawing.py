"""What all figures share: style, colours, saving, and images side by side.

Figures are drawn through matplotlib's object interface, never pyplot, so that no window system is involved.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from resnet_exp.report import fonts
from resnet_exp.run_dir.files import written_durably

# Safe for red-green blindness. Source: Okabe & Ito 2008, "Color Universal Design".
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
INK, GREY = "#222222", "#777777"
DPI = 150
# Fixed ids in an SVG instead of random ones; its text stays text instead of outlines.
_STYLE: Any = {"svg.hashsalt": "resnet_exp", "svg.fonttype": "none"}
_MISSING = re.compile(r"Glyph (\d+) .*missing from font")  # how matplotlib's warning begins
# Style and warnings belong to the process: a sweep draws from a thread of its own, beside a job that may draw too.
_DRAWING = threading.RLock()
# matplotlib warns of each font in its list that the machine lacks; the one that it draws with is always there.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

Drawn = TypeVar("Drawn")


def in_own_style(draw: Callable[[], Drawn]) -> Drawn:
    """What `draw` returns; its figures depend on matplotlib's own style and on installed fonts, not on user settings.

    A matplotlibrc could turn images upside down (`image.origin`), want LaTeX (`text.usetex`) or cut texts off
    (`font.size`). Where matplotlib's font lacks a character, `draw` is called again with the fonts that have it.
    """
    with _DRAWING:
        while True:
            with _own_style(), _missing_characters() as missing:
                result = draw()
            if not fonts.look_for(missing):
                return result


@contextmanager
def _own_style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.use("agg")  # for a user's own figure that is made with pyplot
        mpl.rcParams.update({**_STYLE, "font.family": list(fonts.families())})
        yield


@contextmanager
def _missing_characters() -> Iterator[set[str]]:
    """A block whose warnings of characters without a glyph are collected; others are passed on at its end."""
    found: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _MISSING.pattern)
        try:
            yield found
        finally:
            others = []
            for warning in caught:
                missing = _MISSING.match(str(warning.message))
                if missing is None:
                    others.append(warning)
                else:
                    found.add(chr(int(missing[1])))
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def save(figure: Figure, path: Path, *, svg: bool = False) -> Path:
    """Saves the figure as a PNG at `path`, with `svg` as SVG too; equal figures give equal bytes.

    Returns:
        The path of the SVG if there is one, else of the PNG.

    Raises:
        Unwritable: there is no room, say.
    """
    with mpl.rc_context(_STYLE):
        with written_durably(path) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
        if not svg:
            return path
        vector = path.with_suffix(".svg")
        with written_durably(vector) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})
        return vector


def as_rgb(images: np.ndarray) -> np.ndarray:
    """RGB images `[..., H, W, 3], uint8` from `[..., H, W, C]`: colour as it is, else the first channel as grey."""
    return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)


def mosaic(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """One picture `[R*(H+gap)-gap, C*(W+gap)-gap, 3], uint8` of images `[R, C, H, W, 3], uint8`, white between them.

    Image (r, c) begins at pixel (r * (H + gap), c * (W + gap)).
    """
    rows, columns, height, width, _ = images.shape
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            whole[top : top + height, left : left + width] = images[row, column]
    return whole
