"""Digests of files' bytes, remembered by what the file system says of each file: what has not changed is not read."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from resnet_exp.data import digest_store
from resnet_exp.data.digest_store import DIGEST_BYTES
from resnet_exp.data.image_listing import Stamp, stamp_of
from resnet_exp.interfaces import Advance, Progress

log = logging.getLogger(__name__)

UNREADABLE = bytes(DIGEST_BYTES)
# Reading waits for the disk or the network, so there are more threads than CPUs.
_THREADS = 8
_PER_TASK = 256
# A file may change again within the same tick of its file system's clock, and its ctime stay: younger files than this
# are read again the next time.
_SETTLED_NS = 2_000_000_000
# A file system without ctimes shows the modification time for it, which programs do set. FAT, exFAT, SSHFS and others
# of that kind count in steps of at least 10 ms.
_COARSE_NS = 10_000_000

_verified: set[Path] = set()  # the roots whose files this process has read, all of them


def digests_of(
    root: Path, names: Sequence[str], stamps: np.ndarray, folders: Sequence[Path], progress: Progress, *, verify: bool
) -> np.ndarray:
    """The digests of the files `[N, 32], uint8`; zeros for one that cannot be read.

    Args:
        root: the names are relative to it.
        names: of the files.
        stamps: of the files, `[N], STAMP`.
        folders: where digests are remembered: read in all of them, written to the first that is writable.
        progress: shown while files are read.
        verify: reads every file, whatever is remembered, unless this process has done so for this root.
    """
    known = digest_store.load(folders, root)
    found, digests = digest_store.look_up(known, stamps)
    to_read = np.arange(len(names)) if verify and root not in _verified else np.flatnonzero(~found)
    before, read = digests[to_read], np.empty((0, DIGEST_BYTES), np.uint8)
    if len(to_read):
        started = time.time_ns()
        with progress("Reading images", len(to_read)) as advance:
            read, kept = _read_all(root, [names[index] for index in to_read.tolist()], stamps[to_read], advance)
        _report_unnoticed(root, names, to_read[found[to_read] & (before != read).any(1)])
        digests[to_read] = read
        found[to_read] = kept & _shows_changes(stamps[to_read], started)
        digest_store.save(folders, root, stamps[found], digests[found])
    if verify:
        _verified.add(root)
    return digests


def _read_all(root: Path, names: Sequence[str], stamps: np.ndarray, advance: Advance) -> tuple[np.ndarray, np.ndarray]:
    """The digests `[N, 32], uint8`, and `[N], bool`: whether each file could be read and kept its stamp meanwhile."""
    digests, kept = np.empty((len(names), DIGEST_BYTES), np.uint8), np.empty(len(names), bool)
    executor = ThreadPoolExecutor(_THREADS)
    try:
        parts = [slice(start, start + _PER_TASK) for start in range(0, len(names), _PER_TASK)]
        tasks = [executor.submit(_read_some, root, names[part], stamps[part]) for part in parts]
        for part, task in zip(parts, tasks, strict=True):
            read, same = task.result()
            digests[part], kept[part] = np.frombuffer(read, np.uint8).reshape(-1, DIGEST_BYTES), same
            advance(len(same))
    finally:
        executor.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all that is left
    return digests, kept


def _read_some(root: Path, names: Sequence[str], stamps: np.ndarray) -> tuple[bytes, list[bool]]:
    read = [_read(f"{root}/{name}", stamp) for name, stamp in zip(names, stamps.tolist(), strict=True)]
    return b"".join(digest for digest, _ in read), [same for _, same in read]


def _read(path: str, stamp: Stamp) -> tuple[bytes, bool]:
    """The digest of a file, and whether the file could be read and had this stamp all the while."""
    try:
        # Without waiting, should a pipe have taken the file's place meanwhile.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return UNREADABLE, False
            hashed = hashlib.sha256()
            while block := os.read(file, 1 << 20):
                hashed.update(block)
            return hashed.digest(), stamp_of(status) == stamp == stamp_of(os.fstat(file))
        finally:
            os.close(file)
    except OSError:
        return UNREADABLE, False


def _shows_changes(stamps: np.ndarray, now_ns: int) -> np.ndarray:
    """`[N], bool`: whether a file with this stamp, read from now on, cannot change without changing its stamp."""
    is_settled = now_ns - stamps["ctime_ns"] > _SETTLED_NS
    is_no_ctime = (stamps["ctime_ns"] == stamps["mtime_ns"]) & (stamps["ctime_ns"] % _COARSE_NS == 0)
    return is_settled & ~is_no_ctime


def _report_unnoticed(root: Path, names: Sequence[str], changed: np.ndarray) -> None:
    if len(changed):
        log.warning(
            "%d images in %s have changed though the file system says that they have not (%s, …): results of the old "
            "ones are not used", len(changed), root, names[changed[0]],
        )  # fmt: skip
