"""Step decay: max_lr, and a fraction of it after each milestone."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from annotated_types import Gt, Lt, MinLen

from resnet_exp.config.ranges import AutoOrNumber, Count, FoundOrNumber, shown
from resnet_exp.interfaces import ConfigError, Schedule
from resnet_exp.schedulers.lr import given


class MultiStep:
    """A schedule that drops by a factor at the end of each milestone's epoch, equal to torch's MultiStepLR.

    Args:
        max_lr: the LR until the first drop, a number; or `find`, for the range test's.
        milestones: epochs, counted from 1, with whose last step an LR ends. Each is above the one before and below
            train.epochs. The default, a half and three quarters of 24 epochs, is the way of He et al.
        gamma: what the LR is multiplied by at each.
        find_factor: `find` takes this many times the LR that the range test suggests; `auto`: `measured_factor` times
            with SGD on a network with batch normalisation, else the suggestion itself.

    Raises:
        ConfigError: the milestones do not rise.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning (2016), section 4.2: a tenth after 32k and 48k of 64k steps.
    """

    measured_factor = 1.0  # results/README.md

    def __init__(
        self,
        max_lr: FoundOrNumber = "find",
        milestones: Annotated[list[Count], MinLen(1)] = [12, 18],  # noqa: B006 a tuple is no yaml value; never changed
        gamma: Annotated[float, Gt(0), Lt(1)] = 0.1,
        find_factor: AutoOrNumber = "auto",
    ) -> None:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ConfigError(f"scheduler.milestones={shown(milestones)}: epochs are needed, each above the one before")
        self.max_lr, self.find_factor = given(max_lr), given(find_factor)
        self.milestones, self.gamma = tuple(milestones), float(gamma)

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where a drop comes after the run."""
        if self.milestones[-1] >= epochs:
            raise ConfigError(
                f"scheduler.milestones={shown(self.milestones)}: whole numbers from 1 to below train.epochs={epochs} "
                "are needed, or more train.epochs"
            )

    def comparable_after(self, epochs: int) -> int:
        """The last milestone: each drop lifts the accuracy at once, so one that has had fewer would look worse."""
        return self.milestones[-1]

    def first_lr(self, max_lr: float) -> float:
        """max_lr."""
        return max_lr

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The LR of every step, `epochs * steps_per_epoch` of them; all of an epoch's are the same.

        Raises:
            ConfigError: a drop comes after the run.
        """
        self.check(epochs, steps_per_epoch)
        drops = (sum(epoch >= milestone for milestone in self.milestones) for epoch in range(epochs))
        lrs = tuple(max_lr * self.gamma**count for count in drops for _ in range(steps_per_epoch))
        return Schedule(lrs=lrs, momenta=None, max_lr=max_lr, min_lr=lrs[-1])
