"""Decodes an image file of any format, mode and size into a uint8 array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resnet_exp.data.eight_bits import eight_bit
from resnet_exp.data.image_file import MAX_MEGAPIXELS, MAX_METADATA_BYTES, opened_image
from resnet_exp.interfaces import RunError

if TYPE_CHECKING:
    from PIL.Image import Image


class Decoded(NamedTuple):
    """A run of images: pixels `[N, H, W, C], uint8, 0..255` of those that can be read, and why the others cannot."""

    pixels: np.ndarray
    unreadable: list[tuple[int, str]]  # index in the run, reason
    grey: bool  # the channels of every pixel are equal


def decode_run(
    paths: list[Path],
    image_size: int,
    channels: int,
    max_megapixels: int = MAX_MEGAPIXELS,
    stopped: Callable[[], bool] = lambda: False,
) -> Decoded:
    """The images in these files, in order, without those that cannot be read; these are listed with the reason.

    Raises:
        RunError: A file needs more memory than there is.
    """
    pixels = np.empty((len(paths), image_size, image_size, channels), np.uint8)
    unreadable = []
    row = 0
    for index, path in enumerate(paths):
        if stopped():
            break
        try:
            pixels[row] = decode_image(path, image_size, channels, max_megapixels)
            row += 1
        except MemoryError as error:  # says nothing about the file
            raise RunError(f"{path}: there is too little memory to decode it; fewer processes need less") from error
        except Exception as error:  # Pillow raises many types for broken files
            unreadable.append((index, _reason(error)))
    pixels = pixels[:row]
    return Decoded(pixels, unreadable, bool((pixels == pixels[..., :1]).all()))


def decode_image(path: Path, image_size: int, channels: int, max_megapixels: int = MAX_MEGAPIXELS) -> np.ndarray:
    """The image `[image_size, image_size, channels], uint8, 0..255`.

    Rotated as its EXIF tag says; transparent parts on white; other bits scaled to 8; the first frame of several; the
    shorter side resized (bilinear, antialiased), the longer one cropped to the middle.

    Raises:
        Exception: Of many types, where the file is no image that Pillow can read to its end.
    """
    from PIL import Image as Images
    from PIL import ImageOps

    mode = "L" if channels == 1 else "RGB"
    with opened_image(path, max_megapixels) as opened:
        opened.draft(None, (2 * image_size, 2 * image_size))  # JPEG only: decodes a large photo at 1/2, 1/4 or 1/8
        image = _turned(eight_bit(opened, mode), opened)
        if image.size != (image_size, image_size):
            image = ImageOps.fit(image, (image_size, image_size), Images.Resampling.BILINEAR)
        return np.asarray(image.convert(mode)).reshape(image_size, image_size, channels)


def _turned(image: Image, opened: Image) -> Image:
    """The image turned as the file's EXIF or XMP says.

    `ImageOps.exif_transpose` also writes the EXIF anew, which fails where a camera gave a tag another type than usual.
    """
    from PIL import Image as Images

    turn = Images.Transpose
    turns = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM}
    turns |= {5: turn.TRANSPOSE, 6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90}
    orientation = _orientation(opened)
    return image.transpose(turns[orientation]) if orientation in turns else image


def _orientation(opened: Image) -> int:
    """The tag of that name, 1 to 8; 1, as stored, where there is none that can be read."""
    try:
        value = opened.getexif().get(0x0112, 1)
        return int(value[0] if isinstance(value, (bytes, tuple)) else value)
    except Exception:  # broken EXIF: viewers too show such an image as it is stored
        return 1


def _reason(error: Exception) -> str:
    """The reason in one line, without the path: messages add that, and a cached reason must fit a moved folder."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).split("\n")[0]
    if "MAX_TEXT" in text:
        return f"its texts or colour profile take more than {MAX_METADATA_BYTES >> 20} MiB; save it without them"
    return text or type(error).__name__
