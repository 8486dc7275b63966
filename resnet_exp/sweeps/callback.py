"""The Hydra callback that opens a sweep before its first job and closes it after its last, with every sweeper."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from resnet_exp.console import Console
from resnet_exp.directory import held
from resnet_exp.files import write_json
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.plugin_folders import folders_of
from resnet_exp.sweeps.launchers import check_launcher, end_jobs, interrupt_sweep
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE, SWEEP_VARIABLE, Ledger
from resnet_exp.sweeps.plan import OWN_SWEEPERS, check_sweep, facts_of, root_of, settings


class SweepCallback(Callback):
    """Opens and closes sweeps; a single run passes it by."""

    _sweep: _Sweep | None = None  # of this process; it is the same for our sweepers, which open it

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Opens the sweep; our own sweepers do it themselves, when all their jobs are known to be sound."""
        with errors_told():
            check_sweep(config)
            check_launcher(str(config.hydra.runtime.choices["hydra/launcher"]))
            if config.hydra.sweeper._target_ not in OWN_SWEEPERS:
                open_sweep(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Closes it, however it ended; a sweep with failed jobs ends the command with 1."""
        error = sys.exc_info()[1]
        if error is not None or SweepCallback._sweep is not None:
            end_jobs()
        sweep, SweepCallback._sweep = SweepCallback._sweep, None
        if sweep is None:
            return
        with errors_told():
            went_well = sweep.end(error)
        if error is None and not went_well:
            raise SystemExit(1)


def open_sweep(config: DictConfig) -> None:
    """Opens the sweep of this config, its directory and its parent run.

    Raises:
        RunError: another process runs it.
    """
    assert not settings(config).dry_run
    SweepCallback._sweep = _Sweep(config)


def ledger_of(config: DictConfig) -> tuple[Ledger, dict[str, Any], dict[str, Any]]:
    """The ledger of the sweep of this config, whether it has begun or not, what the sweep is, and the code it runs."""
    from resnet_exp import runtime
    from resnet_exp.sweeps.opening import data_identity

    whole: Any = OmegaConf.to_container(config)
    code = runtime.code_state(*folders_of(whole["plugins"]))
    facts = facts_of(config, code["code_digest"], data_identity(config))
    return Ledger(root_of(Path(config.hydra.sweep.dir), config.name, facts)), facts, code


@contextmanager
def errors_told() -> Iterator[None]:
    """A block whose errors end the command here, in words: Hydra makes a warning or a traceback of them."""
    try:
        yield
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


class _Sweep:
    """A sweep that this process runs: its directory is its own, and jobs, wherever they are launched, know of it."""

    def __init__(self, config: DictConfig) -> None:
        from resnet_exp.sweeps.opening import parent_of

        self._config = config
        self.ledger, facts, code = ledger_of(config)
        self.ledger.root.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(held(self.ledger.root))
        if not self.ledger.facts:
            write_json(self.ledger.root / "sweep.json", facts)
        os.environ |= {SWEEP_VARIABLE: str(self.ledger.root), PROCESS_VARIABLE: str(os.getpid())}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt_sweep)
        self._parent = parent_of(config, self.ledger, code)
        self._parent.begin()

    def end(self, error: BaseException | None) -> bool:
        """Closes the parent run and says what came of the sweep; returns whether all of it went well."""
        from resnet_exp.sweeps.opening import close

        try:
            return close(self._config, self.ledger, self._parent, error, Console())
        finally:
            for variable in (SWEEP_VARIABLE, PROCESS_VARIABLE):
                os.environ.pop(variable, None)
            self._held.close()
