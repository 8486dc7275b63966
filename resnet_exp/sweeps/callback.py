"""The Hydra callback that opens a sweep before its first job and closes it after its last, with every sweeper."""

from __future__ import annotations

import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from resnet_exp.sweeps.launchers import check_launcher, end_jobs
from resnet_exp.sweeps.plan import OWN_SWEEPERS, check_sweep
from resnet_exp.sweeps.session import Session, errors_told, open_sweep


class SweepCallback(Callback):
    """Opens and closes sweeps; a single run passes it by."""

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
        if error is not None or Session.open is not None:
            end_jobs()
        sweep, Session.open = Session.open, None
        if sweep is None:
            return
        with errors_told():
            went_well = sweep.end(error)
        if error is None and not went_well:
            raise SystemExit(1)
