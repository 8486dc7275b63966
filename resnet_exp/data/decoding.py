"""Decodes an image file of any format, mode and size into a uint8 array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


class Decoded(NamedTuple):
    """A run of images: pixels `[N, H, W, C], uint8, 0..255` of those that can be read, and why the others cannot."""

    pixels: np.ndarray
    unreadable: list[tuple[int, str]]  # index in the run, reason
    grey: bool  # the channels of every pixel are equal


def decode_run(paths: list[Path], image_size: int, channels: int) -> Decoded:
    """The images in these files, in order, without those that cannot be read; these are listed with the reason."""
    pixels = np.empty((len(paths), image_size, image_size, channels), np.uint8)
    unreadable = []
    row = 0
    for index, path in enumerate(paths):
        try:
            pixels[row] = decode_image(path, image_size, channels)
            row += 1
        except MemoryError:  # says nothing about the file
            raise
        except Exception as error:  # Pillow raises many types for broken files
            unreadable.append((index, _reason(error)))
    pixels = pixels[:row]
    return Decoded(pixels, unreadable, bool((pixels == pixels[..., :1]).all()))


def decode_image(path: Path, image_size: int, channels: int) -> np.ndarray:
    """The image `[image_size, image_size, channels], uint8, 0..255`.

    Rotated as its EXIF tag says; transparent parts on white; 16 bits reduced to 8; the first frame of several; the
    shorter side resized (bilinear, antialiased), the longer one cropped to the middle.

    Raises:
        Exception: Of many types, where the file is no image that Pillow can read to its end.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        opened.draft(None, (2 * image_size, 2 * image_size))  # JPEG only: decodes a large photo at 1/2, 1/4 or 1/8
        opened.load()
        image = _eight_bit(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image_size, image_size, channels)


def _eight_bit(image: Image, mode: str) -> Image:
    """The image in mode `L` or `RGB`."""
    from PIL import Image as Images

    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Images.fromarray(_from_16_bits(np.asarray(image))).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    """The values 0..65535 scaled to 0..255; Pillow's own conversion would clip them at 255."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its 32-bit pixels are outside 0..65535; save it with 8 or 16 bits")
    return np.round(values.astype(np.float32) / 257).astype(np.uint8)


def _reason(error: Exception) -> str:
    """The reason in one line, without the path: messages add that, and a cached reason must fit a moved folder."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).split("\n")[0]
    return "not an image" if text.startswith("cannot identify") else text or type(error).__name__
