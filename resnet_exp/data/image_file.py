"""Opens an image file of whatever origin: no pipe that would block, no file that would fill the memory."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from resnet_exp.data import tiff_layout

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_MEGAPIXELS = 179  # where Pillow raises DecompressionBombError, rounded up
# Of a PNG's texts and colour profile. Pillow's 1 MiB refuses what editors and cameras write.
MAX_METADATA_BYTES = 64 << 20
_MOST_BYTES_PER_PIXEL = 8  # red, green, blue and alpha of 16 bits each, not compressed
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
# The formats whose own plug-in is asked why it did not take a file; others have no signature that tells much.
_TELLING = ("TIFF", "JPEG", "PNG", "JPEG2000", "GIF", "BMP", "WEBP", "AVIF", "PSD", "DDS")


@contextmanager
def opened_image(path: Path, max_megapixels: int) -> Iterator[ImageFile]:
    """The image, its header read but not yet its pixels.

    Raises:
        Exception: Of many types, where the file is no image that Pillow can read; the text says why.
    """
    from PIL import Image as Images
    from PIL import UnidentifiedImageError

    with _regular_file(path) as file:
        _check_bytes(file, max_megapixels)
        _set_limits(max_megapixels)
        try:
            image = Images.open(file)
        except UnidentifiedImageError as error:
            raise ValueError(_why_unidentified(file)) from error
        except Images.DecompressionBombError as error:
            _check_pixels(int(re.findall(r"\d+", str(error))[0]), max_megapixels)
            raise
        with image:
            _check_pixels(image.width * image.height, max_megapixels)
            if image.format == "EPS":  # Pillow would run Ghostscript on it, which executes what is written in the file
                raise ValueError("an EPS drawing; save it as PNG")
            yield image


@contextmanager
def _regular_file(path: Path) -> Iterator[IO[bytes]]:
    """The file, opened for reading; opening or reading anything else, such as a named pipe, might never end."""
    # Without O_NONBLOCK a pipe would already hold up `open`. It changes nothing for a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise ValueError(f"{_KINDS.get(kind, 'not a file')}, no image file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _check_bytes(file: IO[bytes], max_megapixels: int) -> None:
    """Refuses a file of more bytes than its pixels may take: Pillow could read in it, byte by byte, for hours."""
    size = os.fstat(file.fileno()).st_size
    pages_follow = file.read(2) in (b"II", b"MM")  # the first image of a TIFF may be the smallest part of the file
    file.seek(0)
    if size > max_megapixels * 10**6 * _MOST_BYTES_PER_PIXEL and not pages_follow:
        raise ValueError(f"its {size >> 20:,} MiB are more than {max_megapixels} megapixels can take")


def _set_limits(max_megapixels: int) -> None:
    """Sets Pillow's limits, which are those of the whole process."""
    from PIL import Image as Images
    from PIL import PngImagePlugin

    # Pillow refuses what has more than twice as many pixels, such as the inner images of an icon, which are not checked
    # here.
    Images.MAX_IMAGE_PIXELS = max_megapixels * 10**6
    # It warns of half as many; we refuse them, with a reason. Not in a block of its own: threads decode too.
    warnings.filterwarnings("ignore", category=Images.DecompressionBombWarning)
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_METADATA_BYTES


def _check_pixels(pixels: int, max_megapixels: int) -> None:
    if pixels > max_megapixels * 10**6:
        needed = -(-pixels // 10**6)
        raise ValueError(
            f"its {needed} megapixels exceed the limit of {max_megapixels}, which guards the memory; scale it down, "
            f"or, to train on it, set data.max_megapixels={needed}"
        )


def _why_unidentified(file: IO[bytes]) -> str:
    """Why no plug-in of Pillow takes the file, in words of the plug-in whose signature it bears."""
    from PIL import Image as Images

    file.seek(0)
    prefix = file.read(16)
    if not prefix:
        return "the file is empty"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC photo, which Pillow cannot read; save it as JPEG or PNG"
    for name in _TELLING:
        factory, accept = Images.OPEN[name]
        if accept and accept(prefix):
            return _why_refused(name, factory, file)
    return "not an image"


def _why_refused(name: str, plugin: Callable[..., ImageFile], file: IO[bytes]) -> str:
    """Why this plug-in of Pillow does not take the file."""
    try:
        if name != "TIFF":
            file.seek(0)
            plugin(file, "")
            return "not an image"
        tags = tiff_layout.read_tags(file)
    except Exception as error:  # the reason looked for; plug-ins raise many types
        return f"a damaged or unusual {name} file ({error})"
    tiff_layout.check(tags)
    return f"Pillow cannot read {tiff_layout.described(tags)} in a TIFF; save it as PNG"
