"""Runs whose process was killed: the next command of the same folder records their end and tells their tracker.

A kill leaves a run's status at RUNNING for ever, in its journal and in its tracker; its lock is free, however.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_exp.interfaces import ConfigError, Mirror, RunError, Tracker
from resnet_exp.run_dir.foreign import read_config
from resnet_exp.run_dir.journal import Journal, last_status, read
from resnet_exp.run_dir.lock import try_lock
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mirror import PATIENCE, open_mirror

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

REASON = "its process was killed"
_STATUS = b'{"kind":"status"'  # begins the record of a status
_POLL = 0.05
_TAIL = 4096  # bytes of a journal in which its last status mostly is


def end_if_dead(root: Path, status: str, reason: str) -> bool:
    """Records how a run ended that stands as RUNNING though no process has it open; whether it was such a run."""
    paths = RunPaths(root)
    if not paths.journal.exists():
        return False
    lock = try_lock(paths.lock)
    if lock is None:
        return False
    with lock:
        if last_status(paths.journal) != "RUNNING":
            return False
        with Journal(paths.journal) as journal:
            journal.status(status, reason)
    return True


def end_dead(folder: Path) -> list[Path]:
    """Records the end of all such runs in a folder; returns their directories, and those of kills recorded before.

    The folders of other runs cost a look at the end of their journals. Links are not followed: what they lead to is in
    another output directory.
    """
    killed, end = [], time.monotonic() + PATIENCE
    for root in run_directories(folder):
        if time.monotonic() > end:  # a file server that is busy; the rest the next time
            break
        status = last_status_line(root / RunPaths(root).journal.name)
        try:
            if b'"status":"RUNNING"' in status:
                if end_if_dead(root, "KILLED", REASON):
                    killed.append(root)
            elif b'"status":"KILLED"' in status and f'"{REASON}"'.encode() in status:
                killed.append(root)
        except (OSError, RunError) as error:  # its own command tells what to do
            log.debug("%s: %s", root, error)
    return killed


def run_directories(folder: Path) -> list[Path]:
    """The folders in it, those of runs among them; a link is none."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # there is no such folder yet
        return []


def last_status_line(journal: Path) -> bytes:
    """The line of a journal's last status; nothing where there is none, or no ordinary file."""
    try:
        number = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(number, "rb") as file:
        try:
            size = os.fstat(number).st_size
            for length in (_TAIL, size):
                file.seek(max(0, size - length))
                tail = file.read(length)
                if (start := tail.rfind(_STATUS)) >= 0:
                    return tail[start:].partition(b"\n")[0]
        except OSError:  # a folder
            pass
    return b""


def recorded_tracker(root: Path) -> Any:
    """The tracker's settings that a run, or a sweep, recorded, without secrets; None if they cannot be read."""
    paths = RunPaths(root)
    try:
        if paths.config.exists():
            return read_config(paths.config)["tracker"]
        said = [record["fields"]["settings"] for record in read(paths.journal) if record.get("name") == "tracker"]
        return said[-1] if said else None
    except (OSError, ValueError, TypeError, KeyError, ConfigError, RunError):
        return None


def telling_of_dead(mirror: Mirror, roots: Sequence[Path], tracker: Tracker, settings: Any) -> Mirror:
    """The mirror of a run, which tells the tracker how other runs ended, too, in a thread while the run goes on.

    A run's own record never says whom to contact: it is told to this command's tracker, and only where it recorded
    the same one.

    Args:
        mirror: of this command's run.
        roots: of the runs that were killed.
        tracker: of this command.
        settings: of the tracker, without secrets, as runs record them.
    """

    def untold(root: Path, is_waited_for: Callable[[], bool]) -> Mirror | None:
        """The mirror of a run that the tracker has to be told of."""
        other = open_mirror(tracker, RunPaths(root), is_waited_for=is_waited_for)
        return None if other.is_complete() or recorded_tracker(root) != settings else other

    return _TellingOfDead(mirror, roots, untold) if roots else mirror


_Untold = Callable[[Path, Callable[[], bool]], Mirror | None]


class _TellingOfDead(Mirror):
    """A mirror with a thread that begins when it has begun: two threads must not import a tracker's library at once."""

    def __init__(self, mirror: Mirror, roots: Sequence[Path], untold: _Untold) -> None:
        self._mirror, self._roots, self._untold = mirror, roots, untold
        self._other = Mirror()  # that of the run which is told now
        self._thread: threading.Thread | None = None
        self._is_waited_for, self._ending = threading.Event(), threading.Event()

    def begin(self) -> None:
        self._mirror.begin()
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_all, name="dead runs", daemon=True)
            self._thread.start()

    def wait_until_started(self, seconds: float) -> None:
        self._mirror.wait_until_started(seconds)

    def sync(self) -> None:
        self._mirror.sync()

    def end(self) -> Sequence[str]:
        """Ends this run's own; others are begun for a run's patience at most, and the rest the next time."""
        begun = time.monotonic()
        lines = self._mirror.end()
        self._is_waited_for.set()
        if self._thread is not None and self._mirror.is_complete():
            self._wait_for(self._thread, begun + PATIENCE)
        self._ending.set()
        return lines

    def _wait_for(self, telling: threading.Thread, last_begin: float) -> None:
        """Waits for the thread while it gets on; from `last_begin` on it begins with no other run."""
        seen, since = None, time.monotonic()
        while telling.is_alive() and time.monotonic() - since < PATIENCE:
            if time.monotonic() > last_begin:
                self._ending.set()
            telling.join(_POLL)
            if (now := (self._other, self._other.progress(), self._other.work())) != seen:
                seen, since = now, time.monotonic()

    def progress(self) -> object:
        return self._mirror.progress()

    def work(self) -> object:
        return self._mirror.work()

    def is_complete(self) -> bool:
        return self._mirror.is_complete()

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        return self._mirror.export_model(model, input_shape)

    def _tell_all(self) -> None:
        for root in self._roots:
            if self._ending.is_set():
                return
            if (other := self._untold(root, self._is_waited_for.is_set)) is None:
                continue
            self._other = other
            other.begin()
            other.end()
            if not other.is_complete():  # the tracker does not answer
                return
