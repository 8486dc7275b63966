"""A step that takes far longer than the usual one is told, with the line that it stands at; nothing is ended."""

from __future__ import annotations

import statistics
import sys
import sysconfig
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resnet_exp.runs.signals import times_asked

_FACTOR = 100  # times the usual step
_LEAST = 10.0  # seconds that are never too long
_FIRST = 600.0  # seconds that are too long where no step is usual yet
_FEW = 20  # steps of which none is the usual one; the parts of a report differ much, and are fewer
_LOOK = 1.0  # seconds between looks
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


@contextmanager
def told_when_stuck(what: str, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """A block of steps; yields what is called after each, which costs well below a microsecond.

    Args:
        what: of which they are the steps, such as `training`.
        tell: prints a warning; called once for each step that takes too long, from another thread.
    """
    seconds: deque[float] = deque(maxlen=999)
    last = time.monotonic()

    def passed() -> None:
        nonlocal last
        now = time.monotonic()
        seconds.append(now - last)
        last = now

    ended = threading.Event()
    arguments = (what, tell, seconds, lambda: last, ended, threading.get_ident())
    threading.Thread(target=_watch, args=arguments, name="stuck", daemon=True).start()
    try:
        yield passed
    finally:
        ended.set()


def _watch(
    what: str,
    tell: Callable[[str], None],
    seconds: deque[float],
    last: Callable[[], float],
    ended: threading.Event,
    thread: int,
) -> None:
    """Looks at the steps until the block has ended."""
    waited, is_told, before, looked = 0.0, False, (last(), times_asked()), time.monotonic()
    while not ended.wait(_LOOK):
        # The process may have been suspended: that is no time of the step's.
        elapsed, looked = time.monotonic() - looked, time.monotonic()
        waited += min(elapsed, 2 * _LOOK)
        # A measurement between two steps asks after each of its batches whether to stop.
        if (now := (last(), times_asked())) != before:
            waited, is_told, before = 0.0, False, now
            continue
        usual = statistics.median(seconds.copy()) if len(seconds) >= _FEW else None
        if not is_told and waited > (_FIRST if usual is None else max(_LEAST, _FACTOR * usual)):
            is_told = True
            than = "" if usual is None else f", and the usual step {usual:.3g} s"
            tell(
                f"{what}: a step takes {waited:.0f} s so far{than}. It is at {_place(thread)}. It is waited for; "
                "Ctrl-C twice ends it, and the same command goes on from the last checkpoint"
            )


def _place(thread: int) -> str:
    """The line that a thread is at, and the line outside Python's and others' packages from which it came there."""
    stack = traceback.extract_stack(sys._current_frames()[thread])
    own = [frame for frame in stack if not (frame.filename or "").startswith((*_LIBRARIES, "<"))]
    places = dict.fromkeys(f"{at.filename}:{at.lineno}, in {at.name}" for at in (stack[-1], *own[-1:]))
    return ", called from ".join(places)
