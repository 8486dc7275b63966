"""Pixels of every kind become 8 bits, right or not at all; and no file holds up or ends the decoding of others."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing

import numpy as np
import pytest
import tifffile
from image_writers import WIDTH, exif, png_chunk, ramp, write_bmp, write_png, write_tiff
from PIL import Image

from resnet_exp.data import decode_pool
from resnet_exp.data.decode_pool import decode_all
from resnet_exp.data.decoding import decode_image, decode_run
from resnet_exp.interfaces import RunError


def _decoded(path, channels=3):
    return decode_image(path, WIDTH, channels).astype(int)


def _eight(samples, bits):
    """The rule: 0 to 2ⁿ-1 becomes 0 to 255, rounded."""
    return np.round(np.asarray(samples, float) / (2**bits - 1) * 255)


def _close(found, expected, most=0):
    expected = np.asarray(expected, float)
    assert np.abs(found - (expected[..., None] if expected.ndim == 2 else expected)).max() <= most


def _refused(path):
    ((_, reason),) = decode_run([path], 8, 3).unreadable
    return reason


RGB = np.stack([ramp(8), ramp(8).T, 255 - ramp(8)], 2)
ALPHA = ramp(8).T


# TIFF


@pytest.mark.parametrize("compression", [1, 8, 32773])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_all_bits_is_scaled_from_its_own_range(tmp_path, bits, photometric, order, compression):
    """Pillow knows no big-endian order of 12 bits, nor of 16 bits where the smallest value is white."""
    path = tmp_path / "grey.tif"
    write_tiff(path, ramp(bits), bits, photometric, order, compression=compression)
    if bits in (1, 8, 16):  # of the others tifffile reads none without another library
        np.testing.assert_array_equal(tifffile.imread(path), ramp(bits))
    unknown = {(12, 0, "<"), (12, 0, ">"), (12, 1, ">"), (16, 0, ">")}
    if (bits, photometric, order) in unknown:
        assert f"Pillow cannot read {bits}-bit unsigned" in _refused(path)
        return
    expected = _eight(ramp(bits) if photometric else 2**bits - 1 - ramp(bits), bits)
    _close(_decoded(path), expected)
    _close(_decoded(path, 1), expected)


@pytest.mark.parametrize(
    ("bits", "kind", "words"),
    [
        (8, 2, "8-bit signed"),
        (16, 2, "16-bit signed"),
        (32, 2, "32-bit signed"),
        (32, 1, "32-bit unsigned"),
        (16, 3, "16-bit floating-point"),
        (32, 3, "32-bit floating-point"),
        (64, 3, "64-bit floating-point"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_values_without_an_agreed_range_are_refused_by_their_kind(tmp_path, bits, kind, words, order, photometric):
    write_tiff(tmp_path / "x.tif", RGB if photometric == 2 else ramp(6), bits, photometric, order, kind)
    assert _refused(tmp_path / "x.tif").startswith(words)
    assert "no agreed range; save it with 8 or 16 unsigned bits" in _refused(tmp_path / "x.tif")


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_are_read_right_or_refused(tmp_path, bits, order, compression, planes):
    colours = {"RGB": (2, _scaled(RGB, bits), ()), "RGBA": (2, _with_alpha(_scaled(RGB, bits), bits), (2,))}
    colours |= {"RGBX": (2, _with_alpha(_scaled(RGB, bits), bits), (0,))}
    colours |= {"CMYK": (5, np.concatenate([_scaled(RGB, bits), _scaled(ALPHA // 2, bits)[..., None]], 2), ())}
    alpha = ALPHA[..., None] / 255
    black = ALPHA[..., None] // 2 / 255
    expected = {"RGB": RGB, "RGBX": RGB, "RGBA": RGB * alpha + 255 * (1 - alpha), "CMYK": (255 - RGB) * (1 - black)}
    for name, (photometric, samples, extra) in colours.items():
        path = tmp_path / f"{name}.tif"
        write_tiff(path, samples, bits, photometric, order, planes=planes, extra=extra, compression=compression)
        read = tifffile.imread(path)
        np.testing.assert_array_equal(read if read.shape == samples.shape else np.moveaxis(read, 0, -1), samples)
        uncompressed_planes = planes == 2 and compression == 1
        if uncompressed_planes and (bits == 16 or name == "RGBX"):
            assert "in separate planes" in _refused(path)
        else:
            _close(_decoded(path), expected[name], most=2)


def _scaled(samples, bits):
    return np.asarray(samples, np.int64) * (1 if bits == 8 else 257)


def _with_alpha(samples, bits):
    return np.concatenate([samples, _scaled(ALPHA, bits)[..., None]], 2)


@pytest.mark.parametrize(
    ("samples", "photometric", "more", "words"),
    [
        (np.dstack([RGB, RGB[..., :2]]), 2, {"extra": (2, 1)}, "8-bit unsigned RGB with 5 samples"),
        (np.dstack([RGB, RGB]), 1, {"extra": (0,) * 5}, "8-bit unsigned grey with 6 samples"),
        (np.dstack([RGB, ALPHA, ALPHA]), 5, {"extra": (2,)}, "8-bit unsigned CMYK with 5 samples"),
        (np.dstack([ramp(8), ALPHA]), 1, {"extra": (2,), "planes": 2}, "grey with 2 samples in separate planes"),
        (RGB, 8, {"planes": 2}, "L*a*b* with 3 samples in separate planes"),
        (ramp(8), 0, {"fill_order": 2}, "8-bit unsigned min-is-white grey in reversed order of bits"),
        (ramp(8), 32803, {}, "8-bit unsigned raw camera"),
        (RGB, 6, {}, "YCbCr with subsampled colours"),
        (np.dstack([RGB, ALPHA]), 5, {"tags": {332: (3, [2])}}, "not cyan, magenta, yellow and black"),
    ],
)
def test_what_pillow_misreads_or_does_not_know_is_refused_by_name(tmp_path, samples, photometric, more, words):
    write_tiff(tmp_path / "x.tif", samples, 8, photometric, **more)
    assert words in _refused(tmp_path / "x.tif")


def test_premultiplied_alpha_is_laid_on_white(tmp_path):
    grey = np.minimum(ramp(8), ALPHA)
    write_tiff(tmp_path / "x.tif", np.dstack([grey, ALPHA]), 8, 1, extra=(1,))
    _close(_decoded(tmp_path / "x.tif"), grey + 255 - ALPHA, most=2)


def test_lab_becomes_rgb(tmp_path):
    """Against the definition: CIE L*a*b* of D50, adapted to D65 by Bradford's matrix, then sRGB."""
    lab = np.stack([np.full((WIDTH, WIDTH), 160), ramp(5) - 16, ramp(5).T - 16], 2)  # of few enough chroma for sRGB
    write_tiff(tmp_path / "x.tif", lab % 256, 8, 8)
    lightness, a, b = lab[..., 0] / 255 * 100, lab[..., 1], lab[..., 2]
    middle = (lightness + 16) / 116
    f = np.stack([middle + a / 500, middle, middle - b / 200], 2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.96422, 1, 0.82521]
    from_d50 = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = np.clip(xyz @ np.transpose(from_d50), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    _close(_decoded(tmp_path / "x.tif"), srgb * 255, most=2)


def test_neutral_lab_and_cmyk_count_as_grey(tmp_path):
    zeros = np.zeros_like(ramp(8))
    write_tiff(tmp_path / "lab.tif", np.dstack([ramp(8), zeros, zeros]), 8, 8)
    write_tiff(tmp_path / "cmyk.tif", np.dstack([zeros, zeros, zeros, ramp(8)]), 8, 5)
    for name in ("lab.tif", "cmyk.tif"):
        assert decode_run([tmp_path / name], WIDTH, 3).grey


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    write_tiff(tmp_path / "x.tif", RGB, 8, 2, tags={274: (3, [orientation]), 34665: (4, [999_999])})
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1)}
    turned |= {6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB)}
    _close(_decoded(tmp_path / "x.tif"), turned[orientation])


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_of_all_bits_with_its_transparent_grey(tmp_path, bits):
    path, grey = tmp_path / "x.png", ramp(bits)
    for key in (None, 0, 2**bits - 1, int(grey[0, 22])):
        chunk = b"" if key is None else png_chunk(b"tRNS", struct.pack(">H", key))
        write_png(path, grey, bits, 0, chunk + png_chunk(b"gAMA", struct.pack(">I", 100_000)))
        expected = _eight(grey, bits)
        expected[grey == key] = 255
        _close(_decoded(path), expected)
        _close(_decoded(path, 1), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_palettes_with_alpha(tmp_path, bits):
    rng = np.random.default_rng(bits)
    palette, alphas = rng.integers(0, 256, (2**bits, 3)), rng.integers(0, 256, (2**bits, 1))
    chunks = png_chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    write_png(tmp_path / "x.png", ramp(bits), bits, 3, chunks)
    _close(_decoded(tmp_path / "x.png"), palette[ramp(bits)])
    write_png(tmp_path / "x.png", ramp(bits), bits, 3, chunks + png_chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
    _close(_decoded(tmp_path / "x.png"), (palette * (alphas / 255) + 255 - alphas)[ramp(bits)], most=1)


def test_the_transparent_colour_of_16_bits_is_refused_only_if_pixels_may_have_it(tmp_path):
    path = tmp_path / "x.png"
    write_png(path, _scaled(RGB, 16), 16, 2, png_chunk(b"tRNS", struct.pack(">HHH", 257, 65535, 257)))
    _close(_decoded(path), RGB)
    key = struct.pack(">HHH", *(_scaled(RGB, 16)[3, 9] + 1).tolist())  # differs in the bits that Pillow drops
    write_png(path, _scaled(RGB, 16), 16, 2, png_chunk(b"tRNS", key))
    assert "Pillow cannot tell the transparent one among colours of 16 bits" in _refused(path)


@pytest.mark.parametrize("name", [b"zTXt", b"tEXt", b"iTXt", b"iCCP"])
def test_large_texts_and_profiles_are_no_reason_to_refuse(tmp_path, name):
    text = b"x" * (3 << 20)
    content = {b"tEXt": b"k\0" + text, b"iTXt": b"k\0\1\0\0\0" + zlib.compress(text)}
    chunk = png_chunk(name, content.get(name, b"k\0\0" + zlib.compress(text)))
    write_png(tmp_path / "x.png", ramp(8), 8, 0, chunk)
    _close(_decoded(tmp_path / "x.png"), ramp(8))


def test_a_text_that_would_fill_the_memory_is_refused(tmp_path):
    bomb = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(65 << 20), 1))
    write_png(tmp_path / "x.png", ramp(8), 8, 0, bomb)
    assert _refused(tmp_path / "x.png") == "its texts or colour profile take more than 64 MiB; save it without them"


# Other formats

_JPEG_OF_12_BITS = b"\xff\xd8\xff\xc0\0\x0b\x0c\0\x08\0\x08\1\1\x11\0"


@pytest.mark.parametrize(
    ("alpha", "masks", "shown"), [(0, False, "opaque"), (0, True, "opaque"), (None, True, "alpha")]
)
def test_a_bmp_whose_alpha_is_unset_is_opaque(tmp_path, alpha, masks, shown):
    channel = ALPHA if alpha is None else np.full_like(ALPHA, alpha)
    write_bmp(tmp_path / "x.bmp", np.dstack([RGB[..., ::-1], channel]).astype(np.uint8), masks)
    share = ALPHA[..., None] / 255
    _close(_decoded(tmp_path / "x.bmp"), RGB if shown == "opaque" else RGB * share + 255 * (1 - share), most=1)


@pytest.mark.parametrize("flags", [0x08, 0x18, 0x28, 0x38])
@pytest.mark.parametrize("alpha", [0, 255])
def test_a_tga_of_each_orientation_with_alpha_unset_or_full(tmp_path, flags, alpha):
    pixels = np.dstack([RGB[..., ::-1], np.full_like(ALPHA, alpha)]).astype(np.uint8)
    pixels = pixels if flags & 0x20 else pixels[::-1]
    pixels = pixels[:, ::-1] if flags & 0x10 else pixels
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, WIDTH, 32, flags)
    (tmp_path / "x.tga").write_bytes(header + np.ascontiguousarray(pixels).tobytes())
    _close(_decoded(tmp_path / "x.tga"), RGB)


@pytest.mark.parametrize("largest", [1, 15, 100, 255, 257, 4095, 65535])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_netpbm_of_each_largest_value(tmp_path, kind, largest):
    grey = np.round(ramp(8) / 255 * largest).astype(int)
    samples = grey if kind in (b"P2", b"P5") else np.stack([grey, grey.T, largest - grey], 2)
    packed = samples.astype(">u2" if largest > 255 else np.uint8).tobytes()
    content = packed if kind in (b"P5", b"P6") else b" ".join(b"%d" % value for value in samples.reshape(-1).tolist())
    (tmp_path / "x.ppm").write_bytes(b"%s 64 64 %d\n%s" % (kind, largest, content))
    _close(_decoded(tmp_path / "x.ppm"), np.round(samples / largest * 255))


def test_jpeg_2000_of_16_bits_and_high_dynamic_ranges(tmp_path):
    Image.fromarray(ramp(16).astype(np.uint16)).save(tmp_path / "x.jp2")
    _close(_decoded(tmp_path / "x.jp2"), _eight(ramp(16), 16))
    (tmp_path / "x.pfm").write_bytes(b"Pf\n64 64\n-1.0\n" + ramp(8).astype("<f4").tobytes())
    assert "no agreed range" in _refused(tmp_path / "x.pfm")


@pytest.mark.parametrize("transparent", [None, 0, 1])
def test_what_no_frame_of_a_gif_covers_is_white(tmp_path, transparent):
    frame = np.ones((32, 32), np.uint8)
    frame[:, :16] = 0
    image = Image.fromarray(frame)
    image.putpalette([10, 20, 30, 200, 100, 50])
    buffer = io.BytesIO()
    image.save(buffer, "GIF", optimize=False, **({} if transparent is None else {"transparency": transparent}))
    content = bytearray(buffer.getvalue())
    struct.pack_into("<HH", content, 6, WIDTH, WIDTH)
    start = content.index(b",", 13 + 3 * (2 << (content[10] & 7)))
    struct.pack_into("<HH", content, start + 1, 16, 16)
    (tmp_path / "x.gif").write_bytes(content)
    shown = _decoded(tmp_path / "x.gif")
    colours = {0: (10, 20, 30), 1: (200, 100, 50)} | {transparent: (255, 255, 255)}
    assert shown[5, 5].tolist() == [255, 255, 255]
    assert tuple(shown[20, 20]) == colours[0] and tuple(shown[20, 40]) == colours[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>no such page</html>", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC photo, which Pillow cannot read; save it as JPEG or PNG"),
        (_JPEG_OF_12_BITS, "a damaged or unusual JPEG file (cannot handle 12-bit layers)"),
        (b"II*\0\x08\0\0\0" + bytes(20), "a damaged or unusual TIFF file (its tags are not there)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "an EPS drawing; save it as PNG"),
    ],
)  # fmt: skip
def test_other_files_are_named_for_what_they_are(tmp_path, content, reason):
    (tmp_path / "x.jpg").write_bytes(content)
    assert _refused(tmp_path / "x.jpg") == reason


# EXIF


@pytest.mark.parametrize(
    "orientation",
    [
        struct.pack("<HIHxx", 3, 1, 6),
        struct.pack("<HII", 4, 1, 6),
        struct.pack("<HIBxxx", 1, 1, 6),
        struct.pack("<HI4s", 2, 2, b"6"),
        struct.pack("<HIHH", 3, 2, 6, 0),
        struct.pack("<HIf", 11, 1, 6),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_pixels_are_turned_whatever_types_the_tags_have(tmp_path, orientation, ending):
    odd = struct.pack("<HHII", 0x8825, 5, 1, 8)  # the GPS tags' place as a fraction
    odd += struct.pack("<HHIHxx", 0x9203, 3, 1, 1) + struct.pack("<HHI4s", 0x9286, 77, 1, b"abcd")
    picture = np.zeros((WIDTH, WIDTH, 3), np.uint8)
    picture[:32] = 255
    settings = {"jpg": {"quality": 100}, "png": {}, "webp": {"lossless": True}}[ending]
    Image.fromarray(picture).save(tmp_path / f"x.{ending}", exif=exif(orientation, odd), **settings)
    _close(_decoded(tmp_path / f"x.{ending}"), np.rot90(picture, -1), most=20)


@pytest.mark.parametrize("content", [b"Exif\0\0garbage", exif(struct.pack("<HIHxx", 3, 1, 6))[:20], exif(bytes(10))])
def test_broken_exif_leaves_the_image_as_it_is_stored(tmp_path, content):
    Image.fromarray(RGB.astype(np.uint8)).save(tmp_path / "x.png", exif=content)
    _close(_decoded(tmp_path / "x.png"), RGB)


# Files that would hold up or fill the machine


def test_nothing_but_regular_files_is_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
    names = ("x.png", "zero.png", "folder.png", "socket.png")
    decoded = decode_run([tmp_path / name for name in names], 8, 3)
    reasons = ["a named pipe, no image file", "a device, no image file", "a folder, no image file"]
    assert [reason for _, reason in decoded.unreadable] == [*reasons, "No such device or address"]


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_a_huge_file_of_holes_is_refused_at_once(tmp_path, start):
    with open(tmp_path / "x.jpg", "wb") as file:
        file.write(start)
        file.truncate(1 << 36)
    assert _refused(tmp_path / "x.jpg") == "its 65,536 MiB are more than 179 megapixels can take"


def test_an_image_of_more_megapixels_is_admitted_by_a_setting(tmp_path):
    Image.new("L", (2000, 1000)).save(tmp_path / "x.png")
    ((_, reason),) = decode_run([tmp_path / "x.png"], 8, 3, max_megapixels=1).unreadable
    assert "its 2 megapixels exceed the limit of 1" in reason and "data.max_megapixels=2" in reason
    assert decode_run([tmp_path / "x.png"], 8, 3, max_megapixels=2).unreadable == []


@pytest.mark.parametrize("factor", [1, 3])
def test_a_decompression_bomb_is_refused_before_its_pixels_are_read(tmp_path, factor):
    """Pillow itself refuses at the header what has more than twice the pixels of the limit."""
    header = struct.pack(">IIBBBBB", 180_000, 1000 * factor, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    (tmp_path / "x.png").write_bytes(content)
    assert f"its {180 * factor} megapixels exceed the limit of 179" in _refused(tmp_path / "x.png")
    assert f"data.max_megapixels={180 * factor}" in _refused(tmp_path / "x.png")


def test_too_little_memory_ends_with_words(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("resnet_exp.data.decoding.decode_image", no_memory)
    with pytest.raises(RunError, match=r"x\.png: there is too little memory"):
        decode_run([tmp_path / "x.png"], 8, 3)


# Ends of the pool


@pytest.fixture
def slow_paths(tmp_path):
    """Many names of one image that takes a moment."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(tmp_path / "0.png")
    for index in range(1, 400):
        os.link(tmp_path / "0.png", tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


def test_threads_stop_at_the_image_they_are_at(slow_paths):
    started = time.monotonic()
    with closing(decode_all(slow_paths, 512, 3, 2)) as runs:
        next(runs)
        taken = time.monotonic() - started
    assert time.monotonic() - started - taken < max(2, taken)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_processes_that_cannot_start_are_replaced_by_threads(slow_paths, monkeypatch):
    monkeypatch.setattr(decode_pool, "FILES_WORTH_PROCESSES", 1)
    monkeypatch.setattr(decode_pool, "_can_start", lambda executor: False)
    decoded = list(decode_all(slow_paths[:3], 8, 3, 2))
    assert sum(len(run.pixels) for run in decoded) == 3


_PROGRAM = """
import sys
from contextlib import closing
from pathlib import Path
from resnet_exp.data import decode_pool
from resnet_exp.runs.signals import handled

if __name__ == "__main__":
    decode_pool.FILES_WORTH_PROCESSES = 1
    paths = sorted(Path(sys.argv[1]).glob("*.png"))
    try:
        with handled(), closing(decode_pool.decode_all(paths, 512, 3, 2)) as runs:
            for _ in runs:
                print("decoding", flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "worker"])
def test_processes_end_with_their_parent_and_a_killed_one_is_told(slow_paths, ended, tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "decoding\n"
        children = _children(process.pid)
        workers = [pid for pid, command in children.items() if "spawn_main" in command]
        assert len(workers) == 2
        if ended == "worker":
            os.kill(workers[0], signal.SIGKILL)
        else:
            (os.kill if ended == "SIGKILL" else os.killpg)(process.pid, signal.Signals[ended])
        output, said = process.communicate(timeout=60)
    last = output.strip().split("\n")[-1]
    if ended == "worker":
        assert last.startswith("RunError A process that decodes images was killed") and ".png or a later one" in last
    elif ended != "SIGKILL":
        assert (last, said) == (f"Interrupted interrupted by {ended}", "")
    end = time.monotonic() + 30
    while set(workers) & set(_running()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not set(workers) & set(_running())


@pytest.mark.slow
def test_a_signal_to_the_whole_group_while_processes_start_leaves_no_traceback_of_theirs(slow_paths, tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        while not (workers := [pid for pid, said in _children(process.pid).items() if "spawn_main" in said]):
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert (output, said) == ("Interrupted interrupted by SIGINT\n", "")
    end = time.monotonic() + 30
    while set(workers) & set(_running()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not set(workers) & set(_running())


def _running():
    """The processes that have not ended, each with its parent."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat") as file:
                    state, parent = file.read().rsplit(")", 1)[1].split()[:2]
            except OSError:  # it has just ended
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def _children(pid):
    """The child processes with their commands."""
    found = {}
    for child in [child for child, parent in _running().items() if parent == pid]:
        with open(f"/proc/{child}/cmdline") as file:
            found[child] = file.read()
    return found
