"""Jobs handed to a Hydra launcher until each has ended, whatever becomes of the processes that run them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_exp.config import build
from resnet_exp.config.config import Config, typed
from resnet_exp.config.overrides import command_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.launchers import jobs_at_once, prepare_launcher, start_launcher
from resnet_exp.sweeps.ledger import ENDED, Job, Ledger
from resnet_exp.sweeps.plan import config_hash, settings

_log = logging.getLogger(__name__)
_ATTEMPTS = 2  # a job whose process was killed is run once more


class PlanningSweeper(Sweeper):
    """What our sweepers share: the values that their yaml gives, and the jobs that they plan and launch.

    Args:
        params: values by key, as on the command line, which comes first.
    """

    def __init__(self, params: DictConfig | None) -> None:
        self._params = {str(key): values for key, values in (params or {}).items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what jobs are launched with."""
        self._config = config
        self._jobs = Jobs(hydra_context, task_function, config)


class Jobs:
    """The launcher of a sweep, and the ledger that its jobs write."""

    def __init__(self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._task_function, self._prepared = task_function, copy.deepcopy(config)
        self._overrides: dict[int, list[str]] = {}

    @property
    def config_loader(self) -> ConfigLoader:
        """Composes what a job is made of."""
        return self._context.config_loader

    @property
    def ledger(self) -> Ledger:
        """Of the sweep; the callback has opened it."""
        ledger = Ledger.of_this_process()
        assert ledger is not None, "the callback opens it before"
        return ledger

    def compose(self, number: int, overrides: Sequence[str]) -> Config:
        """The config that the job will compose, checked.

        Raises:
            ConfigError: it cannot work.
        """
        cfg = self.config_loader.load_sweep_config(self._config, [*overrides, f"sweep.job={number}"])
        choices = cfg.hydra.runtime.choices
        with_job = list(cfg.hydra.overrides.task)
        del cfg.hydra
        config = typed(cfg, with_job, choices)
        build.check_schedule(config)
        return config

    def plan(
        self, number: int, point: dict[str, str], overrides: Sequence[str], values: dict[str, Any] | None = None
    ) -> tuple[Job, Config]:
        """The job as it will be launched, and what it will compose.

        Raises:
            ConfigError: it cannot work.
        """
        try:
            config = self.compose(number, overrides)
        except ConfigError as error:
            shown = " ".join(f"{key}={value}" for key, value in point.items())
            raise ConfigError(f"job {number}, {shown}: {error}") from error
        self._overrides[number] = list(overrides)
        command, planned = command_of(overrides), config_hash(config)
        return Job(number, point, command, config_hash=planned, values=values or {}), config

    def prepare(self, jobs: int) -> None:
        """Makes ready for so many jobs at a time at most.

        Raises:
            ConfigError: a setting of the launcher cannot work.
        """
        prepare_launcher(self._prepared.hydra.launcher, self._config.device, jobs)
        begins_all = str(self._config.hydra.launcher._target_).endswith(".LocalLauncher")  # submitit's, on this machine
        self._at_once = jobs_at_once(self._config.device, jobs) if begins_all else jobs

    @cached_property
    def _launcher(self) -> Launcher:
        """Made of a copy that fits this machine: Hydra refuses jobs whose `hydra.launcher` is not the sweep's."""
        context, function = self._context, self._task_function
        start_launcher(self._prepared.hydra.launcher)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=function, config=self._prepared
        )
        launcher.setup(hydra_context=context, task_function=function, config=self._config)
        return launcher

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs as they ended. Those that had finished before are not launched."""
        ledger = self.ledger
        for job in jobs:
            known = ledger.job(job.number) if ledger.has(job.number) else None
            if known is None:
                ledger.write(job)
            elif known.status != "finished":
                ledger.write(replace(job, runs=known.runs, curve=known.curve, attempts=known.attempts))
        error = self._passes([job.number for job in jobs])
        for job in jobs:
            self._close(job.number, error)
        return [ledger.job(job.number) for job in jobs]

    def _passes(self, numbers: Sequence[int]) -> Exception | None:
        """Launches what has not ended, each job that was lost once more; returns what the launcher last raised.

        What kills its process takes its neighbours along, so that lost jobs are then launched one by one.
        """
        error, begun = None, {number: self.ledger.job(number).attempts for number in numbers}
        todo, moved = list(numbers), True
        while moved and (todo := self._left(todo, begun)) and not self.has_failed_enough():
            before = self.ledger.stamp()
            lost = [number for number in todo if self.ledger.job(number).status == "lost"]
            error = self._launch(lost[:1] or todo[: self._at_once]) or error
            moved = self.ledger.stamp() != before
        return error

    def _left(self, numbers: Sequence[int], begun: Mapping[int, int]) -> list[int]:
        """Those that have not ended, and were not lost as often as they may be."""
        jobs = [self.ledger.job(number) for number in numbers]
        return [job.number for job in jobs if job.status not in ENDED and job.attempts - begun[job.number] < _ATTEMPTS]

    def _launch(self, numbers: Sequence[int]) -> Exception | None:
        try:
            overrides = [[*self._overrides[number], f"sweep.job={number}"] for number in numbers]
            self._launcher.launch(overrides, initial_job_idx=numbers[0])
        except Exception as raised:  # a worker was killed; what it did not write stands in the ledger
            _log.warning("%s: %s", type(raised).__name__, str(raised).splitlines()[0] if str(raised) else "")
            return raised
        return None

    def has_failed_enough(self) -> bool:
        """Whether `sweep.max_failures` jobs have failed."""
        return self.ledger.has_failed_enough(settings(self._config).max_failures)

    def _close(self, number: int, error: Exception | None) -> None:
        """Fails a job that came to no end; one that was never begun, since enough had failed, stays planned."""
        job = self.ledger.job(number)
        if job.status in ENDED or (job.status == "planned" and self.has_failed_enough()):
            return
        reason = "its process was killed" if job.attempts else "it was never begun"
        if error is not None:
            reason += f" ({type(error).__name__})"
        runs = tuple(replace(run, status="failed") if run.status == "running" else run for run in job.runs)
        self.ledger.write(replace(job, status="failed", reason=reason, runs=runs))
