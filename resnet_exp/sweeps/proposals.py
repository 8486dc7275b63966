"""What Optuna proposes next, as a function of the results so far, a seed and the trial's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from resnet_exp.data.randomness import mix
from resnet_exp.interfaces import ConfigError, first_line
from resnet_exp.sweeps.ledger import Job

_PROPOSAL = 0x5EED  # keeps these draws apart from those of runs with the same seed
STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def distributions(space: Mapping[str, Override]) -> dict[str, BaseDistribution]:
    """Returns Optuna's distribution of each swept key, in the order of their names.

    Choices are in an order of their own: a study that is given them in another one, or shuffled, is the same study.

    Raises:
        ConfigError: Optuna has none for these values.
    """
    return {key: _ordered(_distribution(values)) for key, values in sorted(space.items())}


def _ordered(distribution: BaseDistribution) -> BaseDistribution:
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution(sorted(distribution.choices, key=repr))
    return distribution


def _distribution(override: Override) -> BaseDistribution:
    try:
        if isinstance(override.value(), Glob):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
        distribution: BaseDistribution = create_optuna_distribution_from_override(override)
    except (ArithmeticError, AssertionError, HydraException, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{override.input_line}: Optuna cannot draw from these values ({first_line(error)})"
        ) from error
    return distribution


def ends(distribution: BaseDistribution) -> list[Any]:
    """Returns the least and the largest value of a range, or all values of a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


class Proposals:
    """The points that Optuna proposes for a study.

    Args:
        space: each parameter's distribution.
        sampler: tpe, random or gp.
        n_startup_trials: random points before tpe or gp looks at results.
        direction: maximize or minimize.
        seed: of all proposals.

    Raises:
        ConfigError: another sampler or direction.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution], sampler: str, n_startup_trials: int, direction: str, seed: int
    ) -> None:
        if sampler not in ("tpe", "random", "gp"):
            raise ConfigError(f"hydra.sweeper.sampler={sampler}: tpe, random or gp is needed")
        if direction not in ("maximize", "minimize"):
            raise ConfigError(f"hydra.sweeper.direction={direction}: maximize or minimize is needed")
        self._space, self._sampler, self._n_startup_trials = dict(space), sampler, n_startup_trials
        self._direction = optuna.study.StudyDirection[direction.upper()]
        self._seed = seed

    def propose(self, number: int, before: Sequence[Job], first_of_batch: int) -> dict[str, Any]:
        """Returns the values of trial `number`, by parameter.

        Args:
            number: counted from 0.
            before: the trials of lower numbers.
            first_of_batch: trials from here on count as running, as they were when this one was first proposed.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=self._direction, sampler=self._make_sampler(number))
        for job in before:
            study.add_trial(self._trial(job, running=job.number >= first_of_batch))
        trial = study.ask()
        return {name: trial._suggest(name, distribution) for name, distribution in self._space.items()}

    def _trial(self, job: Job, *, running: bool) -> FrozenTrial:
        state = TrialState.RUNNING if running else STATES[job.status]
        value = job.objective if state == TrialState.COMPLETE else None
        curve = {int(epoch): objective for epoch, objective in job.curve.items()}  # Optuna ranks pruned trials by it
        return create_trial(
            state=state, value=value, params=job.values, distributions=self._space, intermediate_values=curve
        )

    def _make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = mix(self._seed, _PROPOSAL, number) % 2**31
        if self._sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self._n_startup_trials, multivariate=True, constant_liar=True,
            )  # fmt: skip
        if self._sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self._n_startup_trials)
        return optuna.samplers.RandomSampler(seed=seed)
