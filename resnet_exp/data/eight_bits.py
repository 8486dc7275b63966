"""Brings the pixels of any mode to 8 bits of grey or colour, or says why their values have no one right answer.

An unsigned whole number of n bits stands for its part of the range 0..2ⁿ-1, which becomes 0..255, rounded. (Of colours
with 16 bits Pillow keeps the upper 8: at most one level less.) Signed, 32-bit and floating-point values have no agreed
range and are refused. Transparent parts are laid on white. Colour profiles and gamma are left out, as they were when
the pixels were written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resnet_exp.data import tiff_layout

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Formats whose wide grey values Pillow gives in the range 0..65535, whatever range the file has.
_WIDE_AS_16_BITS = ("PNG", "PPM", "JPEG2000")
# Formats whose writers often leave the alpha at 0 of an image that is meant to be seen. Windows shows it opaque.
_ALPHA_OFTEN_UNSET = ("BMP", "DIB", "ICO", "CUR", "TGA", "DDS")


def eight_bit(image: ImageFile, mode: str) -> Image:
    """The pixels of the opened file in mode `L` or `RGB`; `L` too for `RGB` where the file has grey of 16 bits.

    Raises:
        ValueError: Their values have no agreed range, or Pillow would read them wrong.
    """
    _prepare(image)
    rawmode, box = _rawmode(image), _box_of_the_frame(image)
    _load(image)
    if image.mode == mode and box is None and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_wide_grey(image)
    opaque = _on_white(image, rawmode) if image.has_transparency_data and not _alpha_is_unset(image) else image
    if opaque.mode == "LAB":
        opaque = _from_lab(opaque)
    converted = opaque.convert(mode)
    return converted if box is None else _framed(converted, box)


def _prepare(image: ImageFile) -> None:
    """Corrects what Pillow is known to read wrong while it can still be seen in the file's header; or refuses it."""
    from PIL import ImagePalette

    if image.format == "TIFF":
        tiff_layout.check(image.tag_v2)  # type: ignore[attr-defined]
        if colours := tiff_layout.palette_of_bytes(image.tag_v2):  # type: ignore[attr-defined]
            image.palette = ImagePalette.raw("RGB;L", colours)
    if image.format == "DDS" and str(getattr(image, "pixel_format", "")).startswith("BC6H"):
        raise ValueError("high-dynamic-range pixels (BC6H) have no agreed range; save it with 8 or 16 bits")
    # The transparent grey of a PNG is given in the file's 2 or 4 bits; Pillow compares it with pixels scaled to 8.
    scale = {"L;2": 85, "L;4": 17}.get(_rawmode(image), 1)
    if scale > 1 and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= scale


def _load(image: ImageFile) -> None:
    try:
        image.load()
    except ValueError as error:
        if image.format == "TIFF" and "raw mode" in str(error):
            layout = tiff_layout.described(image.tag_v2)  # type: ignore[attr-defined]
            raise ValueError(f"Pillow cannot read {layout} in a TIFF; save it as PNG") from error
        raise


def _rawmode(image: ImageFile) -> str:
    """How the file lays out a pixel, in Pillow's notation; "" where its plug-in does not say."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _box_of_the_frame(image: ImageFile) -> tuple[int, int, int, int] | None:
    """The part of a GIF that its first frame covers; None: all of it. Pillow gives the rest an arbitrary colour."""
    if image.format != "GIF" or not image.tile:
        return None
    box = image.tile[0][1]
    return None if box in (None, (0, 0, *image.size)) else box


def _framed(image: Image, box: tuple[int, int, int, int]) -> Image:
    """The part in the box on white: what no frame covers is transparent."""
    from PIL import Image as Images

    framed = Images.new(image.mode, image.size, "white")
    framed.paste(image.crop(box), box[:2])
    return framed


def _from_wide_grey(image: ImageFile) -> Image:
    """Grey of 9 to 16 bits in mode `L`; Pillow's own conversion would clip it at 255."""
    from PIL import Image as Images

    if image.format == "TIFF":
        bits, min_is_white = tiff_layout.grey_range(image.tag_v2)  # type: ignore[attr-defined]
    elif image.format in _WIDE_AS_16_BITS:
        bits, min_is_white = 16, False
    else:
        raise ValueError(f"the range of a {image.format} file's 16- or 32-bit grey is not known; save it as PNG")
    levels = np.round(np.arange(2**bits) / (2**bits - 1) * 255).astype(np.uint8)
    if min_is_white:
        levels = levels[::-1].copy()
    if "transparency" in image.info:
        levels[image.info["transparency"]] = 255
    values = np.asarray(image)
    grey = np.empty(values.shape, np.uint8)
    for row, line in zip(grey, values, strict=True):  # at once it would take 8 more bytes a pixel
        row[:] = levels[line]
    return Images.fromarray(grey)


def _from_lab(image: Image) -> Image:
    """L*a*b* in mode `RGB`; Pillow's conversion makes the channels of a neutral grey differ by one."""
    from PIL import Image as Images

    colours = np.array(image.convert("RGB"))
    neutral = (np.asarray(image)[..., 1:] == 0).all(2)
    colours[neutral] = colours[neutral, 1:2]
    return Images.fromarray(colours)


def _alpha_is_unset(image: ImageFile) -> bool:
    """Whether the alpha is 0 everywhere, in a file that need not mean it."""
    unsure = image.format in _ALPHA_OFTEN_UNSET or (
        image.format == "TIFF" and tiff_layout.without_extra_samples(image.tag_v2)  # type: ignore[attr-defined]
    )
    return unsure and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _on_white(image: Image, rawmode: str) -> Image:
    """The image with nothing of it transparent any more."""
    from PIL import Image as Images

    key = image.info.get("transparency")
    if rawmode.startswith("RGB;16") and key is not None:
        return _sixteen_bit_key_unused(image, key)
    if image.mode == "La":  # the one conversion that Pillow knows of this mode
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)


def _sixteen_bit_key_unused(image: Image, key: tuple[int, int, int]) -> Image:
    """The image, if no pixel can have the transparent colour: Pillow keeps only the upper 8 of its 16 bits.

    Raises:
        ValueError: Pixels have the transparent colour's upper 8 bits; whether all 16 is not known.
    """
    if (np.asarray(image) == [value >> 8 for value in key]).all(2).any():
        raise ValueError(
            "Pillow cannot tell the transparent one among colours of 16 bits; save it with an alpha channel or 8 bits"
        )
    image.info.pop("transparency")
    return image
