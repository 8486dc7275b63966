"""The sweeper that others are built on: it plans, checks and shows all jobs before it runs one.

A sweeper of your own is one file with a subclass and one yaml that names it: `DIR/mine.py` and
`DIR/conf/hydra/sweeper/mine.yaml`, with `plugins=DIR hydra/sweeper=mine` on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.job_queue import JobLauncher, JobQueue
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.plan import settings
from resnet_exp.sweeps.planner import Planner
from resnet_exp.sweeps.session import exit_on_error, ledger_of, open_sweep


class PlanningSweeper(Sweeper):
    """A Hydra sweeper whose jobs have a ledger, a parent run and a leaderboard; finished ones are not run again.

    A subclass gives `points`, all of them at once. One whose points depend on results gives `run` instead.

    Args:
        params: values by key, as on the command line, which comes first. They are read from the composed config; Hydra
            gives a sweeper all keys of its yaml as arguments.
    """

    takes_pruner = False  # whether poor jobs may be stopped early, `sweep.pruner`
    takes_seed = False  # whether it draws its points with `seed`, which is then no job's where `sweep.seeds` are given

    def __init__(self, params: DictConfig | None = None) -> None:
        del params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores what jobs are composed and launched with."""
        self._config, self._context, self._task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Runs what is left of the sweep; returns its jobs, or None after a dry run."""
        with exit_on_error():
            return self.run(Planner(self._config, self._context.config_loader, arguments))

    def run(self, planner: Planner) -> list[Job] | None:
        """Plans all jobs, then runs them; returns them, or None after a dry run.

        Raises:
            ConfigError: a point cannot work; nothing has been written then.
        """
        planned = planner.plan_all(self.points(planner.space))
        if not planned:
            raise ConfigError("the swept values make no job: give at least one value for each key")
        if settings(self._config).dry_run:
            from resnet_exp.sweeps.dry_run import print_plan

            ledger, _, _ = ledger_of(self._config)
            print_plan(planned, ledger)
            return None
        launcher = self._make_launcher(len(planned))
        with open_sweep(self._config, [one.job for one in planned]) as session:
            return self._make_queue(session.ledger, launcher).run(planned)

    def points(self, space: Mapping[str, Override]) -> Iterable[Mapping[str, str]]:
        """Returns the points, each with a value for every swept key, as on the command line.

        The same command should give the same points, in whatever order: those that have finished are not run again.

        Args:
            space: what the command line, or else `params`, gives each swept key, as Hydra reads it.
        """
        raise NotImplementedError(f"{type(self).__name__} gives neither points nor run")

    def _make_launcher(self, jobs: int) -> JobLauncher:
        """Returns the launcher, prepared for so many jobs at a time at most.

        Raises:
            ConfigError: a setting of the launcher cannot work.
        """
        return JobLauncher(self._context, self._task_function, self._config, jobs)

    def _make_queue(self, ledger: Ledger, launcher: JobLauncher) -> JobQueue:
        """Returns the queue that runs this sweep's jobs."""
        return JobQueue(ledger, launcher, settings(self._config).max_failures)
