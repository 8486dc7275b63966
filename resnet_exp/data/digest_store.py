"""Remembers digests of files by their stamps, on disk.

What is read is checked, and is nothing but numbers: a file that somebody else put there can be wrong, and no more.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_exp.data.image_listing import STAMP

DIGEST_BYTES = hashlib.sha256().digest_size
_MAX_FILES = 16  # in one cache folder, which several data sets may share; the oldest are deleted
_ABANDONED_SECONDS = 24 * 3600  # an unfinished file older than this was left by a killed process


class Known(NamedTuple):
    """Digests by stamp, in the order of the stamps' bytes."""

    stamps: np.ndarray  # [N], STAMP
    digests: np.ndarray  # [N, 32], uint8


# What this process has read or written, by root: for data sets without a writable cache, and to save reading.
_loaded: dict[Path, Known] = {}
_told: set[Path] = set()  # the roots whose digests could not be saved
_log = logging.getLogger(__name__)


def load(folders: Sequence[Path], root: Path) -> Known:
    """All that the folders remember of the files under a root; a file that is damaged counts as none."""
    if root not in _loaded:
        read = [_read(path) for path in sorted((folder / _name(root) for folder in folders), key=_written)]
        _loaded[root] = _sorted(*map(np.concatenate, zip(*read, strict=True)))
    return _loaded[root]


def look_up(known: Known, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which stamps are known `[N], bool`, and their digests `[N, 32], uint8`; zeros where they are not."""
    digests = np.zeros((len(stamps), DIGEST_BYTES), np.uint8)
    if not len(known.stamps):
        return np.zeros(len(stamps), bool), digests
    # Of equal stamps the last, which was written last: a process that read the file again may have corrected it.
    at = (np.searchsorted(_keys(known.stamps), _keys(stamps), side="right") - 1).clip(min=0)
    found = known.stamps[at] == stamps
    digests[found] = known.digests[at[found]]
    return found, digests


def save(folders: Sequence[Path], root: Path, stamps: np.ndarray, digests: np.ndarray) -> None:
    """Remembers these digests of the files under a root, and no others, in the first folder that is writable.

    Where there is none, that is told once.
    """
    before, now = _loaded.get(root), _sorted(stamps, digests)
    _loaded[root] = now
    if not len(stamps) or (before is not None and all(map(np.array_equal, before, now))):
        return
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / _name(root), now)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
            continue
        _prune(folder)
        return
    if root not in _told:
        _told.add(root)
        size = DIGEST_BYTES + now.stamps.nbytes + now.digests.nbytes
        _log.warning(
            "What the images in %s are known by cannot be saved (%s; it needs %s bytes): every command reads them all.",
            *(root, "; ".join(problems), f"{size:,}"),
        )


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _name(root: Path) -> str:
    return f"digests-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"


def _sorted(stamps: np.ndarray, digests: np.ndarray) -> Known:
    order = np.argsort(_keys(stamps), kind="stable")
    return Known(stamps[order], digests[order])


def _keys(stamps: np.ndarray) -> np.ndarray:
    """The stamps as byte strings: numpy sorts these many times faster than records."""
    return np.ascontiguousarray(stamps).view(f"S{STAMP.itemsize}")


def _read(path: Path) -> Known:
    content = b""
    with suppress(OSError):
        content = path.read_bytes() if path.is_file() else b""
    checksum, records = content[:DIGEST_BYTES], memoryview(content)[DIGEST_BYTES:]
    count, rest = divmod(len(records), STAMP.itemsize + DIGEST_BYTES)
    if not count or rest or hashlib.sha256(records).digest() != checksum:
        return Known(np.empty(0, STAMP), np.empty((0, DIGEST_BYTES), np.uint8))
    stamps, digests = records[: count * STAMP.itemsize], records[count * STAMP.itemsize :]
    return Known(np.frombuffer(stamps, STAMP), np.frombuffer(digests, np.uint8).reshape(count, DIGEST_BYTES))


def _write(path: Path, known: Known) -> None:
    """Writes the file under another name and renames it: a process that reads meanwhile sees the old one, whole."""
    checksum = hashlib.sha256(known.stamps.data)
    checksum.update(known.digests.data)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(partial, "xb") as file:
            for part in (checksum.digest(), known.stamps.data, known.digests.data):
                file.write(part)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Deletes the files written longest ago, and those that a killed process left unfinished."""
    with suppress(OSError):  # another process may be deleting the same files
        times = {path: path.stat().st_mtime for path in folder.glob("digests-*")}
        for path in sorted(times, key=times.__getitem__, reverse=True)[_MAX_FILES:]:
            path.unlink()
        for path in folder.glob(".digests-*"):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
