"""The cache of decoded images on disk: one folder for each key, written, then renamed, and verified at each reading.

A run needs no cache: where none can be written, the images stay in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from resnet_exp.data.decoding import Decoded

log = logging.getLogger(__name__)

MAX_ENTRIES = 4  # in one cache folder; the least recently used are deleted
_NAME = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.[0-9a-f]{32}")  # of an entry, and of an unfinished one
ABANDONED_SECONDS = 24 * 3600  # an unfinished entry older than this was left by a killed process


@dataclass(frozen=True)
class CachedImages:
    """The readable images of a listing, in its order: `[N, H, W, C], uint8, 0..255`; and why the others are missing."""

    pixels: np.ndarray  # memory-mapped where they are cached: read when used; changes are not written back
    unreadable: tuple[tuple[int, str], ...]  # index in the listing, reason
    grey: bool  # the channels of every pixel are equal


class NotKept(Exception):
    """No folder takes the images; the message names each, the reason and the room that is needed."""


@dataclass(frozen=True)
class _Meta:
    shape: tuple[int, int, int, int]
    unreadable: tuple[tuple[int, str], ...]
    grey: bool

    def digest(self, pixels: Path) -> str:
        """A sha256 of the pixels in the file and of these facts about them."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        with open(pixels, "rb") as file:
            while block := file.read(1 << 20):  # the file may be larger than the memory
                digest.update(block)
        return digest.hexdigest()


def find(folders: list[Path], key: str) -> CachedImages | None:
    """The entry of the first folder that has it intact, or None; a corrupt one is logged."""
    for folder in folders:
        if os.path.isdir(folder / key):  # not Path's, which raises where there is no permission
            try:
                return _read(folder / key)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("The decoded images in %s are corrupt (%s): decoding again.", folder / key, error)
    return None


def store(
    folders: list[Path], key: str, runs: Iterator[Decoded], most_bytes: int, advance: Callable[[int], None]
) -> CachedImages:
    """The images of all runs, saved as one entry in the first folder that is writable and has enough free space.

    Raises:
        NotKept: No folder is writable with enough free space; of a started entry nothing is left.
    """
    entry = _new_entry(folders, key, most_bytes)
    try:
        with open(entry / "pixels", "wb") as file:
            meta = _write(file, runs, advance)
        (entry / "meta.json").write_text(json.dumps(asdict(meta) | {"sha256": meta.digest(entry / "pixels")}))
        images = _mapped(entry, meta)  # stays valid when the file is renamed or deleted
        _publish(entry, entry.parent / key)
    except OSError as error:
        raise NotKept(f"{entry.parent}: {error.strerror or error}; they need {most_bytes:,} bytes") from error
    finally:
        shutil.rmtree(entry, ignore_errors=True)
    _prune(entry.parent)
    return images


def in_memory(runs: Iterator[Decoded], advance: Callable[[int], None]) -> CachedImages:
    """The images of all runs; nothing is saved."""
    file = io.BytesIO()
    meta = _write(file, runs, advance)
    return CachedImages(np.frombuffer(file.getbuffer(), np.uint8).reshape(meta.shape), meta.unreadable, meta.grey)


def _read(entry: Path) -> CachedImages:
    """The entry, its checksum verified: damage in a memory-mapped file would only show in the middle of a training."""
    stored = json.loads((entry / "meta.json").read_text())
    unreadable = tuple((int(index), str(reason)) for index, reason in stored["unreadable"])
    meta = _Meta(tuple(stored["shape"]), unreadable, bool(stored["grey"]))
    if meta.digest(entry / "pixels") != stored["sha256"]:
        raise ValueError("its checksum is wrong")
    with suppress(OSError):  # a read-only cache can be read as well
        os.utime(entry)  # `_prune` goes by the time of the last use
    return _mapped(entry, meta)


def _mapped(entry: Path, meta: _Meta) -> CachedImages:
    if meta.shape[0] == 0:  # an empty file cannot be mapped
        return CachedImages(np.empty(meta.shape, np.uint8), meta.unreadable, meta.grey)
    pixels = np.memmap(entry / "pixels", np.uint8, mode="c", shape=meta.shape)
    return CachedImages(np.asarray(pixels), meta.unreadable, meta.grey)


def _new_entry(folders: list[Path], key: str, most_bytes: int) -> Path:
    """A new folder under a hidden, temporary name, in the folder where it will be renamed."""
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            entry = folder / f".{key}.{uuid.uuid4().hex}"
            entry.mkdir()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        if free > most_bytes:
            return entry
        entry.rmdir()
        problems.append(f"{folder}: {free:,} bytes are free")
    raise NotKept(f"{'; '.join(problems)}; they need {most_bytes:,} bytes")


def _write(file: BinaryIO, runs: Iterator[Decoded], advance: Callable[[int], None]) -> _Meta:
    """Writes the pixels of all runs, one after another; returns what is known of them."""
    unreadable: list[tuple[int, str]] = []
    seen, written, grey, shape = 0, 0, True, (0, 0, 0)
    for run in runs:
        file.write(run.pixels.data)
        unreadable += [(seen + index, reason) for index, reason in run.unreadable]
        written, seen = written + len(run.pixels), seen + len(run.pixels) + len(run.unreadable)
        grey, shape = grey and run.grey, run.pixels.shape[1:]
        advance(len(run.pixels) + len(run.unreadable))
    return _Meta((written, *shape), tuple(unreadable), grey)


def _publish(entry: Path, final: Path) -> None:
    """Renames the entry to its final name, replacing one that was found corrupt."""
    with suppress(FileNotFoundError):
        os.rename(final, entry / "replaced")
    with suppress(OSError):  # another process was faster; its entry has the same content
        os.rename(entry, final)
        shutil.rmtree(final / "replaced", ignore_errors=True)


def _prune(folder: Path) -> None:
    """Deletes the least recently used entries, and unfinished ones that no process is writing any more."""
    with suppress(OSError):  # another process may be deleting the same entries
        found = [entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)]  # the folder may have others
        times = {entry: entry.stat().st_mtime for entry in found if entry.is_dir()}
        finished = sorted((entry for entry in times if entry.name[0] != "."), key=times.__getitem__, reverse=True)
        abandoned = [e for e in times if e.name[0] == "." and time.time() - times[e] > ABANDONED_SECONDS]
        for entry in finished[MAX_ENTRIES:] + abandoned:
            shutil.rmtree(entry, ignore_errors=True)
