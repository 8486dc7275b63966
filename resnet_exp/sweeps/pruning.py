"""Trials given up half-way (`sweep.pruner`): compared only after the latest peak that the sweep may choose.

OneCycle makes a late peak look bad midway: its LR is still high when an early one's has come down. Even after
the latest peak a late one has had fewer epochs to come down, so a pruner may still miss a late peak that would have
won; `none` misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from resnet_exp.config import Config
from resnet_exp.interfaces import Pruned
from resnet_exp.sweeps.ledger import Job, Ledger

_PEAK = "scheduler.peak_epoch"
_STARTUP_TRIALS = 4  # finished ones before the first comparison
_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


def reporter(ledger: Ledger, number: int, config: Config) -> Callable[[int, float | None], None]:
    """What tells the ledger the objective of each epoch of a job, and raises Pruned when the job is to be given up."""
    latest = latest_peak(ledger.facts, config)
    direction = str(ledger.facts["sweeper"].get("direction", "maximize"))
    pruner = make_pruner(config.sweep.pruner, latest, config.train.epochs)

    def measured(epoch: int, objective: float | None) -> None:
        if objective is None:
            return
        job = ledger.job(number)
        job = ledger.write(replace(job, curve={**job.curve, str(epoch): objective}))
        others = [other for other in ledger.jobs() if other.number != number]
        if epoch < config.train.epochs and is_poor(job, others, pruner, direction):
            raise Pruned(
                f"pruned after epoch {epoch} of {config.train.epochs}, at {objective:.2%} ({config.sweep.pruner})"
            )

    return measured


def make_pruner(kind: str, latest: int, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner of this name, which is silent up to the epoch of the latest peak."""
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=latest + 1)
    if kind == "hyperband":
        least = min(latest + 1, epochs)
        return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=epochs, reduction_factor=2)
    return optuna.pruners.NopPruner()


def is_poor(job: Job, others: Sequence[Job], pruner: optuna.pruners.BasePruner, direction: str) -> bool:
    """Whether the pruner would give the job up now, from its curve and those of the jobs that have ended."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    way: Literal["minimize", "maximize"] = "minimize" if direction == "minimize" else "maximize"
    study = optuna.create_study(study_name="sweep", direction=way, pruner=pruner)
    for other in others:
        if other.status in _STATES:
            study.add_trial(_trial(other, _STATES[other.status], other.objective))
    study.add_trial(_trial(job, TrialState.RUNNING, None))
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])


def latest_peak(facts: dict[str, Any], config: Config) -> int:
    """The latest epoch in which the LR of any job may peak; 0 where no scheduler has a peak."""
    values = facts["space"].get(_PEAK)
    if values is None:
        return int(config.plugins["scheduler"].get("peak_epoch") or 0)
    (override,) = OverridesParser.create().parse_overrides([f"{_PEAK}={values}"])
    distribution = create_optuna_distribution_from_override(override)
    if isinstance(distribution, CategoricalDistribution):
        return max(int(str(choice)) for choice in distribution.choices)
    return int(distribution.high)


def _trial(job: Job, state: TrialState, value: float | None) -> optuna.trial.FrozenTrial:
    curve = {int(epoch): objective for epoch, objective in job.curve.items()}
    return create_trial(state=state, value=value, intermediate_values=curve)
