"""A sweep that this process runs, from its directory and parent run to its end."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from resnet_exp.config.plugin_folders import folders_of
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.directory import held
from resnet_exp.run_dir.files import write_json
from resnet_exp.runs.console import Console
from resnet_exp.sweeps.launchers import interrupt_sweep
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE, SWEEP_VARIABLE, Ledger
from resnet_exp.sweeps.plan import data_identity, facts_of, root_of, settings, tracker_of
from resnet_exp.tracking.mirror import open_mirror

if TYPE_CHECKING:
    from resnet_exp.sweeps.parent_run import Parent


def open_sweep(config: DictConfig) -> None:
    """Opens the sweep of this config, its directory and its parent run.

    Raises:
        RunError: another process runs it.
    """
    assert not settings(config).dry_run
    Session.open = Session(config)


def ledger_of(config: DictConfig) -> tuple[Ledger, dict[str, Any], dict[str, Any]]:
    """The ledger of the sweep of this config, whether it has begun or not, what the sweep is, and the code it runs."""
    from resnet_exp.runs.environment import code_state  # imports torch

    whole: Any = OmegaConf.to_container(config)
    code = code_state(*folders_of(whole["plugins"]))
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


class Session:
    """A sweep that this process runs: its directory is its own, and jobs, wherever they are launched, know of it."""

    open: Session | None = None  # of this process

    def __init__(self, config: DictConfig) -> None:
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
        from resnet_exp.sweeps.closing import close

        try:
            return close(self._config, self.ledger, self._parent, error, Console())
        finally:
            for variable in (SWEEP_VARIABLE, PROCESS_VARIABLE):
                os.environ.pop(variable, None)
            self._held.close()


def parent_of(config: DictConfig, ledger: Ledger, environment: dict[str, Any]) -> Parent:
    """The parent run, not begun yet."""
    from resnet_exp.sweeps.parent_run import Parent  # its page imports much

    mirror = open_mirror(tracker_of(config), ledger.paths, "sweep")
    direction = config.hydra.sweeper.get("direction") or "maximize"
    return Parent(ledger, mirror, environment, str(getattr(direction, "name", direction)))
