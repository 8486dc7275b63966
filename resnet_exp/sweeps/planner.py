"""The plan of a sweep: its jobs as they will be launched, each composed and checked before the first one runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from resnet_exp.config import build
from resnet_exp.config.config import Config, typed
from resnet_exp.config.hydra_flags import hydra_arguments
from resnet_exp.config.overrides import sweep_overrides, with_point
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.plan import config_hash, space_of


@dataclass(frozen=True)
class PlannedJob:
    """A job, the config that it will compose, and the overrides that launch it."""

    job: Job
    config: Config
    overrides: tuple[str, ...]


class Planner:
    """Plans the jobs of a sweep.

    Args:
        config: the sweep's, as Hydra composed it.
        loader: composes the jobs' configs.
        arguments: the overrides of the command line.

    Raises:
        ConfigError: nothing is swept over.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
        self._config, self._loader = config, loader
        self._overrides = sweep_overrides(config.hydra.sweeper.get("params") or {}, arguments)
        self.space: dict[str, Override] = space_of(config, arguments, loader)  # the values of each swept key

    def compose(self, number: int, point: Mapping[str, Any]) -> Config:
        """Returns the config of a job, checked.

        Raises:
            ConfigError: it cannot work.
        """
        return compose_job(self._config, self._loader, self._job_overrides(number, point))

    def plan(self, number: int, point: Mapping[str, str], values: dict[str, Any] | None = None) -> PlannedJob:
        """Returns a job of the sweep.

        Args:
            number: counted from 0.
            point: a value for each swept key, as on the command line.
            values: the same as numbers, booleans and texts, where the sweeper computes with them.

        Raises:
            ConfigError: the point cannot work.
        """
        shown = " ".join(f"{key}={value}" for key, value in point.items())
        if point.keys() != self.space.keys():
            raise ConfigError(f"job {number}, {shown}: a value for each of {', '.join(self.space)} is needed, no more")
        try:
            config = self.compose(number, point)
        except ConfigError as error:
            raise ConfigError(f"job {number}, {shown}: {error}") from error
        overrides = self._job_overrides(number, point)
        job = Job(number, dict(point), config.command, config_hash=config_hash(config), values=values or {})
        return PlannedJob(job, config, tuple(overrides))

    def _job_overrides(self, number: int, point: Mapping[str, Any]) -> list[str]:
        return [*with_point(self._overrides, point), f"sweep.job={number}"]


def compose_job(config: DictConfig, loader: ConfigLoader, overrides: Sequence[str]) -> Config:
    """Returns the config that a job with these overrides will compose, checked; torch is not imported for it.

    Raises:
        ConfigError: it cannot be composed, or cannot work.
    """
    try:
        cfg = loader.load_sweep_config(config, list(overrides))
    except (HydraException, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    choices, with_job, of_hydra = cfg.hydra.runtime.choices, list(cfg.hydra.overrides.task), hydra_arguments(cfg.hydra)
    del cfg.hydra
    checked = typed(cfg, with_job, choices, of_hydra)
    build.check_schedule(checked)
    return checked
