"""Every combination of the swept values, in order (`hydra/sweeper=grid`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from resnet_exp.config.overrides import key_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.job_queue import PlanningSweeper
from resnet_exp.sweeps.plan import settings, space_of
from resnet_exp.sweeps.session import errors_told, open_sweep


class GridSweeper(PlanningSweeper):
    """Hydra's basic sweeper, but that jobs which have finished are not run again, and one that fails stops no other.

    Args:
        params: values by key, as on the command line, which comes first.
    """

    def __init__(self, params: DictConfig | None = None) -> None:
        super().__init__(params)

    def sweep(self, arguments: list[str]) -> Any:
        """Runs what is left of the grid; returns its jobs."""
        with errors_told():
            planned = [self._jobs.plan(number, *point) for number, point in enumerate(self._points(arguments))]
            if settings(self._config).dry_run:
                from resnet_exp.sweeps.dry_run import print_plan

                return print_plan(planned)
            self._jobs.prepare(len(planned))
            open_sweep(self._config)
            return self._jobs.run([job for job, _ in planned])

    def _points(self, arguments: Sequence[str]) -> list[tuple[dict[str, str], list[str]]]:
        """Each point with the overrides of its job."""
        space = space_of(self._config, arguments)
        texts = [f"{key}={values}" for key, values in self._params.items()] + list(arguments)
        overrides = OverridesParser.create(self._jobs.config_loader).parse_overrides(texts)
        try:
            (jobs,) = BasicSweeper.split_arguments(overrides, None)
        except HydraException as error:
            raise ConfigError(f"{error}; hydra/sweeper=study proposes points of an interval") from error
        return [({key_of(one): one.partition("=")[2] for one in job if key_of(one) in space}, job) for job in jobs]
