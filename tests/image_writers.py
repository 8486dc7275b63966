"""Writes tiny image files byte by byte, of kinds that no library writes for us."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

WIDTH = 64
_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)


def ramp(bits: int) -> np.ndarray:
    """From 0 to the largest value of so many bits, from left to right: `[64, 64]`."""
    return np.tile(np.round(np.arange(WIDTH) / (WIDTH - 1) * (2**bits - 1)).astype(np.int64), (WIDTH, 1))


def write_tiff(
    path: Path,
    samples: np.ndarray,
    bits: int,
    photometric: int,
    order: Literal["<", ">"] = "<",
    kind: int = 1,
    planes: int = 1,
    extra: tuple[int, ...] = (),
    compression: int = 1,
    fill_order: int = 1,
    tags: dict[int, tuple[int, list[Any]]] | None = None,
) -> None:
    """A TIFF of one strip a plane, with `samples [H, W]` or `[H, W, S]`; the numbers are those of TIFF 6.0."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, count = samples.shape
    parts = [samples] if planes == 1 else [samples[..., index : index + 1] for index in range(count)]
    strips = [_compressed(b"".join(_packed(row, bits, order, kind) for row in part), compression) for part in parts]
    if fill_order == 2:
        strips = [_REVERSED[np.frombuffer(strip, np.uint8)].tobytes() for strip in strips]
    entries: dict[int, tuple[int, list[Any]]] = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * count)}
    entries |= {259: (3, [compression]), 262: (3, [photometric]), 266: (3, [fill_order]), 277: (3, [count])}
    entries |= {278: (4, [height]), 284: (3, [planes]), 339: (3, [kind] * count), **(tags or {})}
    if extra:
        entries[338] = (3, list(extra))
    offsets = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries |= {273: (4, offsets), 279: (4, list(map(len, strips)))}
    content = b"".join(strips)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(content))
    path.write_bytes(header + content + _directory(entries, order, 8 + len(content)))


def write_png(path: Path, samples: np.ndarray, bits: int, colour_type: int, chunks: bytes = b"") -> None:
    """A PNG with these chunks between its header and its pixels."""
    rows = b"".join(b"\0" + _packed(row, bits, ">", 1) for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_bmp(path: Path, bgra: np.ndarray, masks: bool) -> None:
    """A BMP of 32 bits; `masks`: its header says which bits are alpha."""
    height, width = bgra.shape[:2]
    size = 124 if masks else 40
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, 32, 3 if masks else 0, bgra.size, 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if masks else b""
    header = header.ljust(size, b"\0")
    content = header + bgra[::-1].tobytes()
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, 14 + size) + content)


def exif(orientation: bytes, entries: bytes = b"") -> bytes:
    """EXIF of an orientation tag, given as type, count and value, and of more such entries of 12 bytes each."""
    body = struct.pack("<H", 1 + len(entries) // 12) + struct.pack("<H", 0x0112) + orientation + entries
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0)


def _packed(row: np.ndarray, bits: int, order: str, kind: int) -> bytes:
    if bits % 8 == 0:
        return row.astype(f"{order}{'_uif'[kind]}{bits // 8}").tobytes()
    digits = "".join(f"{value:0{bits}b}" for value in row.reshape(-1).tolist())
    return int(digits + "0" * (-len(digits) % 8), 2).to_bytes((len(digits) + 7) // 8, "big")


def _compressed(content: bytes, compression: int) -> bytes:
    return {1: bytes, 8: zlib.compress, 32773: _packbits}[compression](content)


def _packbits(content: bytes) -> bytes:
    parts = [content[start : start + 128] for start in range(0, len(content), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def _directory(entries: dict[int, tuple[int, list[Any]]], order: str, start: int) -> bytes:
    directory, outside = struct.pack(f"{order}H", len(entries)), b""
    after = start + 6 + 12 * len(entries)
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{'_BcHI'[kind]}", *values)
        if len(value) > 4:
            value, outside = struct.pack(f"{order}I", after + len(outside)), outside + value
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    return directory + struct.pack(f"{order}I", 0) + outside
