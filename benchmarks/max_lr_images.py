"""`make_images`: the data sets that the cells of `max_lr.py` need beside CIFAR-10 (JPEG), as folders of images."""

from __future__ import annotations

import string
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE = 32
_LETTERS = string.ascii_uppercase + string.digits
_PER_CLASS = {"train": 140, "test": 10}
_TINY = 256  # classes, each with one image


def make_images(cifar: Path, folder: Path) -> None:
    """Writes `tiny`, 256 classes of one image, and `letters`, 36 classes of grey letters and digits, into the folder.

    Args:
        cifar: CIFAR-10 (JPEG), a folder of images.
        folder: where to; it is made.
    """
    _make_tiny(cifar, folder / "tiny")
    _make_letters(folder / "letters")


def _make_tiny(cifar: Path, folder: Path) -> None:
    """Each image is a class of its own; the test image is the same one, brighter and two pixels to the side."""
    paths = sorted((cifar / "train").glob("*/*.jpg"))
    for number, path in enumerate(paths[:: len(paths) // _TINY][:_TINY]):
        pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
        moved = np.clip(np.roll(pixels, 2, axis=1) * 1.2, 0, 255)
        for split, image in (("train", pixels), ("test", moved)):
            target = folder / split / f"{number:03}"
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(target / "image.png")


def _make_letters(folder: Path) -> None:
    """Letters in matplotlib's fonts: turned, sheared, moved, crossed by strokes, noisy, of any contrast."""
    random = np.random.default_rng(0)
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.stem]
    for split, count in _PER_CLASS.items():
        for letter in _LETTERS:
            target = folder / split / letter
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                font = ImageFont.truetype(str(fonts[random.integers(len(fonts))]), int(random.integers(20, 34)))
                _letter(letter, font, random).save(target / f"{number:03}.png")


def _letter(letter: str, font: ImageFont.FreeTypeFont, random: np.random.Generator) -> Image.Image:
    side = 2 * _SIDE  # drawn larger, then made smaller
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    draw.text((side / 2, side / 2), letter, fill=255, font=font.font_variant(size=2 * font.size), anchor="mm")
    angle, shear = np.radians(random.uniform(-25, 25)), random.uniform(-0.4, 0.4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.array([[1, shear], [0, 1]])
    middle = np.full(2, side / 2)
    shift = middle - turn @ (middle + random.uniform(-10, 10, 2))
    image = image.transform((side, side), Image.Transform.AFFINE, (*turn[0], shift[0], *turn[1], shift[1]))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        ends = [tuple(random.uniform(0, side, 2)) for _ in range(2)]
        draw.line(ends, fill=int(random.integers(0, 256)), width=int(random.integers(2, 7)))
    pixels = np.asarray(image.resize((_SIDE, _SIDE)), dtype=np.float64)
    low, high = random.uniform(0, 110), random.uniform(120, 255)
    pixels = low + (high - low) * pixels / 255 + random.normal(0, 30, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
