"""Which points of a run's metrics MLflow does not have: each (metric, step) arrives once."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

from resnet_exp.run_dir.journal import metric_values, same_value

log = logging.getLogger(__name__)

_CLOCK = "perf/"  # begins the metrics that a repetition never measures twice alike


class Points:
    """The points that have been shipped, as the journal tells them.

    MLflow cannot take a point back, and one more at the same step stays beside the first. A run that goes on does
    some steps again: what a step was at first stays in MLflow, whatever it is the second time, so that a replay, too,
    gives the same points. The journal's last value counts everywhere else; they differ in what the clock says, and in
    all where the run goes on on another device, which is told. A value that is recorded anew without such a
    repetition, such as a sweep's best so far, is one more point: MLflow shows the latest.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], float] = {}
        self._again: set[tuple[str, int]] = set()  # those that a rewind has voided
        self._has_told = False

    def copy(self) -> Points:
        """The same, to go back to."""
        same = Points()
        same._values, same._again, same._has_told = dict(self._values), set(self._again), self._has_told
        return same

    def are_there(self, key: str, values: Mapping[int, float]) -> None:
        """MLflow has these values of a metric, by step, whether or not the journal has them still."""
        for step, value in values.items():
            # MLflow has no infinity: the greatest float stands for it.
            self._values[key, step] = math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value
            if step > 0:  # what has one value a run, at step 0, is not done again but said again
                self._again.add((key, step))

    def new(self, record: dict[str, Any]) -> list[tuple[str, float, int, int]]:
        """The points (key, value, time, step) of a record that MLflow does not have; none of other kinds."""
        if record["kind"] == "rewind":
            self._again |= {point for point in self._values if point[1] > record["step"]}
        if record["kind"] != "metrics":
            return []
        found = []
        for key, value in metric_values(record).items():
            point = key, int(record["step"])
            known = self._values.get(point)
            if known is None or (point not in self._again and not same_value(known, value)):
                self._values[point] = value
                found.append((key, value, record["time_ms"], point[1]))
            elif not same_value(known, value):
                self._tell(point)
        return found

    def _tell(self, point: tuple[str, int]) -> None:
        if not self._has_told and not point[0].startswith(_CLOCK):
            self._has_told = True
            log.warning(
                "%s of step %d, and maybe more, is another one than when the step was done first: MLflow keeps the "
                "first value, and the run directory has the last",
                *point,
            )
