"""Ends every process that this one has started, and those that they have started in turn.

Launchers leave processes behind when a sweep is interrupted: joblib its workers, submitit the jobs' controllers, Ray a
cluster. A process whose parent had ended before is not found: the kernel has given it to another parent.

Resource trackers of multiprocessing and joblib are left alone: they ignore SIGTERM, clean up what killed workers leave
in shared memory, and end with the process that they work for. One that is killed is started again, with a warning.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_PAUSE = 0.05  # seconds between two looks
_PR_SET_CHILD_SUBREAPER = 36  # Source: Linux, include/uapi/linux/prctl.h
_AFTER_KILL = 2.0  # seconds for the kernel to remove what was killed


class _Process(NamedTuple):
    """A process; the pid alone may belong to another one by the time it is used."""

    pid: int
    started: int  # clock ticks after the machine


class _Stat(NamedTuple):
    process: _Process
    parent: int
    alive: bool  # neither ended nor waiting to be collected


def end_children(grace: float = 5.0, only: str = "") -> list[int]:
    """Ends every process below this one by SIGTERM; returns the pids that had to be killed.

    Those that are left after `grace` seconds are sent SIGKILL. No other process is ever signalled.

    Args:
        grace: seconds.
        only: the start of the command lines of those that are ended; all others are left alone.
    """
    known: set[_Process] = set()
    with _orphans_are_ours():
        _signal(signal.SIGTERM, known, grace, only)
        return sorted(process.pid for process in _signal(signal.SIGKILL, known, _AFTER_KILL, only))


@contextlib.contextmanager
def _orphans_are_ours() -> Iterator[None]:
    """A block in which a process below this one becomes our child when its parent ends, and so is still found."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _signal(number: signal.Signals, known: set[_Process], seconds: float, only: str) -> set[_Process]:
    """Signals, once each, the known processes, those below them and us, and those started meanwhile; returns them.

    One that is started meanwhile is left alone for a moment: a launcher may be cleaning up with it.
    """
    signalled: set[_Process] = set()
    until = time.monotonic() + seconds
    seen = living = _living(known, only)
    while living:
        known |= living
        for process in (living & seen) - signalled:
            _send(process, number)
        signalled |= living & seen
        if time.monotonic() >= until:
            break
        time.sleep(_PAUSE)
        seen, living = living, _living(known, only)
    return signalled


def _living(known: Collection[_Process], only: str) -> set[_Process]:
    """The processes that have not ended of those below this one, and those known before, whose parents may have."""
    stats = [stat for path in _PROC.glob("[0-9]*") if (stat := _stat(int(path.name)))]
    below = {stat.process for stat in stats} & set(known)
    parents = {os.getpid(), *(process.pid for process in below)}
    while found := {stat.process for stat in stats if stat.parent in parents} - below:
        below |= found
        parents = {process.pid for process in found}
    return {
        stat.process for stat in stats if stat.alive and stat.process in below and _is_meant(stat.process.pid, only)
    }


def _send(process: _Process, number: signal.Signals) -> None:
    """Signals the process unless it has ended, even if another one has its pid now."""
    stat = _stat(process.pid)
    if stat is not None and stat.process == process:
        with contextlib.suppress(ProcessLookupError):  # it ended in between
            os.kill(process.pid, number)


def _is_meant(pid: int, only: str) -> bool:
    """Whether its command line starts like this, and is no tracker's, `python -c "from ....resource_tracker ..."`."""
    try:
        command = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return command.startswith(only.encode()) and b"resource_tracker import main" not in command


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # `pid (name) state ppid ...`, and the name may hold blanks and brackets. Source: man 5 proc_pid_stat.
    state, parent, *rest = text.rpartition(")")[2].split()
    return _Stat(_Process(pid, int(rest[17])), int(parent), state not in "ZX")
