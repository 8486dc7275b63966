"""A GPU of its own for each process of a sweep, as far as there are enough."""

from __future__ import annotations

import itertools
import os
import platform
from pathlib import Path
from typing import IO

from resnet_exp.run_dir.lock import try_lock

# By folder and process: a fork has this too, but not its parent's claim. An open file is a held lock.
_claims: dict[tuple[Path, int], tuple[int, IO[str]]] = {}


def claimed_gpu(folder: Path, count: int) -> int:
    """The index, of `count`, of the GPU that this process alone uses among those that share `folder` on this machine.

    It stays this process's own until it ends, however it ends, and later calls return the same one. When all are taken,
    a second process comes to each GPU in turn, then a third: the places `<machine>-gpu<index>-<n>.lock` are filled from
    the lowest `n` up, so that those GPUs are shared that were shared least when they were taken.
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
