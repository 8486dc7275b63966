"""What public bug reports found in other programs that read images, tried on ours: each test begins with its source."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from image_writers import WIDTH, exif, png_chunk, ramp, write_bmp, write_png, write_tiff
from PIL import Image

from resnet_exp.data.decoding import decode_image, decode_run

SIX = struct.pack("<HIHxx", 3, 1, 6)  # the orientation "turn by 90° clockwise" as a short number


def _grey(path):
    return decode_image(path, WIDTH, 1)[0, :, 0].tolist()


def _refused(path):
    ((_, reason),) = decode_run([path], 8, 3).unreadable
    return reason


def _save(path, pixels, **settings):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **settings)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bits_are_not_white(tmp_path, name):
    """pytorch/vision#2218, pytorch/pytorch#20524, python-pillow/Pillow#3011: 16-bit grey was read as white alone."""
    Image.fromarray(ramp(16).astype(np.uint16)).save(tmp_path / name)
    assert _grey(tmp_path / name) == ramp(8)[0].tolist()


def test_12_bits_of_a_pgm_are_not_dark(tmp_path):
    """python-pillow/Pillow#5403: the largest value of a PGM's header was not looked at."""
    values = np.round(ramp(8) / 255 * 1023).astype(">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 64 64 1023\n" + values.tobytes())
    assert _grey(tmp_path / "x.pgm") == np.round(values[0] / 1023 * 255).tolist()


def test_min_is_white_of_16_bits_is_not_a_negative(tmp_path):
    """python-pillow/Pillow#6642: 16-bit TIFFs whose zero is white were admitted without being inverted."""
    write_tiff(tmp_path / "x.tif", ramp(16), 16, 0)
    assert _grey(tmp_path / "x.tif") == ramp(8)[0, ::-1].tolist()


def test_signed_bytes_are_not_taken_as_unsigned(tmp_path):
    """python-pillow/Pillow#7111: signed 8-bit TIFFs are opened, and their bits are read as unsigned numbers."""
    write_tiff(tmp_path / "x.tif", ramp(7) - 64, 8, 1, kind=2)
    assert _refused(tmp_path / "x.tif").startswith("8-bit signed grey pixels have no agreed range")


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_are_named(tmp_path, bits):
    """python-pillow/Pillow#2485, #3159: floats gave "cannot identify", or were clipped."""
    write_tiff(tmp_path / "x.tif", ramp(8) / 255, bits, 1, kind=3)
    assert _refused(tmp_path / "x.tif").startswith(f"{bits}-bit floating-point grey pixels have no agreed range")


def test_five_channels_are_named(tmp_path):
    """wkentaro/labelme#1812: a multispectral TIFF was only said to be no image."""
    write_tiff(tmp_path / "x.tif", np.dstack([ramp(8)] * 5), 16, 1, extra=(0,) * 4)
    assert "16-bit unsigned grey with 5 samples" in _refused(tmp_path / "x.tif")


def test_a_palette_of_bytes_is_not_black(tmp_path):
    """python-pillow/Pillow#2157: a TIFF's palette with values up to 255 instead of 65,535 came out black."""
    write_tiff(tmp_path / "x.tif", ramp(8), 8, 3, tags={320: (3, [*range(256)] * 3)})
    assert _grey(tmp_path / "x.tif") == ramp(8)[0].tolist()


def test_separate_planes_are_not_mixed(tmp_path):
    """haraldk/TwelveMonkeys#184: planes of a TIFF read as if they were interleaved."""
    colours = np.stack([ramp(8), ramp(8).T, 255 - ramp(8)], 2)
    write_tiff(tmp_path / "x.tif", colours, 8, 2, planes=2)
    assert (decode_image(tmp_path / "x.tif", WIDTH, 3) == colours).all()


def test_lab_can_be_read(tmp_path):
    """python-pillow/Pillow#6643: L*a*b* and RGB could not be converted into each other."""
    write_tiff(tmp_path / "x.tif", np.dstack([np.full_like(ramp(8), 255), ramp(8) * 0, ramp(8) * 0]), 8, 8)
    assert (decode_image(tmp_path / "x.tif", WIDTH, 3) == 255).all()


def test_a_transparent_bit_is_transparent(tmp_path):
    """python-pillow/Pillow#9281, #3379: the transparent grey of a PNG with few bits was compared with other numbers."""
    for bits in (1, 2, 4):
        write_png(tmp_path / "x.png", ramp(bits), bits, 0, png_chunk(b"tRNS", b"\0\0"))
        assert _grey(tmp_path / "x.png")[0] == 255


def test_transparent_parts_are_not_black(tmp_path):
    """NVIDIA/DIGITS#85: transparent parts of a PNG became black, a dark digit on them invisible."""
    _save(tmp_path / "x.png", np.zeros((WIDTH, WIDTH, 4)))
    assert (decode_image(tmp_path / "x.png", WIDTH, 3) == 255).all()


def test_a_bmp_with_unset_alpha_is_seen(tmp_path):
    """SixLabors/ImageSharp#581, image-rs/image#539: a BMP of 32 bits whose alpha is 0 throughout was invisible."""
    write_bmp(tmp_path / "x.bmp", np.dstack([ramp(8)] * 3 + [ramp(8) * 0]).astype(np.uint8), masks=True)
    assert _grey(tmp_path / "x.bmp") == ramp(8)[0].tolist()


def test_a_tga_with_unset_alpha_is_seen(tmp_path):
    """microsoft/DirectXTex#195: old TGA files have an alpha of 0 throughout and mean an opaque image."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, WIDTH, 32, 0x28)
    pixels = np.dstack([ramp(8)] * 3 + [ramp(8) * 0]).astype(np.uint8)
    (tmp_path / "x.tga").write_bytes(header + pixels.tobytes())
    assert _grey(tmp_path / "x.tga") == ramp(8)[0].tolist()


def test_what_a_gif_does_not_cover_is_white(tmp_path):
    """python-pillow/Pillow#5548: browsers show as transparent what the first frame of a GIF does not cover."""
    buffer = io.BytesIO()
    Image.new("P", (32, 32), 0).save(buffer, "GIF")  # black
    content = bytearray(buffer.getvalue())
    struct.pack_into("<HH", content, 6, WIDTH, WIDTH)
    (tmp_path / "x.gif").write_bytes(content)
    assert _grey(tmp_path / "x.gif") == [0] * 32 + [255] * 32


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<HHII", 0x8825, 5, 1, 8),
        struct.pack("<HHIBxxx", 0x8825, 1, 1, 5),
        struct.pack("<HHIi", 0x9203, 9, 1, -1),
        struct.pack("<HHIHH", 0x011A, 3, 2, 72, 72),
        struct.pack("<HHIH2x", 0x8298, 3, 1, 7),
    ],
)
def test_odd_types_of_exif_do_not_hinder_turning(tmp_path, odd):
    """python-pillow/Pillow#7839, #7340, #4037, #4665, #6492, #3973, #8965: photos that could not be turned at all."""
    picture = np.full((WIDTH, WIDTH), 255)
    picture[32:] = 0
    _save(tmp_path / "x.png", picture, exif=exif(SIX, odd))
    assert _grey(tmp_path / "x.png") == [0] * 32 + [255] * 32


def test_the_orientation_is_not_ignored(tmp_path):
    """tensorflow/tensorflow#8430, ultralytics/yolov5#5270: photos trained on lying on their sides."""
    picture = np.full((WIDTH, WIDTH), 255)
    picture[32:] = 0
    _save(tmp_path / "x.jpg", picture, exif=exif(SIX), quality=100)
    assert _grey(tmp_path / "x.jpg")[0] < 9 and _grey(tmp_path / "x.jpg")[-1] > 246


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_large_metadata_are_no_reason_to_refuse(tmp_path, name):
    """python-pillow/Pillow#8363, #2445, KatherLab/STAMP#76: a text or profile over 1 MiB made a PNG unreadable."""
    write_png(tmp_path / "x.png", ramp(8), 8, 0, png_chunk(name, b"k\0\0" + zlib.compress(bytes(2 << 20))))
    assert _grey(tmp_path / "x.png") == ramp(8)[0].tolist()


def test_a_setting_admits_large_images(tmp_path):
    """scalableminds/webknossos-libs#892, open-edge-platform/geti_v2#1486: no way to admit an image of many pixels."""
    _save(tmp_path / "x.png", np.zeros((1000, 1001)))
    ((_, reason),) = decode_run([tmp_path / "x.png"], 8, 3, max_megapixels=1).unreadable
    assert "data.max_megapixels=2" in reason
    assert len(decode_run([tmp_path / "x.png"], 8, 3, max_megapixels=2).pixels) == 1


def test_a_truncated_image_is_named(tmp_path):
    """huggingface/datasets#6558: a truncated file must be told of, not filled up with grey."""
    _save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:3000])
    assert "truncated" in _refused(tmp_path / "x.png")


def test_a_heic_photo_named_jpg_is_named(tmp_path):
    """Esri/data-collection-ios#184: telephones save HEIC photos under names that end in .jpg."""
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    assert _refused(tmp_path / "x.jpg") == "a HEIC photo, which Pillow cannot read; save it as JPEG or PNG"


def test_no_ghostscript_is_started(tmp_path):
    """python-pillow/Pillow#7391: an EPS drawing under another name is handed to Ghostscript."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert _refused(tmp_path / "x.png") == "an EPS drawing; save it as PNG"


def test_a_pipe_among_the_images_does_not_hang(tmp_path):
    """xyb3rt/sxiv#252: a named pipe was waited for without end."""
    os.mkfifo(tmp_path / "x.png")
    assert _refused(tmp_path / "x.png") == "a named pipe, no image file"
