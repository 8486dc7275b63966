"""A tracker's mirror of a run, in such a way that nothing it raises costs the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from resnet_exp.config.redact import redact
from resnet_exp.interfaces import Mirror, Tracker
from resnet_exp.run_dir.paths import RunPaths

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

T = TypeVar("T")


def open_mirror(tracker: Tracker, paths: RunPaths, label: str = "") -> Mirror:
    """Opens the mirror of a run; whatever the tracker raises becomes a warning.

    Args:
        tracker: as `config.build` makes it.
        paths: the run directory.
        label: how a job of a sweep differs from the others.
    """
    return _SafeMirror(tracker, paths, label)


class _SafeMirror(Mirror):
    """Passes every call on to the tracker's own mirror, and turns the first exception into a warning."""

    def __init__(self, tracker: Tracker, paths: RunPaths, label: str) -> None:
        self._name, self._journal, self._has_failed = type(tracker).__name__, paths.journal, False
        nowhere = Mirror()
        self._mirror = self._safely(lambda: tracker.open(paths.root.absolute(), label), nowhere)

    def begin(self) -> None:
        """Begins the mirror."""
        self._safely(lambda: self._mirror.begin(), None)

    def wait_until_started(self, seconds: float) -> None:
        """Waits, so long at most, until other runs can refer to this one."""
        self._safely(lambda: self._mirror.wait_until_started(seconds), None)

    def sync(self) -> None:
        """Says that the journal has grown."""
        self._safely(lambda: self._mirror.sync(), None)

    def end(self) -> Sequence[str]:
        """Ends the mirror; the lines say how to look at the run, or that the tracker has failed."""
        nothing: list[str] = []
        lines = self._safely(lambda: [str(line) for line in self._mirror.end()], nothing)
        if not self._has_failed:
            return lines
        return [*lines, f"{self._name} has failed and may lack some of this run: the same command again completes it"]

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        """Exports the network as the tracker wants it."""
        return self._safely(lambda: self._mirror.export_model(model, input_shape), None)

    def _safely(self, call: Callable[[], T], otherwise: T) -> T:
        """What the call returns, or `otherwise` where it raises; Ctrl-C and SIGTERM pass."""
        try:
            return call()
        except Exception as error:
            self._warn(error)
            return otherwise

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
