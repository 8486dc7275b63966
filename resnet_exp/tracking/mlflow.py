"""The MLflow tracker: a thread replays a run's journal, so that training never waits for MLflow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_exp.config.ranges import Text
from resnet_exp.config.redact import redact
from resnet_exp.interfaces import Mirror
from resnet_exp.run_dir.files import Unwritable
from resnet_exp.run_dir.lock import locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow_model import export_network
from resnet_exp.tracking.mlflow_nesting import Nesting
from resnet_exp.tracking.mlflow_replay import Replay
from resnet_exp.tracking.mlflow_state import LOCK, has_arrived
from resnet_exp.tracking.mlflow_store import (
    absolute_uri,
    import_mlflow,
    open_store,
    redact_text,
    turns_and_migration,
    ui_command,
)
from resnet_exp.tracking.mlflow_upload import bytes_read, bytes_unsent
from resnet_exp.tracking.mlflow_uri import check_uri
from resnet_exp.tracking.thread_work import ThreadWork

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0  # seconds between attempts, doubled each time
_LONGEST_PAUSE = 60.0
_LONGEST_WORK = 60.0  # seconds without any arrival for which work counts: a thread may spin
_LAST_ATTEMPTS = 3  # after the run has ended: by then an outage only keeps the user waiting


class MlflowTracker:
    """Shows runs in an MLflow experiment.

    Args:
        uri: sqlite:///FILE.db, postgresql+psycopg://..., or http(s)://... of a server; None: sqlite:///mlflow.db.
        experiment: its name; it is created if need be.

    Raises:
        ConfigError: MLflow has no such store, or it could not be written.
    """

    def __init__(self, uri: Text | None = None, experiment: Text = "resnet_exp") -> None:
        self.uri, self._experiment = "sqlite:///mlflow.db" if uri is None else uri, experiment
        check_uri(self.uri)

    def open(self, run_dir: Path, label: str) -> MlflowMirror:
        """The mirror of a run; the label begins the name of a new MLflow run."""
        run_name = f"{label} {run_dir.name}".lstrip()
        return MlflowMirror(RunPaths(run_dir), uri=self.uri, experiment=self._experiment, run_name=run_name)


class MlflowMirror(Mirror):
    """Mirrors a run's journal into one MLflow run, through outages and kills of this process.

    An outage gives one warning; what is missing is mirrored when the store is back or, after the process has ended,
    when the same command is given again.

    Args:
        paths: The run directory; `mlflow.json` there remembers the MLflow run and how far it is mirrored.
        uri: sqlite, PostgreSQL or http(s).
        experiment: The name of the MLflow experiment, created if need be.
        run_name: Of a new MLflow run.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        uri: str,
        experiment: str,
        run_name: str,
    ) -> None:
        self._paths = RunPaths(paths.root.absolute())
        self._uri = absolute_uri(uri)
        self._experiment, self._run_name = experiment, run_name
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._abandoned = threading.Event()
        self._started = threading.Event()  # or found that it cannot be for now
        self._steps = 0  # what has arrived: stretches of the journal, files, runs of a sweep beneath this one
        self._work, self._arrived = ThreadWork(), 0.0  # by the monotonic clock, in seconds: the last arrival
        self._replay: Replay | None = None
        self._thread: threading.Thread | None = None
        self.link: str | None = None  # the address of the run, once it is complete
        self._warned = False

    def begin(self) -> None:
        """Starts mirroring in a thread; the import of MLflow, about 2 s in a process's life, happens here."""
        try:
            # Not in the thread: two threads that import at once can each see the other's half-made modules.
            import_mlflow()
        except Exception as error:
            self._warn(error)
            return
        for event in (self._ending, self._abandoned, self._started):
            event.clear()
        self.link, self._arrived = None, time.monotonic()
        self._wake.set()
        self._thread = threading.Thread(target=self._mirror_alone, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Says that the journal has grown; returns at once."""
        self._wake.set()

    def wait_until_started(self, seconds: float) -> None:
        """Waits, so long at most, until there is an MLflow run, or the first attempt at one has failed."""
        if self._thread is not None:
            self._started.wait(seconds)

    def end(self) -> Sequence[str]:
        """Mirrors what is left, until all has arrived or the last attempts have failed.

        Returns:
            How to start MLflow's pages, where no server is named, and the address of the run.
        """
        if self._thread is not None:
            self._arrived = time.monotonic()
            self._ending.set()
            self._wake.set()
            self._thread.join()
        return self._lines()

    def progress(self) -> object:
        """How much has arrived, how far the library has read the file that it uploads, and what is still to be sent."""
        file = self._replay.uploading if self._replay else None
        return self._steps, bytes_read(file), bytes_unsent() if file else 0

    def work(self) -> object:
        """How much the thread has computed, and other processes that open the same store, which it waits for."""
        if time.monotonic() - self._arrived > _LONGEST_WORK:
            return None
        return self._work.count(), turns_and_migration(self._uri) if self._replay is None else ()

    def give_up(self) -> Sequence[str]:
        """Lets the thread do no more than it is doing, and warns; returns what `end` would."""
        self._abandoned.set()
        self._warn(TimeoutError("no answer while the run's end waited for it"))
        return self._lines()

    def is_complete(self) -> bool:
        """Whether the whole journal has arrived in this store, by what the run directory remembers."""
        return has_arrived(self._paths, self._uri)

    def _lines(self) -> Sequence[str]:
        start = () if self._uri.startswith("http") else (f"  {ui_command(self._uri)}",)
        address = self.link or "(not complete there yet: the same command again completes it)"
        return "look at it in MLflow:", *start, f"  {address}"

    def export_model(self, model: nn.Module, input_shape: tuple[int, int, int]) -> Path | None:
        """Writes `mlflow_model/`, where torch.export can follow the network and there is room for it."""
        try:
            return export_network(model, input_shape, self._paths.root / "mlflow_model")
        except Unwritable as error:
            log.warning("no MLflow model: %s. task=report run_dir=%s exports it", error, self._paths.root)
            return None
        except Exception as error:  # it cannot follow every network; the weights are safe
            reason = str(error).splitlines()[:1]
            log.warning("no MLflow model: torch.export could not follow this network (%s)", reason)
            return None

    def _mirror_alone(self) -> None:
        """The thread, once no other one mirrors this run, such as one that `end` has given up waiting for."""
        self._work.begin()
        try:
            with locked(self._paths.root / LOCK):
                self._mirror()
        except OSError as error:  # the lock: a full disk, such as
            self._warn(error)
            self._started.set()

    def _mirror(self) -> None:
        """Ships whenever it is woken; after a failure it tries again, after longer and longer pauses."""
        replay, pause, last_attempts = None, _FIRST_PAUSE, 0
        while not self._abandoned.is_set():
            self._wake.wait()
            self._wake.clear()
            ending = self._ending.is_set()  # checked before shipping: what was recorded before the end is in this pass
            try:
                if replay is None:
                    store = open_store(self._uri, self._experiment)
                    self._got_on()
                    self._replay = replay = Replay(self._paths, store, self._run_name, on_arrival=self._got_on)
                    nesting = Nesting(self._paths.root, replay, self._got_on)
                self._started.set()
                self._ship(replay, nesting, ending)
                pause = _FIRST_PAUSE
                if ending:
                    return
            except Exception as error:
                self._warn(error)
                self._started.set()
                last_attempts += ending
                if last_attempts == _LAST_ATTEMPTS:
                    return
                pause = self._pause(pause, ending)

    def _ship(self, replay: Replay, nesting: Nesting, ending: bool) -> None:
        """Ships what is new; at the end, once all has arrived, there is a link."""
        stop = self._abandoned.is_set
        replay.ship(stop)
        for _ in nesting.update(everything=ending):
            if stop():
                return
        if ending and not stop():
            replay.close()
            self.link = replay.link
            if self._warned:
                log.info("MLflow at %s is complete again: %s", redact(self._uri), self.link)

    def _got_on(self) -> None:
        self._steps += 1
        self._arrived = time.monotonic()

    def _pause(self, pause: float, ending: bool) -> float:
        """Waits before another attempt, and returns how long to wait before the one after it."""
        if ending:
            time.sleep(_FIRST_PAUSE)
        else:
            self._ending.wait(pause)
        self._wake.set()
        return min(2 * pause, _LONGEST_PAUSE)

    def _warn(self, error: Exception) -> None:
        """Warns once of what is wrong, with what to do, without the password of the URI."""
        if self._warned:
            log.debug("MLflow: %s", redact_text(repr(error), self._uri))
            return
        self._warned = True
        reason = redact_text(f"{type(error).__name__}: {error}", self._uri)
        log.warning(
            "MLflow at %s does not keep up (%s). The run goes on, and %s has everything; the mirror tries again. If "
            "the MLflow run stays incomplete, the same command again completes it.",
            redact(self._uri),
            reason.splitlines()[0][:300],
            self._paths.journal,
        )
