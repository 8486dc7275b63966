"""The Hydra callback of every sweep: checks its sweeper, and opens the sweep for those of other packages."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config.secrets import strike_sweep
from resnet_exp.interfaces import ConfigError, first_line
from resnet_exp.sweeps.check import check_launcher_settings, check_sweep, check_values, find_sweeper
from resnet_exp.sweeps.launchers import check_launcher
from resnet_exp.sweeps.session import Session, exit_on_error, open_sweep
from resnet_exp.sweeps.sweeper import PlanningSweeper


class SweepCallback(Callback):
    """Opens and closes a sweep: Hydra calls the same instance at its start and its end. A single run has none."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns no session: launchers send callbacks to their workers, and its lock and thread are this process's."""
        return {"_session": None}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks the sweep, and opens it for a sweeper that does not open it itself."""
        with exit_on_error():
            strike_sweep(config, GlobalHydra.instance().config_loader())  # first: all that is stored comes from it
            sweeper = _checked(config)
            if not issubclass(sweeper, PlanningSweeper):
                self._session = open_sweep(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Drops the job's two configs, 100 KiB: launchers keep what every job returned to the end of the sweep."""
        job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Closes what it has opened, however the sweep ended; Hydra calls it in a `finally`."""
        session, self._session = self._session, None
        if session is not None:
            with exit_on_error():
                session.close(sys.exc_info()[1])


def _checked(config: DictConfig) -> type[Sweeper]:
    """The sweeper of this config; raises ConfigError where the sweep cannot work."""
    try:
        sweeper = find_sweeper(config)
        check_sweep(config, sweeper)
        check_launcher(str(config.hydra.runtime.choices["hydra/launcher"]))
        check_launcher_settings(config)
        if not issubclass(sweeper, PlanningSweeper):
            check_values(config, sweeper, GlobalHydra.instance().config_loader())
    except OmegaConfBaseException as error:  # a setting of Hydra's that refers to what is not there
        raise ConfigError(f"{error.full_key or 'hydra'}: {first_line(error)}") from error
    return sweeper
