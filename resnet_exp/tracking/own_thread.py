"""A thread in which the calls of one tracker are made, one after another, so that nobody waits for one that hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


class OwnThread:
    """Makes calls in their order, in one thread: what a tracker opens may belong to the thread that opened it.

    The thread is a daemon, unlike those of an executor: the interpreter does not wait for it when it exits.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._is_there = False

    def call(self, function: Callable[[], T]) -> Future[T]:
        """What the function will return, or raise, once its turn has come."""
        if not self._is_there:
            self._is_there = True
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._calls.put((function, future))
        return future

    def stop(self) -> None:
        """Ends the thread after the calls so far; a later call starts another one."""
        if self._is_there:
            self._is_there = False
            self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            function, future = given
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


def is_done(future: Future[Any], seconds: float) -> bool:
    """Whether it is, after so many seconds at most."""
    return bool(wait([future], max(seconds, 0)).done)
