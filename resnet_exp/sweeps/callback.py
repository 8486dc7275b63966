"""The Hydra callback that opens a sweep before its first job and closes it after its last, with every sweeper."""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from resnet_exp.console import Console
from resnet_exp.files import write_json
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.sweeps.ledger import SWEEP_VARIABLE, Ledger
from resnet_exp.sweeps.plan import check_sweep, facts_of, root_of, settings


class SweepCallback(Callback):
    """Opens and closes sweeps; a single run passes it by."""

    def __init__(self) -> None:
        self._sweep: _Sweep | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Opens the sweep. What cannot work ends the command here: Hydra makes a warning of an exception."""
        try:
            check_sweep(config)
            if not settings(config).dry_run:
                self._sweep = _Sweep(config)
                self._sweep.begin()
        except (ConfigError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Closes it, however it ended."""
        if self._sweep is not None:
            self._sweep.end(sys.exc_info()[1])


class _Sweep:
    """A sweep that this process runs."""

    def __init__(self, config: DictConfig) -> None:
        from resnet_exp import runtime
        from resnet_exp.sweeps.opening import data_identity

        self._config = config
        code = runtime.code_state()
        facts = facts_of(config, code["code_digest"], data_identity(config))
        self.ledger = Ledger(root_of(Path(config.hydra.sweep.dir), config.name, facts))
        self._lock = _alone(self.ledger.root)
        if not self.ledger.facts:
            write_json(self.ledger.root / "sweep.json", facts)
        self._environment = code

    def begin(self) -> None:
        """Opens the parent run and tells jobs, wherever they are launched, of the sweep."""
        from resnet_exp.sweeps.opening import parent_of

        os.environ[SWEEP_VARIABLE] = str(self.ledger.root)
        self._parent = parent_of(self._config, self.ledger, self._environment)
        self._parent.begin()

    def end(self, error: BaseException | None) -> None:
        """Closes the parent run and says what came of the sweep."""
        from resnet_exp.sweeps.opening import close

        try:
            close(self._config, self.ledger, self._parent, error, Console())
        finally:
            os.environ.pop(SWEEP_VARIABLE, None)
            self._lock.close()


def _alone(root: Path) -> IO[str]:
    """The sweep's lock, held as long as the file is open.

    Raises:
        RunError: another process runs this sweep.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = (root / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{root} is being worked on by another process; wait for it, or stop it") from None
    return lock
