"""`SweepPart`: what a sweep passes to a run, and how the run reports back; a run alone uses `ALONE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Pruned(Exception):
    """Raised in a run that its sweep stops because its results are poor; its run directory stays as it is."""


@dataclass(frozen=True)
class SweepPart:
    """What a run gets from the sweep that it is part of."""

    label: str  # what distinguishes it from the sweep's other runs; its name in a tracker begins with it
    parent: Path | None  # the sweep's directory, whose own run is the parent of this one in a tracker
    export_model: bool  # whether the network is exported for the tracker, if that has a format of its own
    gpu: Callable[[int], int]  # chooses one of so many GPUs; returns its index
    started: Callable[[Path], None]  # called with the run directory before anything is computed
    measured: Callable[[int, float | None], None]  # called with each epoch and its objective; may raise Pruned


# For a run that is part of no sweep: it takes the first GPU and reports to nobody.
ALONE = SweepPart("", None, True, lambda count: 0, lambda root: None, lambda epoch, objective: None)
