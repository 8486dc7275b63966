"""One LR from the first step to the last."""

from __future__ import annotations

from resnet_exp.config.ranges import AutoOrNumber, FoundOrNumber
from resnet_exp.interfaces import Schedule
from resnet_exp.schedulers.lr import given


class Constant:
    """A schedule that stays at max_lr: the baseline of the others.

    Args:
        max_lr: the LR of every step, a number; or `find`, for the range test's.
        find_factor: `find` takes this many times the LR that the range test suggests; `auto`: `measured_factor` times
            with SGD on a network with batch normalisation, else the suggestion itself.
    """

    measured_factor = 1.0  # results/README.md

    def __init__(self, max_lr: FoundOrNumber = "find", find_factor: AutoOrNumber = "auto") -> None:
        self.max_lr, self.find_factor = given(max_lr), given(find_factor)

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Nothing: it fits into every run."""

    def comparable_after(self, epochs: int) -> int:
        """0: the LR is the same in every epoch, so no run waits for its LR to fall."""
        return 0

    def first_lr(self, max_lr: float) -> float:
        """max_lr, as everywhere."""
        return max_lr

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """max_lr, `epochs * steps_per_epoch` times."""
        return Schedule(lrs=(max_lr,) * (epochs * steps_per_epoch), momenta=None, max_lr=max_lr, min_lr=max_lr)
