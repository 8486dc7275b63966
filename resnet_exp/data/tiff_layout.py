"""What a TIFF file's pixels are, by its tags, and which of them Pillow would read wrong."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

# The tags, by the names of the TIFF 6.0 specification.
_IMAGE_WIDTH, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC = 256, 258, 259, 262
_FILL_ORDER, _SAMPLES_PER_PIXEL = 266, 277
_PLANAR_CONFIGURATION, _COLOR_MAP, _INK_SET, _EXTRA_SAMPLES = 284, 320, 332, 338
_SAMPLE_FORMAT, _YCBCR_SUBSAMPLING = 339, 530

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {
    _MIN_IS_WHITE: "min-is-white grey",
    _MIN_IS_BLACK: "grey",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    **dict.fromkeys((8, 9, 10), "L*a*b*"),
    **dict.fromkeys((32844, 32845), "logarithmic"),
    **dict.fromkeys((32803, 34892), "raw camera"),
}
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}


def read_tags(file: IO[bytes]) -> ImageFileDirectory_v2:
    """The tags of the first image of a TIFF file, whether or not Pillow knows their combination."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    header = file.read(8)
    tags = ImageFileDirectory_v2(header + file.read(8) if header[2] == 43 else header)  # 43: BigTIFF
    file.seek(tags.next)
    tags.load(file)
    if _IMAGE_WIDTH not in tags:
        raise ValueError("its tags are not there")
    return tags


def described(tags: ImageFileDirectory_v2) -> str:
    """The pixels in words: `16-bit signed big-endian grey`."""
    bits = sorted(set(tags.get(_BITS_PER_SAMPLE, (1,))))
    samples = tags.get(_SAMPLES_PER_PIXEL, 1)
    words = [f"{'/'.join(map(str, bits))}-bit", _KINDS.get(_kind(tags), "undefined")]
    words += ["big-endian"] if tags.prefix == b"MM" and bits[-1] > 8 else []
    words += [_COLOURS.get(_photometric(tags), f"colour space {_photometric(tags)}")]
    words += [f"with {samples} samples"] if samples > 1 else []
    words += ["in separate planes"] if _separate(tags) else []
    words += ["in reversed order of bits"] if tags.get(_FILL_ORDER, 1) == 2 else []
    return " ".join(words)


def check(tags: ImageFileDirectory_v2) -> None:
    """Raises ValueError, which names the pixels, if they have no agreed range or Pillow would read them wrong."""
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if _kind(tags) in (2, 3) or bits >= 32:
        raise ValueError(f"{described(tags)} pixels have no agreed range; save it with 8 or 16 unsigned bits")
    if _separate(tags) and not _readable_in_planes(tags, bits):
        raise ValueError(f"Pillow misreads {described(tags)}; save it with its samples side by side, or as PNG")
    photometric = _photometric(tags)
    if photometric == _CMYK and tags.get(_INK_SET, 1) != 1:
        raise ValueError("its inks are not cyan, magenta, yellow and black; save it as RGB")
    subsampled = tuple(tags.get(_YCBCR_SUBSAMPLING, (2, 2))) != (1, 1)
    if photometric == _YCBCR and _uncompressed(tags) and subsampled:
        raise ValueError("Pillow misreads uncompressed YCbCr with subsampled colours; save it as RGB")


def grey_range(tags: ImageFileDirectory_v2) -> tuple[int, bool]:
    """The bits of a sample, and whether the smallest value is white."""
    return max(tags.get(_BITS_PER_SAMPLE, (1,))), _photometric(tags) == _MIN_IS_WHITE


def palette_of_bytes(tags: ImageFileDirectory_v2) -> bytes | None:
    """The palette, all red values first, if a writer gave it 8 bits instead of 16 (Pillow would make it black)."""
    colours = tags.get(_COLOR_MAP)
    if _photometric(tags) != _PALETTE or not colours or not 0 < max(colours) < 256:
        return None
    return bytes(colours)


def without_extra_samples(tags: ImageFileDirectory_v2) -> bool:
    """Whether nothing says what the samples after the colours are."""
    return not tags.get(_EXTRA_SAMPLES)


def _readable_in_planes(tags: ImageFileDirectory_v2, bits: int) -> bool:
    """Whether Pillow reads these separate planes right: all were compared with what tifffile reads."""
    colours = {_RGB: 3, _CMYK: 4, _YCBCR: 3}.get(_photometric(tags), 1)
    extra = tuple(tags.get(_EXTRA_SAMPLES, ()))
    if tags.get(_SAMPLES_PER_PIXEL, 1) != colours + len(extra):
        return False
    if _uncompressed(tags):
        return bits == 8 and colours > 1 and extra in ((), (2,)) and tags.get(_FILL_ORDER, 1) == 1
    return not any(extra) or (colours > 1 and len(extra) == 1)


def _kind(tags: ImageFileDirectory_v2) -> int:
    return max(tags.get(_SAMPLE_FORMAT, (1,)))


def _photometric(tags: ImageFileDirectory_v2) -> Any:
    return tags.get(_PHOTOMETRIC, _MIN_IS_WHITE)  # as Pillow takes a file without this tag


def _separate(tags: ImageFileDirectory_v2) -> bool:
    return tags.get(_PLANAR_CONFIGURATION, 1) == 2 and tags.get(_SAMPLES_PER_PIXEL, 1) > 1


def _uncompressed(tags: ImageFileDirectory_v2) -> bool:
    return tags.get(_COMPRESSION, 1) == 1
