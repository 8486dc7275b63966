"""Signals that ask the process to end: the first saves what was done and ends it, a second one ends it at once.

`handled` is a block in which that holds. The first signal raises `Interrupted`; within `deferred`, a loop that can save
after each step, it is only noted: the loop asks `should_stop`, saves, and calls `stop`. The second is seen by a thread:
Python calls handlers in the main thread alone, between two of its own instructions, and a call of a library may take
minutes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from resnet_exp.interfaces import STOP_SIGNALS, Interrupted

# Seconds within which another signal is the first one's echo: `timeout` signals its child and then the child's group, a
# wrapper passes on what the terminal has sent to both, submitit sends it twice.
_ECHO = 0.25
_MOST = 0.5  # seconds that the last words may take


@dataclass
class _State:
    """What the signals of this process have led to."""

    is_handled: bool = False
    first: signal.Signals | None = None
    asked: int = 0
    deferred: int = 0  # blocks that the process is in
    before_stop: list[Callable[[], object]] = field(default_factory=list)
    last_words: list[Callable[[str], object]] = field(default_factory=list)


_state = _State()


@contextmanager
def handled(*, ends_at_second: bool = True) -> Iterator[None]:
    """A block in which a signal raises Interrupted, and a second one ends the process, with exit code 128 + n.

    Signals that were ignored before, such as SIGHUP under nohup, stay ignored. Outside the main thread, where Python
    does not allow handlers, and within another such block it changes nothing.

    Args:
        ends_at_second: False for a process that another one signals and ends: a second signal is an echo there.
    """
    global _state
    if _state.is_handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    # None: a handler that is not Python's, which Python could not restore.
    before = {n: handler for n in STOP_SIGNALS if (handler := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    _state = _State(is_handled=True)
    with _watched(frozenset(before)) if ends_at_second else nullcontext():
        try:
            for number in before:
                signal.signal(number, _on_signal)
            yield
            if should_stop():  # a library has swallowed the exception
                stop()
        except KeyboardInterrupt:
            if should_stop():  # a library, such as Ray, may have raised one of its own instead
                stop()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _state = _State()


def should_stop() -> bool:
    """Whether a signal has asked the process to end."""
    _state.asked += 1
    return _state.first is not None


def times_asked() -> int:
    """How often `should_stop` was asked: as long as this changes, the process is at work."""
    return _state.asked


def stop() -> NoReturn:
    """Raises Interrupted, with the signal that `should_stop` tells of."""
    assert _state.first is not None, "asked for after should_stop"
    raise Interrupted(_state.first)


def reason_of(error: KeyboardInterrupt) -> str:
    """Why the process ends, such as `interrupted by SIGTERM`, even where a library raises an exception of its own."""
    return str(Interrupted(_state.first) if _state.first else error) or "interrupted"


@contextmanager
def deferred() -> Iterator[None]:
    """A block of steps, in which a first signal raises nothing: who is in it asks `should_stop` after each."""
    _state.deferred += 1
    try:
        yield
    finally:
        _state.deferred -= 1
    if should_stop() and not _state.deferred:
        stop()


@contextmanager
def before_stop(act: Callable[[], object]) -> Iterator[None]:
    """A block in which `act` is called at the first signal, before Interrupted is raised."""
    with _listed(_state.before_stop, act):
        yield


@contextmanager
def last_words(say: Callable[[str], object]) -> Iterator[None]:
    """A block in which `say` gets the reason at the second signal, in another thread; it has half a second."""
    with _listed(_state.last_words, say):
        yield


@contextmanager
def _listed(acts: list[Any], act: Any) -> Iterator[None]:
    acts.append(act)
    try:
        yield
    finally:
        acts.remove(act)


def _on_signal(number: int, _: object) -> None:
    if _state.first is not None:
        return  # an echo, or the second, which ends the process from the other thread
    _state.first = signal.Signals(number)
    if _state.deferred or _state.before_stop:
        _print(f"{_state.first.name}: what it is at is saved; once more ends at once")
    if not _state.deferred:
        for act in _state.before_stop:
            act()
        stop()


@contextmanager
def _watched(numbers: frozenset[signal.Signals]) -> Iterator[None]:
    """A block in which a thread reads each signal as it comes, also while the main thread is in a long call."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_end, numbers), name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write_end)  # the thread ends


def _watch(read_end: int, numbers: frozenset[signal.Signals]) -> None:
    first = None
    with os.fdopen(read_end, "rb", buffering=0) as signals:
        while content := signals.read(1):
            if content[0] not in numbers:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > _ECHO:
                _end_now(signal.Signals(content[0]))


def _end_now(number: signal.Signals) -> NoReturn:
    code = 128 + number
    # What the last words need may be held by a thread that is stuck, or the disk be slow.
    limit = threading.Timer(_MOST, os._exit, (code,))
    limit.daemon = True
    limit.start()
    for say in reversed(_state.last_words):
        with suppress(Exception):
            say(f"ended at once by a second signal, {number.name}")
    _print(f"error: ended at once by a second signal, {number.name}; the same command goes on from what was saved")
    os._exit(code)


def _print(text: str) -> None:
    """Writes a line to standard error, past its buffer, which the main thread may be writing to."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _forget() -> None:
    """Handles nothing in a forked process: its signals would be read by this one's thread, as if they were its own."""
    global _state
    if _state.is_handled:
        _state = _State()
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
