"""A sweep that this process runs, from the lock on its directory to the last line of its parent run."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.directory import held
from resnet_exp.run_dir.foreign import check_directory
from resnet_exp.runs.console import Console
from resnet_exp.runs.dead_runs import end_dead, telling_of_dead
from resnet_exp.runs.signals import before_stop, last_words
from resnet_exp.sweeps.launchers import TO_SAVE, end_jobs, interrupt_jobs, kill_jobs
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE, SWEEP_VARIABLE, Job, Ledger
from resnet_exp.sweeps.objective import direction_of
from resnet_exp.sweeps.plan import (
    data_identity,
    facts_of,
    plugin_folders,
    root_of,
    settings,
    tracker_of,
    tracker_settings,
)
from resnet_exp.tracking.mirror import open_mirror

if TYPE_CHECKING:
    from resnet_exp.sweeps.parent_run import Parent


def open_sweep(config: DictConfig, jobs: Sequence[Job] = ()) -> Session:
    """Returns the sweep of this config, open: its directory is locked, its jobs planned, its parent run has started.

    It is a context manager, which closes the sweep however its block ends.

    Args:
        config: the sweep's, as Hydra composed it.
        jobs: those known so far, in their order; the jobs of stock sweepers enrol themselves.

    Raises:
        RunError: another process runs it.
    """
    assert not settings(config).dry_run
    return Session(config, jobs)


def ledger_of(config: DictConfig) -> tuple[Ledger, dict[str, Any], dict[str, Any]]:
    """Returns the ledger of this config's sweep, which need not exist yet, what the sweep is, and the code it runs."""
    from resnet_exp.runs.environment import code_state  # imports torch

    code = code_state(*plugin_folders(config))
    # Its finished jobs are about to be used: nothing that is remembered of the images is trusted, but for a dry run.
    verify = not settings(config).dry_run
    facts = facts_of(config, code["code_digest"], data_identity(config, Console().progress, verify=verify))
    return Ledger(root_of(Path(config.hydra.sweep.dir), config.name, facts)), facts, code


@contextmanager
def exit_on_error() -> Iterator[None]:
    """A block whose errors are printed and end the command: from callbacks Hydra only warns, and exits with 0."""
    try:
        yield
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


class Session:
    """An open sweep: no other process works in its directory, and its jobs, wherever they are launched, find it.

    Args:
        config: the sweep's, as Hydra composed it.
        jobs: those known so far.

    Raises:
        RunError: another process runs the sweep.
    """

    def __init__(self, config: DictConfig, jobs: Sequence[Job]) -> None:
        self._config = config
        self.ledger, facts, code = ledger_of(config)
        check_directory(self.ledger.root)
        try:
            self.ledger.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"hydra.sweep.dir={config.hydra.sweep.dir}: {self.ledger.root} cannot be made ({error.strerror}); "
                "choose another folder"
            ) from error
        self._held = ExitStack()
        self._held.enter_context(held(self.ledger.root))
        self.ledger.begin(facts)
        self.ledger.plan(jobs)
        # For the jobs, which may run in other processes; nobody in this one reads them but a job.
        os.environ |= {SWEEP_VARIABLE: str(self.ledger.root), PROCESS_VARIABLE: str(os.getpid())}
        self._launching = ExitStack()
        if not str(config.hydra.launcher._target_).endswith(".BasicLauncher"):  # its jobs are this process's
            self._launching.enter_context(before_stop(interrupt_jobs))
        self._parent = parent_of(config, self.ledger, code)
        for word in (kill_jobs, self._parent.killed):
            self._held.enter_context(last_words(word))
        self._parent.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Ends what launchers left running, closes the parent run and prints how the sweep ended.

        Args:
            error: what ended the sweep early.

        Raises:
            SystemExit: 1, where no error ended it but a job failed.
        """
        from resnet_exp.sweeps.closing import close

        self._launching.close()
        end_jobs(TO_SAVE if isinstance(error, KeyboardInterrupt) else 5.0)
        try:
            went_well = close(self._config, self.ledger, self._parent, error, Console())
        finally:
            for variable in (SWEEP_VARIABLE, PROCESS_VARIABLE):
                os.environ.pop(variable, None)
            self._held.close()
        if error is None and not went_well:
            raise SystemExit(1)


def parent_of(config: DictConfig, ledger: Ledger, environment: dict[str, Any]) -> Parent:
    """Returns the parent run, not started yet."""
    from resnet_exp.sweeps.parent_run import Parent  # its page imports much

    tracker, settings_of_it = tracker_of(config), tracker_settings(config)
    killed = [*end_dead(Path(config.output_dir)), *end_dead(ledger.root.parent)]
    mirror = telling_of_dead(open_mirror(tracker, ledger.paths, "sweep"), killed, tracker, settings_of_it)
    return Parent(ledger, mirror, environment, direction_of(config), settings_of_it)
