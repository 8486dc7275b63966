"""What a sweep tells a run that is part of it, and hears of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class Pruned(Exception):
    """A run that its sweep gave up as poor; what it has done is kept."""


@dataclass(frozen=True)
class SweepPart:
    """What a run is told by the sweep that it is part of."""

    label: str  # what tells it from the others; begins its MLflow run's name
    tags: Mapping[str, str]  # of its MLflow run, such as who its parent is
    keep_mlflow_model: bool
    gpu: Callable[[int], int]  # which of so many GPUs it takes
    begun: Callable[[Path], None]  # told of the run directory before anything is computed
    measured: Callable[[int, float | None], None]  # told of the objective after each epoch; may raise Pruned


# What a run that is part of no sweep gets: the first GPU, and nobody listens.
ALONE = SweepPart("", {}, True, lambda count: 0, lambda root: None, lambda epoch, objective: None)
