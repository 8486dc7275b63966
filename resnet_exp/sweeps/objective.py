"""What the jobs of a sweep are ranked by: one measure for all of them, and the right way round."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, ListConfig

from resnet_exp.config.config import Config
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError

_KEY = "hydra.sweeper.direction"


def direction_of(config: DictConfig) -> str:
    """Returns maximize or minimize; maximize for a sweeper that has no such setting.

    Raises:
        ConfigError: it says something else, or names a direction for each of several objectives.
    """
    sweeper = config.hydra.sweeper
    if "direction" not in sweeper:
        return "maximize"
    given: Any = sweeper.direction
    several = list(given) if isinstance(given, ListConfig) else [given]
    names = [getattr(one, "name", one) for one in several]  # a text, or the stock Optuna sweeper's enum
    if len(names) != 1:
        raise ConfigError(f"{_KEY}={names}: a run has one objective, so one direction is needed: {_KEY}=maximize")
    if names[0] not in ("maximize", "minimize"):
        raise ConfigError(f"{_KEY}={given}: maximize or minimize is needed")
    return str(names[0])


def check_task(task: str) -> None:
    """Raises ConfigError for a task whose runs have no objective."""
    if task not in ("train", "range_test"):
        raise ConfigError(f"task={task} cannot be swept over; task=train or task=range_test can")


class Objective:
    """The measure that the jobs of a sweep share; the first one that is checked sets it.

    Jobs with other images are ranked all the same, with a warning: these may be the same images, prepared in another
    way. Fewer images, or another split, measure the same with more noise.

    Args:
        direction: maximize or minimize.
    """

    def __init__(self, direction: str) -> None:
        self._direction = direction
        self._measure: str | None = None
        self._images: str | None = None
        self._has_warned = False

    def check(self, job: Config) -> None:
        """Raises ConfigError where a job has no objective, or one that cannot be ranked with those before it."""
        check_task(job.task)
        validation = job.split.validation
        measure = "maximum LR" if job.task == "range_test" else VALIDATION[validation].objective
        if measure is None:
            raise ConfigError(f"data.validation={validation} leaves a sweep nothing to choose by; holdout is needed")
        if job.task == "train" and self._direction == "minimize":
            raise ConfigError(
                f"{_KEY}=minimize would choose the worst: the objective is an accuracy; set {_KEY}=maximize"
            )
        self._measure = self._measure or measure
        if measure != self._measure:
            raise ConfigError(
                f"task={job.task} data.validation={validation} cannot be ranked with the other jobs: its objective is "
                f"{_named(measure)}, theirs {_named(self._measure)}; give all jobs the same task and data.validation"
            )
        if job.task == "train":
            self._warn_of_other_images(
                " ".join([job.short_names["data"], str(job.plugins["data"].get("root", ""))]).strip()
            )

    def _warn_of_other_images(self, images: str) -> None:
        self._images = self._images or images
        if images != self._images and not self._has_warned:
            self._has_warned = True
            print(
                f"warning: the jobs measure their accuracy on different images ({self._images}; {images}): the best of "
                "them may only have the easiest",
                file=sys.stderr,
            )


def _named(measure: str) -> str:
    return f"a {measure}" if measure == "maximum LR" else f"the {measure} accuracy"
