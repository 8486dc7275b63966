"""A sweep as its page and its figures show it, and its keys as axes (`Scale`); nothing here draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from resnet_exp.sweeps.labels import short_key
from resnet_exp.sweeps.leaderboard import best_of
from resnet_exp.sweeps.ledger import Job

_LOG_SPAN = 30  # values that differ by a larger factor are drawn on a logarithmic axis


@dataclass(frozen=True)
class Scale:
    """A swept key as an axis: numbers, or names in the order of the plan."""

    key: str
    label: str
    kind: Literal["linear", "log", "names"]
    values: tuple[Any, ...]  # each once; numbers in ascending order

    def place(self, job: Job) -> float | None:
        """Returns the job's place on the axis: its number, or the place of its name, from 0; None without a value."""
        value = value_of(job, self.key)
        place = self.values.index(str(value)) if self.kind == "names" and value is not None else value
        return None if place is None else float(place)

    def unit(self, place: float) -> float:
        """Returns a place as a share of the axis' length, 0..1; the first name is at the top."""
        low, high = self.ends
        if self.kind == "names":
            return 1 - place / high if high else 0.5
        if self.kind == "log":
            place, low, high = math.log(place), math.log(low), math.log(high)
        return (place - low) / (high - low) if high > low else 0.5

    def beside(self, place: float, steps: float) -> float:
        """Returns a place some small steps further along the axis, where a point does not hide another."""
        low, high = self.ends
        if self.kind == "log":
            return place * (high / low) ** (0.012 * steps)
        return place + steps * (0.14 if self.kind == "names" else 0.012 * (high - low))

    @property
    def ends(self) -> tuple[float, float]:
        return (0, len(self.values) - 1) if self.kind == "names" else (self.values[0], self.values[-1])


@dataclass(frozen=True)
class Sweep:
    """A sweep as its figures and its page show it."""

    folder: Path  # for the figures
    jobs: tuple[Job, ...]
    keys: tuple[str, ...]  # the swept keys, or a study's parameters
    direction: str  # maximize | minimize
    noun: str  # what a job is called: point, or trial of a study
    objective: str  # its name, such as validation accuracy
    may_be_fraction: bool  # whether its values, where all are in 0..1, are fractions

    @cached_property
    def finished(self) -> list[Job]:
        """The jobs that have an objective, in the order of the plan."""
        return [job for job in self.jobs if job.objective is not None and math.isfinite(job.objective)]

    @cached_property
    def best(self) -> Job | None:
        return best_of(self.finished, self.direction)

    @cached_property
    def is_fraction(self) -> bool:
        return self.may_be_fraction and all(0 <= objective_of(job) <= 1 for job in self.finished)

    @cached_property
    def scales(self) -> list[Scale]:
        """The keys in which the jobs differ."""
        found = [scale_of(key, self.jobs, self.keys) for key in self.keys]
        return [scale for scale in found if len(scale.values) > 1]

    def as_text(self, value: float | None) -> str | None:
        """Returns a value of the objective, or a deviation, as text: `71.20%`, or a number of four digits."""
        return None if value is None else f"{value:.2%}" if self.is_fraction else f"{value:.4g}"


def objective_of(job: Job) -> float:
    """Returns the objective of a job that has one."""
    assert job.objective is not None
    return job.objective


def value_of(job: Job, key: str) -> Any:
    """Returns the job's value of the key: as Optuna proposed it, or else as on the command line."""
    value = job.values.get(key)
    return job.point.get(key) if value is None or isinstance(value, (bool, str)) else value


def scale_of(key: str, jobs: Sequence[Job], among: Sequence[str]) -> Scale:
    """Returns the key's axis: of numbers if all values are, logarithmic if the largest is over 30 times the least."""
    values = [value for job in jobs if (value := value_of(job, key)) is not None]
    try:
        found: list[Any] = sorted({float(value) for value in values})
    except (TypeError, ValueError):
        found = []
    kind: Literal["linear", "log", "names"] = "linear"
    if not found or not all(map(math.isfinite, found)):
        kind, found = "names", list(dict.fromkeys(map(str, values)))
    elif found[0] > 0 and found[-1] / found[0] > _LOG_SPAN:
        kind = "log"
    return Scale(key, short_key(key, dict.fromkeys(among)), kind, tuple(found))
