"""Whether a thread computes, by its own CPU time: one that waits for an answer that does not come uses none."""

from __future__ import annotations

import threading
import time

_LEAST = 0.05  # CPU seconds within a window that count: a byte of an answer now and then takes a thousandth of that
_WINDOW = 1.0  # seconds


class ThreadWork:
    """Counts how often a thread has computed for a while.

    Where the platform has no such clock (macOS), the count stays 0.
    """

    def __init__(self) -> None:
        self._clock: int | None = None
        self._count, self._before, self._since = 0, 0.0, 0.0

    def begin(self) -> None:
        """Is called by the thread itself: the clock of one that has ended must not be asked for."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def count(self) -> int:
        """A number that grows while the thread computes, as long as another one asks now and then."""
        now, used = time.monotonic(), self._used()
        if used - self._before >= _LEAST:
            self._count += 1
        elif now - self._since < _WINDOW:
            return self._count
        self._before, self._since = used, now
        return self._count

    def _used(self) -> float:
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return self._before
