"""Trials that are stopped early (`sweep.pruner`), compared only after the epoch from which they may be.

A schedule with a late peak looks bad midway: its LR is still high when that of an early peak has come down. Even after
the latest peak it has had fewer epochs to come down, so a pruner may still stop a trial that would have won.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import optuna

from resnet_exp.config import build
from resnet_exp.config.config import Config
from resnet_exp.config.overrides import is_within, key_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.runs.hooks import Pruned
from resnet_exp.sweeps.ledger import Job, Ledger
from resnet_exp.sweeps.planner import Planner
from resnet_exp.sweeps.proposals import STATES

_STARTUP_TRIALS = 4  # finished ones before the first comparison
# Keys and groups that can move the epoch after which runs may be compared.
_DECISIVE = ("scheduler", "train.epochs", "experiment")


def reporter(ledger: Ledger, key: str, config: Config) -> Callable[[int, float | None], None]:
    """Returns what writes the objective of each epoch of a job to the ledger, and raises Pruned to stop the job."""
    direction = str(ledger.facts["sweeper"].get("direction", "maximize"))
    pruner = make_pruner(config.sweep.pruner, ledger.comparable_after, config.train.epochs)

    def measured(epoch: int, objective: float | None) -> None:
        if objective is None:
            return
        job = ledger.job(key)
        job = ledger.write(replace(job, curve={**job.curve, str(epoch): objective}))
        others = [other for other in ledger.jobs() if other.key != key]
        if epoch < config.train.epochs and is_poor(job, others, pruner, direction):
            raise Pruned(
                f"pruned after epoch {epoch} of {config.train.epochs}, at {objective:.2%} ({config.sweep.pruner})"
            )

    return measured


def make_pruner(kind: str, comparable_after: int, epochs: int) -> optuna.pruners.BasePruner:
    """Returns the pruner of this name, which stops nothing until the epoch `comparable_after` is over."""
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=comparable_after + 1)
    if kind == "hyperband":
        least = min(comparable_after + 1, epochs)
        return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=epochs, reduction_factor=2)
    return optuna.pruners.NopPruner()


def is_poor(job: Job, others: Sequence[Job], pruner: optuna.pruners.BasePruner, direction: str) -> bool:
    """Whether the pruner would stop the job now, from its curve and those of the others so far.

    Hyperband stores its rungs in the trials themselves. Here the trials are made from the curves each time, so that
    the pruner is asked about every epoch again, as if it had seen them happen.
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


def latest_comparable(planner: Planner, first: Mapping[str, Any], ends: Mapping[str, Sequence[Any]]) -> int:
    """Returns the epoch after which all runs that the sweep may choose can be compared.

    Args:
        planner: composes what the sweep may choose.
        first: a point that works.
        ends: of each swept key, the values between which the others lie, or all values.

    Raises:
        ConfigError: a scheduler does not say when its runs can be compared.
    """
    keys = [key for key in ends if is_within(key_of(key), *_DECISIVE)]
    latest = _comparable_after(planner.compose(first))
    for values in itertools.product(*(_outermost(ends[key]) for key in keys)):
        try:
            config = planner.compose({**first, **dict(zip(keys, values, strict=True))})
        except ConfigError:  # two ends that do not fit together: no job has both
            continue
        latest = max(latest, _comparable_after(config))
    return latest


def _outermost(values: Sequence[Any]) -> Sequence[Any]:
    """The least and the largest of numbers, since composing all combinations would take minutes; else all values."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values
    return sorted({min(values), max(values)})


def _comparable_after(config: Config) -> int:
    scheduler = build.scheduler(config)
    if not hasattr(scheduler, "comparable_after"):  # a user's own, older than this method
        raise ConfigError(
            f"sweep.pruner={config.sweep.pruner} needs to know when runs can be compared, and "
            f"{config.plugins['scheduler']['_target_']} has no comparable_after(epochs); add it (0: after every "
            "epoch), or set sweep.pruner=none"
        )
    return scheduler.comparable_after(config.train.epochs)
