"""The plan of a sweep: its jobs as they will be launched, each composed and checked before the first one runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config import build
from resnet_exp.config.config import Config, typed
from resnet_exp.config.hydra_flags import hydra_arguments
from resnet_exp.config.hydra_section import check_overrides
from resnet_exp.config.overrides import sweep_overrides, texts_of, with_point
from resnet_exp.data.identity import read_identity
from resnet_exp.interfaces import ConfigError, first_line
from resnet_exp.run_dir.digest import digest_of
from resnet_exp.runs.console import Console
from resnet_exp.sweeps.ledger import Job
from resnet_exp.sweeps.objective import Objective, direction_of
from resnet_exp.sweeps.plan import identity_of, settings, space_of


@dataclass(frozen=True)
class PlannedJob:
    """A job, the config that it will compose, and the overrides that compose it."""

    job: Job
    config: Config
    composed_of: tuple[str, ...]
    data_identity: str  # of the job's data set

    @property
    def overrides(self) -> list[str]:
        """The overrides that launch it; quoted, since a key may look like a number."""
        return [*self.composed_of, f"sweep.job='{self.job.key}'"]

    def repeated(self, repeat: int) -> PlannedJob:
        """Returns another job of the same identity."""
        return replace(self, job=replace(self.job, repeat=repeat))


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
        self._config, self._loader, self._settings = config, loader, settings(config)
        self._overrides = sweep_overrides(config.hydra.sweeper.get("params") or {}, arguments)
        self.space: dict[str, Override] = space_of(config, arguments, loader)  # the values of each swept key
        self._data: dict[str, str] = {}  # the identity of each data set, by its settings
        self._objective = Objective(direction_of(config))

    def compose(self, point: Mapping[str, Any]) -> Config:
        """Returns the config of a job, checked.

        Raises:
            ConfigError: it cannot work, or cannot be ranked with those composed before it.
        """
        job = compose_job(self._config, self._loader, with_point(self._overrides, point))
        self._objective.check(job)
        return job

    def check(self, point: Mapping[str, Any]) -> None:
        """Raises ConfigError where a point cannot work, or its data set is not there."""
        self._data_identity(self.compose(point))

    def plan(self, number: int, point: Mapping[str, str], values: dict[str, Any] | None = None) -> PlannedJob:
        """Returns a job of the sweep.

        Args:
            number: its place, counted from 0.
            point: a value for each swept key, as on the command line.
            values: the same as numbers, booleans and texts, where the sweeper computes with them.

        Raises:
            ConfigError: the point cannot work.
        """
        shown = " ".join(f"{key}={value}" for key, value in point.items())
        if point.keys() != self.space.keys():
            raise ConfigError(f"job {number}, {shown}: a value for each of {', '.join(self.space)} is needed, no more")
        try:
            config = self.compose(point)
            data_identity = self._data_identity(config)
            identity = identity_of(point, config, data_identity)
        except ConfigError as error:
            raise ConfigError(f"job {number}, {shown}: {error}") from error
        overrides = with_point(self._overrides, point)
        job = Job(number, dict(point), config.command, identity=identity, values=values or {})
        return PlannedJob(job, config, tuple(overrides), data_identity)

    def plan_all(self, points: Iterable[Mapping[str, str]]) -> list[PlannedJob]:
        """Returns a job for each point; a point that is given twice is two jobs.

        Raises:
            ConfigError: one cannot work.
        """
        planned, seen = [], Counter[str]()
        for number, point in enumerate(points):
            one = self.plan(number, point)
            seen[one.job.identity] += 1
            planned.append(one.repeated(seen[one.job.identity]))
        return planned

    def _data_identity(self, config: Config) -> str:
        """The identity of the config's data set, found once: many jobs share one, and may have a million images."""
        key = digest_of(config.plugins["data"])
        if key not in self._data:
            # Finished jobs are about to be used: what is remembered of the images is not trusted, but for a dry run.
            verify = not self._settings.dry_run
            self._data[key] = read_identity(build.source(config), Console().progress, verify=verify)
        return self._data[key]


def compose_job(config: DictConfig, loader: ConfigLoader, overrides: Sequence[str]) -> Config:
    """Returns the config that a job with these overrides will compose, checked; torch is not imported for it.

    Raises:
        ConfigError: it cannot be composed, or cannot work.
    """
    try:
        cfg = loader.load_sweep_config(config, list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(first_line(error)) from error
    with_job = texts_of(cfg.hydra.overrides.task)
    check_overrides(
        [*texts_of(cfg.hydra.overrides.hydra), *with_job], [*overrides, *texts_of(config.hydra.overrides.hydra)]
    )
    choices, of_hydra = cfg.hydra.runtime.choices, hydra_arguments(cfg.hydra)
    del cfg.hydra
    checked = typed(cfg, with_job, choices, of_hydra)
    build.check_schedule(checked)
    return checked
