"""Points proposed by Optuna from what came out so far (`hydra/sweeper=study`).

The ledger is the study's storage: a proposal is a function of the trials that have ended, the seed and the trial's
number, so that a study which was killed proposes what it would have proposed, and nothing is ever left running in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.files import read_json, write_json
from resnet_exp.sweeps.job_queue import PlanningSweeper
from resnet_exp.sweeps.ledger import ENDED, Job
from resnet_exp.sweeps.plan import settings, space_of
from resnet_exp.sweeps.session import errors_told, ledger_of, open_sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_COUNTED = ("finished", "pruned")


class StudySweeper(PlanningSweeper):
    """An Optuna study of `n_trials` trials in all, however often it was killed and begun again.

    Args:
        n_trials: that end finished or pruned; failed ones are made up for, until as many have failed.
        n_jobs: trials at once.
        sampler: tpe, random or gp.
        n_startup_trials: random points before tpe or gp looks at results.
        direction: maximize or minimize.
        params: the search space by key, as on the command line, which comes first.
    """

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
        for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs), ("n_startup_trials", n_startup_trials)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"hydra.sweeper.{key}={value}: a whole number of at least 1 is needed")
        self._n_trials, self._n_jobs = n_trials, n_jobs
        self._sampler, self._n_startup_trials, self._direction = sampler, n_startup_trials, direction

    def sweep(self, arguments: list[str]) -> Any:
        """Runs what is left of the study; returns its jobs."""
        with errors_told():
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> list[Job] | None:
        from resnet_exp.sweeps.proposals import Proposals, distributions

        space, fixed = distributions(space_of(self._config, arguments), arguments, self._params)
        proposals = Proposals(space, self._sampler, self._n_startup_trials, self._direction, int(self._config.seed))
        self._check_ends(space, proposals.propose(0, [], 0), fixed)
        if settings(self._config).dry_run:
            from resnet_exp.sweeps.dry_run import print_study

            print_study(ledger_of(self._config)[0].jobs(), self._n_trials, space)
            return None
        self._jobs.prepare(self._n_jobs)
        open_sweep(self._config)
        self._refuse_another_space(space)
        while batch := self._batch():
            trials: list[Job] = []
            for number in batch:
                trials.append(self._planned(number, trials, proposals, fixed))
            self._jobs.run([trial for trial in trials if not self._has_ended(trial.number)])
        return self._jobs.ledger.jobs()

    def _check_ends(self, space: dict[str, BaseDistribution], first: dict[str, Any], fixed: Sequence[str]) -> None:
        """Raises ConfigError where an end of the space cannot work beside the first point."""
        from resnet_exp.sweeps.proposals import ends

        for name, distribution in space.items():
            for value in ends(distribution):
                point = {**first, name: value}
                self._jobs.compose(0, [*(f"{key}={one}" for key, one in point.items()), *fixed])

    def _planned(self, number: int, batch: Sequence[Job], proposals: Any, fixed: Sequence[str]) -> Job:
        """The trial of this number: as it was proposed before the sweep was killed, or proposed after its `batch`."""
        ledger, first = self._jobs.ledger, number - len(batch)
        known = ledger.job(number).values if ledger.has(number) else None
        before = [job for job in ledger.jobs() if job.number < first]
        values = known or proposals.propose(number, [*before, *batch], first)
        point = {key: str(value) for key, value in values.items()}
        overrides = [*(f"{key}={value}" for key, value in point.items()), *fixed]
        return self._jobs.plan(number, point, overrides, values)[0]

    def _batch(self) -> range | None:
        """The next trials to run; None when the study is complete, or too much has failed.

        A batch is as large as what had come out before it left room for: in a study that was killed in the middle of
        one, trials that have ended are part of it too, so that all are proposed from what they were proposed from.
        """
        jobs = self._jobs.ledger.jobs()
        failed = sum(job.status == "failed" for job in jobs)
        if self._left() <= 0 or failed >= self._n_trials or self._jobs.has_failed_enough():
            return None
        batch = range(0)
        while all(self._has_ended(number) for number in batch):
            counted = sum(job.status in _COUNTED for job in jobs[: batch.stop])
            batch = range(batch.stop, batch.stop + min(self._n_jobs, self._n_trials - counted))
        return batch

    def _has_ended(self, number: int) -> bool:
        ledger = self._jobs.ledger
        return ledger.has(number) and ledger.job(number).status in ENDED

    def _left(self) -> int:
        return self._n_trials - sum(job.status in _COUNTED for job in self._jobs.ledger.jobs())

    def _refuse_another_space(self, space: dict[str, BaseDistribution]) -> None:
        path = self._jobs.ledger.root / "space.json"
        now = {key: str(distribution) for key, distribution in space.items()}
        before = read_json(path)
        if before is None:
            write_json(path, now)
            return
        changed = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in now if before.get(key) != now[key]]
        if changed:
            raise ConfigError(
                f"the study in {path.parent} began with another search space ({'; '.join(changed)}); give that one "
                "back, or take another name=... for a new study"
            )
