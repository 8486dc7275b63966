"""Cyclical learning rates: from min_lr up to max_lr and back, in straight lines, several times."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from resnet_exp.config.ranges import AutoOrNumber, Count, FoundOrNumber
from resnet_exp.interfaces import ConfigError, Schedule
from resnet_exp.schedulers.lr import check_order, given, linear

# What `find` takes for min_lr: max_lr / 4. Source: Smith (below), section 3.3, which says 1/3 or 1/4.
MAX_TO_MIN = 4.0


class Cyclic:
    """A schedule of whole triangles over all steps of a run; it ends as it begins, at min_lr.

    Args:
        max_lr: the peaks, a number; or `find`, for the range test's.
        min_lr: where each cycle begins and ends, a number below max_lr; or `find`, for max_lr / 4.
        cycles: whole cycles in the run. Where its steps do not divide by them, some are a step longer.
        mode: `triangular`: all peaks are max_lr; `triangular2`: each is half as far above min_lr as the one before.
        find_factor: `find` takes this many times the LR that the range test suggests; `auto`: `measured_factor` times
            with SGD on a network with batch normalisation, else the suggestion itself.

    Raises:
        ConfigError: min_lr is not below max_lr.

    Source: Smith: Cyclical Learning Rates for Training Neural Networks (2017): the two modes are section 3.1's, half
    cycles of 2 to 10 epochs section 3.2's. Where all cycles are equally long it is torch's CyclicLR, whose
    step_size_up is (steps - 1) / (2 * cycles): the first and the last step are both min_lr.
    """

    measured_factor = 4.0  # results/README.md

    def __init__(
        self,
        max_lr: FoundOrNumber = "find",
        min_lr: FoundOrNumber = "find",
        cycles: Count = 3,
        mode: Literal["triangular", "triangular2"] = "triangular",
        find_factor: AutoOrNumber = "auto",
    ) -> None:
        self.max_lr, self.min_lr = given(max_lr), given(min_lr)
        check_order(self.min_lr, self.max_lr)
        self.cycles, self.mode, self.find_factor = cycles, mode, given(find_factor)

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where there are more cycles than the steps, once they are known, can hold."""
        if steps_per_epoch is None:
            return
        total = epochs * steps_per_epoch
        most = (total - 1) // 2  # each half takes a step, and the first step comes before them all
        if self.cycles > most:
            needed = f"a whole number from 1 to {most} is needed" if most else "a cycle takes 3"
            raise ConfigError(
                f"scheduler.cycles={self.cycles} in {total} steps: {needed}; or take a smaller train.batch_size or "
                "more train.epochs"
            )

    def comparable_after(self, epochs: int) -> int:
        """The epoch of the last peak: before it, one run may be on a peak while another is between two."""
        last_peak = 2 * self.cycles - 1  # in halves of a cycle
        return math.ceil(epochs * last_peak / (2 * self.cycles))

    def first_lr(self, max_lr: float) -> float:
        """Where the cycles begin: min_lr."""
        return max_lr / MAX_TO_MIN if self.min_lr is None else self.min_lr

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The LR of every step, `epochs * steps_per_epoch` of them; each cycle's peak is a whole step's.

        Raises:
            ConfigError: min_lr is not below max_lr, or the cycles do not fit.
        """
        self.check(epochs, steps_per_epoch)
        min_lr = self.first_lr(max_lr)
        check_order(min_lr, max_lr)
        lrs = [min_lr]
        for (start, first), (end, last) in pairwise(self._corners(epochs * steps_per_epoch, min_lr, max_lr)):
            lrs += [linear(first, last, step / (end - start)) for step in range(1, end - start)]
            lrs.append(last)  # exactly, without linear's rounding
        return Schedule(lrs=tuple(lrs), momenta=None, max_lr=max_lr, min_lr=min_lr)

    def _corners(self, total: int, min_lr: float, max_lr: float) -> list[tuple[int, float]]:
        """The steps at which the LR turns, and the LR there: bottom, peak, bottom, ..., bottom."""
        halves = 2 * self.cycles
        steps = [half * (total - 1) // halves for half in range(halves + 1)]
        return [
            (step, self._peak(half // 2, min_lr, max_lr) if half % 2 else min_lr) for half, step in enumerate(steps)
        ]

    def _peak(self, cycle: int, min_lr: float, max_lr: float) -> float:
        height = 0.5**cycle if self.mode == "triangular2" else 1.0
        return min_lr * (1 - height) + max_lr * height
