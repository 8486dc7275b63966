"""What the figures share: colours, how they are saved, and images set side by side.

Drawn through matplotlib's object interface, never pyplot, so that no window system and no global state is involved.
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
# It warns of each font of its own that this machine lacks; the one that is drawn is always there.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def save(figure: Figure, path: Path, *, svg: bool = False) -> Path:
    """The picture at `path`, a `.png`, and with `svg` the same as SVG beside it; equal figures give equal bytes.

    Returns:
        The SVG where there is one, else the PNG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "resnet_exp", "svg.fonttype": "none"}):
        figure.savefig(path, format="png", dpi=DPI)
        if not svg:
            return path
        vector = path.with_suffix(".svg")
        figure.savefig(vector, format="svg", metadata={"Date": None})
        return vector


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images `[..., H, W, 3], uint8` of grey or colour ones `[..., H, W, C], uint8`; of others the first channel."""
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
