"""Jobs handed to a Hydra launcher until each has ended, whatever happens to the processes that run them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_exp.sweeps.launchers import jobs_at_once, prepare_launcher, start_launcher
from resnet_exp.sweeps.ledger import ENDED, Job, Ledger
from resnet_exp.sweeps.planner import PlannedJob

_log = logging.getLogger(__name__)
_ATTEMPTS = 2  # a job whose process was killed is run once more


class JobLauncher:
    """The Hydra launcher that the config names, prepared for this machine; it starts with the first jobs.

    Args:
        context: Hydra's, for the launcher.
        task_function: what Hydra calls for each job.
        config: the sweep's, as Hydra composed it.
        jobs: that run at a time at most.

    Raises:
        ConfigError: a setting of the launcher cannot work.
    """

    def __init__(self, context: HydraContext, task_function: TaskFunction, config: DictConfig, jobs: int) -> None:
        self._context, self._task_function, self._config = context, task_function, config
        # A copy: Hydra refuses jobs whose `hydra.launcher` is not the sweep's.
        self._prepared = copy.deepcopy(config)
        prepare_launcher(self._prepared.hydra.launcher, config.device, jobs)
        starts_all = str(config.hydra.launcher._target_).endswith(".LocalLauncher")  # submitit's, on this machine
        self.at_once = jobs_at_once(config.device, jobs) if starts_all else jobs

    def launch(self, jobs: Sequence[PlannedJob]) -> None:
        """Runs the jobs and returns when the launcher gives up or has no more to do."""
        overrides = [planned.overrides for planned in jobs]
        self._launcher.launch(overrides, initial_job_idx=jobs[0].job.number)

    @cached_property
    def _launcher(self) -> Launcher:
        start_launcher(self._prepared.hydra.launcher)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task_function, config=self._prepared
        )
        launcher.setup(hydra_context=self._context, task_function=self._task_function, config=self._config)
        return launcher


class JobQueue:
    """Runs planned jobs, with the ledger as the only source of what became of them.

    Args:
        ledger: of the sweep.
        launcher: runs the jobs.
        max_failures: `sweep.max_failures`.
    """

    def __init__(self, ledger: Ledger, launcher: JobLauncher, max_failures: int | None) -> None:
        self._ledger, self._launcher, self._max_failures = ledger, launcher, max_failures

    def run(self, planned: Sequence[PlannedJob]) -> list[Job]:
        """Returns the jobs, which the ledger has planned, as they ended; those that had finished are not launched."""
        for one in planned:
            self._ledger.renew(one.job)
        error = self._run_until_ended({one.job.key: one for one in planned})
        for one in planned:
            self._close(one.job.key, error)
        return [self._ledger.job(one.job.key) for one in planned]

    def has_failed_enough(self) -> bool:
        """Whether `sweep.max_failures` jobs have failed."""
        return self._ledger.has_failed_enough(self._max_failures)

    def _run_until_ended(self, planned: Mapping[str, PlannedJob]) -> Exception | None:
        """Launches what has not ended, lost jobs once more; returns the launcher's last error.

        A job that kills its process takes its neighbours with it, so lost jobs are launched one at a time.
        """
        error, attempts = None, {key: self._ledger.job(key).attempts for key in planned}
        todo, has_moved = list(planned), True
        while has_moved and (todo := self._left(todo, attempts)) and not self.has_failed_enough():
            before = self._ledger.stamp()
            lost = [key for key in todo if self._ledger.job(key).status == "lost"]
            error = self._launch([planned[key] for key in lost[:1] or todo[: self._launcher.at_once]]) or error
            has_moved = self._ledger.stamp() != before
        return error

    def _left(self, keys: Sequence[str], before: Mapping[str, int]) -> list[str]:
        """The jobs that have not ended and have attempts left; `before`: their attempts in earlier commands."""
        jobs = [self._ledger.job(key) for key in keys]
        return [job.key for job in jobs if job.status not in ENDED and job.attempts - before[job.key] < _ATTEMPTS]

    def _launch(self, jobs: Sequence[PlannedJob]) -> Exception | None:
        try:
            self._launcher.launch(jobs)
        except Exception as raised:  # a worker was killed: the ledger knows which jobs were lost
            _log.warning("%s: %s", type(raised).__name__, str(raised).splitlines()[0] if str(raised) else "")
            return raised
        return None

    def _close(self, key: str, error: Exception | None) -> None:
        """Fails a job that has not ended; one that never started, since enough had failed, stays planned."""
        job = self._ledger.job(key)
        if job.status in ENDED or (job.status == "planned" and self.has_failed_enough()):
            return
        reason = "its process was killed" if job.attempts else "it never started"
        if error is not None:
            reason += f" ({type(error).__name__})"
        runs = tuple(replace(run, status="failed") if run.status == "running" else run for run in job.runs)
        self._ledger.write(replace(job, status="failed", reason=reason, runs=runs))
