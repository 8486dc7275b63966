"""Locks between processes: `flock` on an empty file, which the kernel releases even when its holder is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resnet_exp.run_dir.files import unwritable


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """A block in which this process alone holds the lock; waits while another one does.

    Args:
        path: the lock file; it stays, since a lock on a deleted file would exclude nobody.
        on_wait: called once before waiting.
    """
    with _opened(path) as file:
        if not _try(file, fcntl.LOCK_EX):
            if on_wait is not None:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[str] | None:
    """The lock file, held until it is closed or the process ends; None at once where another process holds it."""
    file = _opened(path)
    if _try(file, fcntl.LOCK_EX):
        return file
    file.close()
    return None


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock, this one included."""
    with _opened(path) as file:
        return not _try(file, fcntl.LOCK_SH)  # shared: two processes that look at once do not take each other for it


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a", opener=_not_through_a_link)
    except OSError as error:
        raise unwritable(path, error) from error


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)  # a link in somebody else's directory may lead anywhere


def _try(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
