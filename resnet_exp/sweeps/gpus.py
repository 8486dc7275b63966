"""The GPU of each process of a sweep: one of its own while there are enough, else one that few share."""

from __future__ import annotations

import itertools
import os
import platform
from pathlib import Path
from typing import IO

from resnet_exp.run_dir.lock import try_lock

# By folder and process: a fork inherits this, but needs a GPU of its own. The lock is held while the file is open.
_claims: dict[tuple[Path, int], tuple[int, IO[str]]] = {}


def claimed_gpu(folder: Path, count: int) -> int:
    """Returns the index, below `count`, of the GPU that this process alone uses among those that share `folder`.

    It is this process's own until it ends, however it ends; later calls return the same one. When all GPUs are taken,
    each gets a second process in turn, then a third: the places `<machine>-gpu<index>-<n>.lock` are filled from the
    lowest `n` up, so that a process gets a GPU with as few others as possible.
    """
    key = (folder.absolute(), os.getpid())
    if key not in _claims:
        _claims[key] = _claim(folder, count)
    return _claims[key][0]


def _claim(folder: Path, count: int) -> tuple[int, IO[str]]:
    assert count > 0
    for place, index in ((place, index) for place in itertools.count() for index in range(count)):
        lock = try_lock(folder / f"{platform.node()}-gpu{index}-{place}.lock")
        if lock is not None:
            return index, lock
    raise AssertionError("there is always a next place")
