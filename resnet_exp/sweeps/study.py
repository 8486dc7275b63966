"""Points proposed by Optuna from the results so far (`hydra/sweeper=study`).

The ledger is the study's storage: a proposal is a function of the trials that have ended, the seed and the trial's
number. So a study that was killed proposes what it would have proposed, and no trial stays running in it for ever.

A point that is proposed twice is two trials. A trial whose values compose something else by now, since a yaml or images
have changed, belongs to the study no more; it does again once they are as they were.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.files import read_derived, write_json
from resnet_exp.sweeps.job_queue import JobQueue
from resnet_exp.sweeps.ledger import ENDED, Job, Ledger
from resnet_exp.sweeps.plan import settings
from resnet_exp.sweeps.planner import PlannedJob, Planner
from resnet_exp.sweeps.session import ledger_of, open_sweep
from resnet_exp.sweeps.sweeper import PlanningSweeper

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from resnet_exp.sweeps.proposals import Proposals

_COUNTED = ("finished", "pruned")


class StudySweeper(PlanningSweeper):
    """An Optuna study of `n_trials` trials in all, however often it is killed and started again.

    Args:
        n_trials: trials that end finished or pruned; failed ones are replaced, until as many have failed.
        n_jobs: trials at once.
        sampler: tpe, random or gp.
        n_startup_trials: random points before tpe or gp looks at results.
        direction: maximize or minimize.
        params: the search space by key, as on the command line, which comes first.
    """

    takes_pruner = True
    takes_seed = True

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        sampler: str,
        n_startup_trials: int,
        direction: str,
        params: DictConfig | None = None,
    ) -> None:
        super().__init__(params)
        self._n_trials, self._n_jobs = n_trials, n_jobs
        self._sampler, self._n_startup_trials, self._direction = sampler, n_startup_trials, direction

    def run(self, planner: Planner) -> list[Job] | None:
        """Runs what is left of the study; returns its jobs, or None after a dry run.

        Raises:
            ConfigError: a setting or an end of the space cannot work, or the study started with another space.
        """
        self._check_counts()
        from resnet_exp.sweeps.proposals import Proposals, distributions

        space = distributions(planner.space)
        seed = int(self._config.seed)
        proposals = Proposals(space, self._sampler, self._n_startup_trials, self._direction, seed)
        first = proposals.propose(0, [], 0)
        _check_ends(planner, space, first)
        comparable_after = self._comparable_after(planner, space, first)
        ledger, _, _ = ledger_of(self._config)
        _refuse_another_space(ledger, space)
        trials = _trials(planner, ledger)
        if settings(self._config).dry_run:
            from resnet_exp.sweeps.dry_run import print_study

            print_study(trials, self._n_trials, space)
            return None
        launcher = self._make_launcher(self._n_jobs)
        with open_sweep(self._config, trials) as session:
            write_json(_space_file(ledger), _as_text(space), "space")
            if comparable_after is not None:
                session.ledger.store_comparable_after(comparable_after)
            return self._run_batches(planner, proposals, session.ledger, self._make_queue(session.ledger, launcher))

    def _check_counts(self) -> None:
        """Raises ConfigError for an impossible number; a constructor's errors would be tracebacks of Hydra's."""
        counts = {"n_trials": self._n_trials, "n_jobs": self._n_jobs, "n_startup_trials": self._n_startup_trials}
        for key, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"hydra.sweeper.{key}={value}: a whole number of at least 1 is needed")

    def _comparable_after(
        self, planner: Planner, space: dict[str, BaseDistribution], first: dict[str, Any]
    ) -> int | None:
        """The first epoch after which the pruner may compare trials; None without a pruner."""
        if settings(self._config).pruner == "none" or self._config.task != "train":
            return None
        from resnet_exp.sweeps.proposals import ends
        from resnet_exp.sweeps.pruning import latest_comparable

        return latest_comparable(planner, first, {key: ends(distribution) for key, distribution in space.items()})

    def _run_batches(self, planner: Planner, proposals: Proposals, ledger: Ledger, queue: JobQueue) -> list[Job]:
        while batch := self._batch(ledger, queue):
            trials = ledger.jobs()
            planned = [
                _again(trials[number], planner) if number < len(trials)
                else _proposed(number, batch.start, planner, proposals, ledger)
                for number in batch
            ]  # fmt: skip
            queue.run([trial for trial in planned if ledger.job(trial.job.key).status not in ENDED])
        return ledger.jobs()

    def _batch(self, ledger: Ledger, queue: JobQueue) -> range | None:
        """The numbers of the next trials; None when the study is complete, or too much has failed.

        A batch is as large as the results before it left room for. In a study that was killed in the middle of one,
        trials that have ended are part of it too, so that each is proposed from the same results as before.
        """
        jobs = ledger.jobs()
        left = self._n_trials - sum(job.status in _COUNTED for job in jobs)
        failed = sum(job.status == "failed" for job in jobs)
        if left <= 0:
            ledger.plan([job for job in jobs if job.status in ENDED])  # one that was interrupted is not needed any more
            return None
        if failed >= self._n_trials or queue.has_failed_enough():
            return None
        batch = range(0)
        while all(number < len(jobs) and jobs[number].status in ENDED for number in batch):
            counted = sum(job.status in _COUNTED for job in jobs[: batch.stop])
            batch = range(batch.stop, batch.stop + min(self._n_jobs, self._n_trials - counted))
        return batch


def _check_ends(planner: Planner, space: dict[str, BaseDistribution], first: dict[str, Any]) -> None:
    """Raises ConfigError where an end of the space cannot work beside the first point."""
    from resnet_exp.sweeps.proposals import ends

    for name, distribution in space.items():
        for value in ends(distribution):
            planner.check({**first, name: value})


def _trials(planner: Planner, ledger: Ledger) -> list[Job]:
    """The study's trials so far: those in its ledger that compose now what they did when they were proposed."""
    found: list[Job] = []
    for job in ledger.every():
        with suppress(ConfigError):  # such as an option that was deleted
            if _again(job, planner).job.key == job.key:
                found.append(replace(job, number=len(found)))
    return found


def _again(trial: Job, planner: Planner) -> PlannedJob:
    """A trial of before, as it is planned now.

    Raises:
        ConfigError: its values compose something else than they did when the study was started.
    """
    planned = _planned(trial.number, trial.values, planner).repeated(trial.repeat)
    if planned.job.key != trial.key:
        raise ConfigError(f"trial {trial.number}, {trial.label}: a yaml was edited meanwhile; start the study again")
    return planned


def _proposed(number: int, first: int, planner: Planner, proposals: Proposals, ledger: Ledger) -> PlannedJob:
    """A new trial, of the batch that begins with `first`; it is in the ledger from here on."""
    before = ledger.jobs()
    trial = _planned(number, proposals.propose(number, before, first), planner)
    repeats = (job.repeat for job in ledger.every() if job.identity == trial.job.identity)
    trial = trial.repeated(1 + max(repeats, default=0))
    ledger.plan([*before, trial.job])
    return trial


def _planned(number: int, values: dict[str, Any], planner: Planner) -> PlannedJob:
    return planner.plan(number, {key: str(value) for key, value in values.items()}, values)


def _refuse_another_space(ledger: Ledger, space: dict[str, BaseDistribution]) -> None:
    """Raises ConfigError where the study started with other values: its trials could not be ranked in these."""
    now, before = _as_text(space), read_derived(_space_file(ledger), "space")
    if before is None:
        return
    changed = [f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ConfigError(
            f"the study in {ledger.root} started with another search space ({'; '.join(changed)}); take that one, or "
            "another name=... for a new study"
        )


def _space_file(ledger: Ledger) -> Path:
    return ledger.root / "space.json"


def _as_text(space: dict[str, BaseDistribution]) -> dict[str, str]:
    return {key: str(distribution) for key, distribution in space.items()}
