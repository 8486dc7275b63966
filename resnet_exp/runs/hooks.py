"""What a sweep gives a run that is part of it, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Pruned(Exception):
    """Raised in a run that its sweep stops as poor; what it has done stays on the disk."""


@dataclass(frozen=True)
class SweepPart:
    """What a run gets from the sweep that it is part of."""

    label: str  # how it differs from the sweep's other runs; its name in a tracker begins with it
    parent: Path | None  # the sweep's directory, whose own run is the parent of this one in a tracker
    export_model: bool  # whether the network is exported for the tracker, where that wants one
    gpu: Callable[[int], int]  # which of so many GPUs it takes
    started: Callable[[Path], None]  # gets the run directory before anything is computed
    measured: Callable[[int, float | None], None]  # gets the objective after each epoch; may raise Pruned


# For a run that is part of no sweep: the first GPU, and nothing listens.
ALONE = SweepPart("", None, True, lambda count: 0, lambda root: None, lambda epoch, objective: None)
