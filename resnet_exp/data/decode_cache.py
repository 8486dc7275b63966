"""Keeps decoded images on disk: one folder for each key, written aside, then renamed, verified whenever it is read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from resnet_exp.data.decoding import Decoded
from resnet_exp.interfaces import RunError

log = logging.getLogger(__name__)

KEPT = 4  # entries in one cache folder; the least recently used go
ABANDONED_SECONDS = 24 * 3600  # after which an unfinished entry is what a killed process left


@dataclass(frozen=True)
class CachedImages:
    """The readable images of a listing, in its order: `[N, H, W, C], uint8, 0..255`, and why others are not here."""

    pixels: np.ndarray  # mapped from the file: read when it is touched, private when it is written to
    unreadable: tuple[tuple[int, str], ...]  # index in the listing, reason
    grey: bool  # the channels of every pixel are equal


@dataclass(frozen=True)
class _Meta:
    shape: tuple[int, int, int, int]
    unreadable: tuple[tuple[int, str], ...]
    grey: bool

    def digest(self, pixels: Path) -> str:
        """A sha256 of the pixels in the file and of this."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        with open(pixels, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def find(folders: list[Path], key: str) -> CachedImages | None:
    """The entry in the first folder that has it unharmed, or None; harm is logged."""
    for folder in folders:
        if (folder / key).is_dir():
            try:
                return _read(folder / key)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("The decoded images in %s are corrupt (%s): decoding again.", folder / key, error)
    return None


def store(
    folders: list[Path], key: str, runs: Iterator[Decoded], most_bytes: int, advance: Callable[[int], None]
) -> CachedImages:
    """The decoded runs as one entry, in the first folder that can be written to and has room.

    Raises:
        RunError: No folder can be written to or has room.
    """
    entry = _begun_entry(folders, key, most_bytes)
    try:
        meta = _write(entry, runs, advance)
        (entry / "meta.json").write_text(json.dumps(asdict(meta) | {"sha256": meta.digest(entry / "pixels")}))
        images = _mapped(entry, meta)  # the mapping outlives the file's names
        _publish(entry, entry.parent / key)
    except OSError as error:
        raise RunError(f"Writing decoded images into {entry.parent} failed ({error}). {_advice()}") from error
    finally:
        shutil.rmtree(entry, ignore_errors=True)
    _prune(entry.parent)
    return images


def _read(entry: Path) -> CachedImages:
    """The entry, its checksum compared: a mapped file that is wrong or cut short would only show much later."""
    stored = json.loads((entry / "meta.json").read_text())
    unreadable = tuple((int(index), str(reason)) for index, reason in stored["unreadable"])
    meta = _Meta(tuple(stored["shape"]), unreadable, bool(stored["grey"]))
    if meta.digest(entry / "pixels") != stored["sha256"]:
        raise ValueError("its checksum is wrong")
    with suppress(OSError):  # a read-only cache serves as well
        os.utime(entry)
    return _mapped(entry, meta)


def _mapped(entry: Path, meta: _Meta) -> CachedImages:
    if meta.shape[0] == 0:  # an empty file cannot be mapped
        return CachedImages(np.empty(meta.shape, np.uint8), meta.unreadable, meta.grey)
    pixels = np.memmap(entry / "pixels", np.uint8, mode="c", shape=meta.shape)
    return CachedImages(np.asarray(pixels), meta.unreadable, meta.grey)


def _begun_entry(folders: list[Path], key: str, most_bytes: int) -> Path:
    """A new folder under a temporary name, hidden from readers and beside its final place."""
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            entry = folder / f".{key}.{uuid.uuid4().hex}"
            entry.mkdir()
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        if shutil.disk_usage(folder).free > most_bytes:
            return entry
        entry.rmdir()
        problems.append(f"{folder}: less than {most_bytes >> 20} MiB free")
    raise RunError(f"There is no place for the decoded images ({'; '.join(problems)}). {_advice()}")


def _write(entry: Path, runs: Iterator[Decoded], advance: Callable[[int], None]) -> _Meta:
    """Writes the pixels of all runs one after another."""
    unreadable: list[tuple[int, str]] = []
    seen, written, grey, shape = 0, 0, True, (0, 0, 0)
    with open(entry / "pixels", "wb") as file:
        for run in runs:
            file.write(run.pixels.data)
            unreadable += [(seen + index, reason) for index, reason in run.unreadable]
            written, seen = written + len(run.pixels), seen + len(run.pixels) + len(run.unreadable)
            grey, shape = grey and run.grey, run.pixels.shape[1:]
            advance(len(run.pixels) + len(run.unreadable))
    return _Meta((written, *shape), tuple(unreadable), grey)


def _publish(entry: Path, final: Path) -> None:
    """Gives the entry its name in one step, in place of one found corrupt."""
    with suppress(FileNotFoundError):
        os.rename(final, entry / "replaced")
    with suppress(OSError):  # another process was faster; its entry is the same
        os.rename(entry, final)
        shutil.rmtree(final / "replaced", ignore_errors=True)


def _prune(folder: Path) -> None:
    """Removes the entries not used for longest, and unfinished ones that nobody will finish."""
    with suppress(OSError):
        times = {entry: entry.stat().st_mtime for entry in folder.iterdir() if entry.is_dir()}
        finished = sorted((entry for entry in times if entry.name[0] != "."), key=times.__getitem__, reverse=True)
        abandoned = [e for e in times if e.name[0] == "." and time.time() - times[e] > ABANDONED_SECONDS]
        for entry in finished[KEPT:] + abandoned:
            shutil.rmtree(entry, ignore_errors=True)


def _advice() -> str:
    return "Name another folder with data.cache=<folder>."
