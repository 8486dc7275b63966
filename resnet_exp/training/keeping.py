"""`Keeping`: when what was trained is saved, and when the process stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn

from resnet_exp.run_dir.checkpoint import Checkpoints

_log = logging.getLogger(__name__)


class Keeping:
    """Saves by time, and where the process is asked to stop, which it then does."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        interval: float,
        before_save: Callable[[], None],
        should_stop: Callable[[], bool],
        stop: Callable[[], NoReturn],
    ) -> None:
        """Nothing is saved yet.

        Args:
            checkpoints: where to.
            interval: least seconds between checkpoints, within an epoch too; 0: one after each epoch.
            before_save: makes durable what is recorded elsewhere; called before each checkpoint.
            should_stop: whether the process is asked to stop.
            stop: called then, once all that was done is saved.
        """
        self._checkpoints, self._interval, self._before_save = checkpoints, interval, before_save
        self._should_stop, self._stop = should_stop, stop
        self._saved = time.monotonic()

    def after_step(self) -> bool:
        """Whether to save after this step; the host's clock and a flag are looked at, not the device."""
        return self._should_stop() or (self._interval > 0 and self.after_epoch())

    def after_epoch(self) -> bool:
        """Whether to save after this epoch."""
        return self._should_stop() or time.monotonic() - self._saved >= self._interval

    def save(self, epoch: int, step: int, state: dict[str, Any]) -> None:
        """Saves the state after so many epochs and steps; then calls `stop` if the process is asked to."""
        self._before_save()
        is_saved = self._checkpoints.save(epoch, step, state)
        self._saved = time.monotonic()
        if self._should_stop():
            if not is_saved:
                _log.warning("what was done since the last checkpoint is lost: the same command does it again")
            self._stop()
