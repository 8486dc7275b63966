"""The MLflow mirror of a run: a thread that replays the journal, so that training never waits for MLflow."""

from __future__ import annotations

import logging
import threading
import time

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow_replay import Replay
from resnet_exp.tracking.mlflow_store import absolute_uri, import_mlflow, redact_text

log = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0  # seconds between attempts, doubled each time
_LONGEST_PAUSE = 60.0
_LAST_ATTEMPTS = 3  # after the run has ended: by then an outage only keeps the user waiting


class MlflowTracker:
    """Mirrors a run's journal into one MLflow run, whatever becomes of the connection or of this process.

    Nothing raises into the training. An outage gives one warning; what is missing is mirrored when the store is back
    or, after the process has ended, when the same command is given again.

    Args:
        paths: The run directory; `mlflow.json` there remembers the MLflow run and how far it is mirrored.
        uri: sqlite, PostgreSQL or http(s).
        experiment: The name of the MLflow experiment, created if need be.
        run_name: Of a new MLflow run.
        patience: Seconds that `end` may take.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        uri: str,
        experiment: str,
        run_name: str,
        patience: float = 60.0,
    ) -> None:
        self._paths = RunPaths(paths.root.absolute())
        self._uri = absolute_uri(uri)
        self._run = (experiment, run_name)
        self._patience = patience
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: str | None = None
        self._warned = False

    def begin(self) -> None:
        """Starts mirroring in a thread; the import of MLflow, about 2 s in a process's life, happens here."""
        try:
            # Not in the thread: two threads that import at once can each see the other's half-made modules.
            import_mlflow()
        except Exception as error:
            self._warn(error)
            return
        self._ending.clear()
        self._abandoned.clear()
        self._link = None
        self._wake.set()
        self._thread = threading.Thread(target=self._mirror, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Says that the journal has grown; returns at once."""
        self._wake.set()

    def end(self) -> str | None:
        """Mirrors what is left, for `patience` seconds at most.

        Returns:
            The address of the run; None if it is not complete, of which a warning has told.
        """
        if self._thread is None:
            return None
        self._ending.set()
        self._wake.set()
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._abandoned.set()
            self._warn(TimeoutError(f"not done within {self._patience:g} s"))
            return None
        return self._link

    def _mirror(self) -> None:
        """The thread: ships whenever it is woken, and after a failure tries again, ever more rarely."""
        replay, pause, last_attempts = None, _FIRST_PAUSE, 0
        while not self._abandoned.is_set():
            self._wake.wait()
            self._wake.clear()
            ending = self._ending.is_set()  # asked before shipping: what was recorded before the end is in this pass
            try:
                replay = replay or Replay(self._paths, self._uri, *self._run)
                replay.ship(stop=self._abandoned.is_set)
                pause = _FIRST_PAUSE
                if ending:
                    replay.close()
                    self._link = replay.link
                    if self._warned:
                        log.info("MLflow at %s is complete again: %s", redact(self._uri), self._link)
                    return
            except Exception as error:
                self._warn(error)
                last_attempts += ending
                if last_attempts == _LAST_ATTEMPTS:
                    return
                pause = self._pause(pause, ending)

    def _pause(self, pause: float, ending: bool) -> float:
        """Waits before another attempt, and returns how long to wait before the one after it."""
        if ending:
            time.sleep(_FIRST_PAUSE)
        else:
            self._ending.wait(pause)
        self._wake.set()
        return min(2 * pause, _LONGEST_PAUSE)

    def _warn(self, error: Exception) -> None:
        """Says once what is wrong and what to do, without the password of the URI."""
        if self._warned:
            log.debug("MLflow: %s", redact_text(repr(error), self._uri))
            return
        self._warned = True
        reason = redact_text(f"{type(error).__name__}: {error}", self._uri)
        log.warning(
            "MLflow at %s does not keep up (%s). The run goes on, and %s keeps everything; the mirror tries again. If "
            "the MLflow run stays incomplete, the same command again completes it.",
            redact(self._uri),
            reason.splitlines()[0][:300],
            self._paths.journal,
        )
