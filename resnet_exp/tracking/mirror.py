"""A tracker's mirror of a run, in such a way that nothing it raises, and no call that hangs, costs the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from resnet_exp.config.redact import redact
from resnet_exp.interfaces import Mirror, Tracker
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.own_thread import OwnThread, is_done

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 4.0  # seconds without progress after which a run goes on to end, so that with the rest it takes 5 at most
_LEAST = 0.2  # seconds for one more that ends, where trackers of its kind have used up the patience of the process
_START = 30.0  # seconds at most for a tracker to begin: an import may take long on a busy machine
_POLL = 0.05
# The seconds that this process has waited in vain, by tracker and call: else each job of a sweep would wait anew.
_in_vain: dict[tuple[str, str], float] = {}


def open_mirror(
    tracker: Tracker, paths: RunPaths, label: str = "", is_waited_for: Callable[[], bool] = lambda: True
) -> Mirror:
    """Opens the mirror of a run; whatever the tracker raises becomes a warning, and it is waited for a bounded time.

    Args:
        tracker: as `config.build` makes it.
        paths: the run directory.
        label: how a job of a sweep differs from the others.
        is_waited_for: whether anybody waits for the mirror to end now; until then it may take its time.
    """
    return _SafeMirror(tracker, paths, label, is_waited_for)


class _SafeMirror(Mirror):
    """Passes every call on to the tracker's own mirror, in a thread, and turns the first exception into a warning."""

    def __init__(self, tracker: Tracker, paths: RunPaths, label: str, is_waited_for: Callable[[], bool]) -> None:
        self._name, self._journal, self._has_failed = type(tracker).__name__, paths.journal, False
        self._thread = OwnThread(f"tracker {paths.root.name}")
        self._mirror, self._is_waited_for = Mirror(), is_waited_for
        self._will_sync = False
        self._mirror = self._safely(lambda: tracker.open(paths.root.absolute(), label), self._mirror)
        self._at_first = self.progress()

    def begin(self) -> None:
        """Begins the mirror; waits for it no longer than it may take to be imported."""
        key, before = (self._name, "begin"), time.monotonic()
        beginning = self._thread.call(lambda: self._mirror.begin())
        if is_done(beginning, max(_START - _in_vain.get(key, 0.0), _LEAST)):
            _in_vain.pop(key, None)
            self._result(beginning, None)
        else:
            _in_vain[key] = _in_vain.get(key, 0.0) + time.monotonic() - before
            self._warn(TimeoutError(f"it has not begun within {_START:g} s"))

    def wait_until_started(self, seconds: float) -> None:
        """Waits, so long at most, until other runs can refer to this one."""
        waiting = self._thread.call(lambda: self._mirror.wait_until_started(seconds))
        if is_done(waiting, seconds + _POLL):
            self._result(waiting, None)

    def sync(self) -> None:
        """Says that the journal has grown; returns at once."""
        if not self._will_sync:
            self._will_sync = True
            self._thread.call(self._sync)

    def end(self) -> Sequence[str]:
        """Ends the mirror; the lines say how to look at the run, or that the tracker has failed.

        It is waited for while it gets on, and for `PATIENCE` seconds without progress or work.
        """
        nothing: list[str] = []
        ending = self._thread.call(lambda: [str(line) for line in self._mirror.end()])
        self._thread.stop()
        if self._ends_in_time(ending):
            lines = self._result(ending, nothing)
        else:
            lines = self._safely(lambda: [str(line) for line in self._mirror.give_up()], nothing)
        if not self._has_failed:
            return lines
        return [*lines, f"{self._name} has failed and may lack some of this run: the same command again completes it"]

    def progress(self) -> object:
        """The tracker's own."""
        return self._safely(lambda: self._mirror.progress(), None)

    def work(self) -> object:
        """The tracker's own."""
        return self._safely(lambda: self._mirror.work(), None)

    def is_complete(self) -> bool:
        """Whether the tracker has the whole journal; not where it has failed."""
        return not self._has_failed and self._safely(lambda: self._mirror.is_complete(), False)

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        """Exports the network as the tracker wants it."""
        return self._safely(lambda: self._mirror.export_model(model, input_shape), None)

    def _sync(self) -> None:
        self._will_sync = False  # first: what is recorded from here on is said again
        self._safely(lambda: self._mirror.sync(), None)

    def _ends_in_time(self, ending: Future[list[str]]) -> bool:
        """Whether it ends before it has neither got on nor computed for as long as this process is patient."""
        while not self._is_waited_for() and not is_done(ending, _POLL):
            pass
        key, begun = (self._name, "end"), time.monotonic()
        seen, since, work = self.progress(), begun, self.work()
        # A tracker that has got on with this run answers now, whatever became of the runs before.
        in_vain = 0.0 if seen != self._at_first else _in_vain.get(key, 0.0)
        while not is_done(ending, _POLL) and time.monotonic() - since < max(PATIENCE - in_vain, _LEAST):
            if (now := self.progress()) != seen:
                seen, since, in_vain = now, time.monotonic(), 0.0
            if (now := self.work()) != work:  # which does not say that the store answers
                work, since = now, time.monotonic()
        if ending.done() and self.is_complete():
            _in_vain.pop(key, None)
        else:
            _in_vain[key] = in_vain + time.monotonic() - begun
        return ending.done()

    def _safely(self, call: Callable[[], T], otherwise: T) -> T:
        """What the call returns, or `otherwise` where it raises; Ctrl-C and SIGTERM pass."""
        try:
            return call()
        except Exception as error:
            self._warn(error)
            return otherwise

    def _result(self, future: Future[T], otherwise: T) -> T:
        return self._safely(lambda: future.result(), otherwise)

    def _warn(self, error: Exception) -> None:
        reason = redact(f"{type(error).__name__}: {error}")
        if self._has_failed:
            log.debug("%s: %s", self._name, reason)
            return
        self._has_failed = True
        log.warning(
            "%s has failed (%s). The run goes on, and %s has everything.",
            self._name,
            reason.splitlines()[0][:300],
            self._journal,
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
