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

from resnet_exp.config.config import Config
from resnet_exp.runs.hooks import Pruned
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.proposals import STATES, distribution_of, ends

_PEAK = "scheduler.peak_epoch"
_STARTUP_TRIALS = 4  # finished ones before the first comparison


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
    """Whether the pruner would give the job up now, from its curve and those of the others as far as they came.

    What a pruner remembers of trials, Hyperband their rungs, it learns anew from their curves.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    way: Literal["minimize", "maximize"] = "minimize" if direction == "minimize" else "maximize"
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name="sweep", direction=way, sampler=sampler, pruner=pruner)
    own: optuna.Trial | None = None
    for one in sorted((job, *others), key=lambda each: each.number):
        trial = study.ask()
        for epoch, value in one.curve.items():
            trial.should_prune()
            trial.report(value, int(epoch))
        if one is job:
            own = trial
        elif one.status in STATES:
            trial.should_prune()
            study.tell(trial, one.objective, STATES[one.status])
    assert own is not None
    return own.should_prune()


def latest_peak(facts: dict[str, Any], config: Config) -> int:
    """The latest epoch in which the LR of any job may peak; 0 where no scheduler has a peak."""
    values = facts["space"].get(_PEAK)
    if values is None:
        return int(config.plugins["scheduler"].get("peak_epoch") or 0)
    return max(int(float(end)) for end in ends(distribution_of(_PEAK, values)))
