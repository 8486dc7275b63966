"""SIGTERM handled like Ctrl-C, so that a terminated run records how it ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A block in which SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that a run records its end.

    Outside the main thread, where Python does not allow signal handlers, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it twice; the second would interrupt the recording
    raise KeyboardInterrupt


def should_stop() -> bool:
    """Whether a signal has asked the process to end."""
    return False


def stop() -> NoReturn:
    """Raises the interruption that `should_stop` tells of."""
    raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """A block of steps, in which a signal raises nothing: who is in it asks `should_stop` after each."""
    yield
