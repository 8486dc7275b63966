"""What all figures share: colours, saving, and images side by side.

Figures are drawn through matplotlib's object interface, never pyplot, so that no window system and no global state is
involved.
"""

from __future__ import annotations

import logging
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

# Safe for red-green blindness. Source: Okabe & Ito 2008, "Color Universal Design".
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
INK, GREY = "#222222", "#777777"
DPI = 150
# matplotlib warns of each font in its list that the machine lacks; the one that it draws with is always there.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def save(figure: Figure, path: Path, *, svg: bool = False) -> Path:
    """Saves the figure as a PNG at `path`, with `svg` as SVG too; equal figures give equal bytes.

    Returns:
        The path of the SVG if there is one, else of the PNG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Fixed ids instead of random ones; text stays text instead of outlines.
    with mpl.rc_context({"svg.hashsalt": "resnet_exp", "svg.fonttype": "none"}):
        figure.savefig(path, format="png", dpi=DPI)
        if not svg:
            return path
        vector = path.with_suffix(".svg")
        figure.savefig(vector, format="svg", metadata={"Date": None})
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
