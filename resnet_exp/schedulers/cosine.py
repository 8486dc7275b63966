"""Cosine annealing after a linear warm-up."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Le

from resnet_exp.config.ranges import AutoOrNumber, FoundOrNumber, NotNegative
from resnet_exp.interfaces import ConfigError, Schedule
from resnet_exp.schedulers.lr import check_order, cosine, given, linear

# What `find` takes for min_lr: max_lr / 8, as OneCycle does, so that the two differ in their shape alone.
MAX_TO_MIN = 8.0


class Cosine:
    """A schedule that rises in a straight line for some epochs, then falls along half a cosine to the last step.

    Args:
        max_lr: the peak, a number; or `find`, for the range test's. It is that of the first step after the warm-up.
        min_lr: where the warm-up begins, a number below max_lr; or `find`, for max_lr / 8.
        final_lr: where the schedule ends, as a ratio of min_lr.
        warmup_epochs: how long the LR rises, rounded to whole steps, at least one; 0 begins at max_lr. The default
            is the share of the source, 5 of 90 epochs, in 24.
        find_factor: `find` takes this many times the LR that the range test suggests; `auto`: `measured_factor` times
            with SGD on a network with batch normalisation, else the suggestion itself.

    Raises:
        ConfigError: min_lr is not below max_lr, or nothing depends on it.

    Source: Loshchilov, Hutter: SGDR (2017), section 3, without restarts; Goyal et al.: Accurate, Large
    Minibatch SGD (2017), section 2.2, for the gradual warm-up.
    """

    measured_factor = 4.0  # results/README.md

    def __init__(
        self,
        max_lr: FoundOrNumber = "find",
        min_lr: FoundOrNumber = "find",
        final_lr: Annotated[float, Ge(0), Le(1)] = 0.0,
        warmup_epochs: NotNegative = 1.0,
        find_factor: AutoOrNumber = "auto",
    ) -> None:
        self.max_lr, self.min_lr = given(max_lr), given(min_lr)
        check_order(self.min_lr, self.max_lr)
        if self.min_lr is not None and not warmup_epochs and not final_lr:
            raise ConfigError(
                f"scheduler.min_lr={self.min_lr:g} would be ignored with scheduler.warmup_epochs=0 and "
                "scheduler.final_lr=0; leave it find"
            )
        self.final_lr, self.warmup_epochs = float(final_lr), float(warmup_epochs)
        self.find_factor = given(find_factor)

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where the warm-up leaves nothing of the run; steps are checked once they are known."""
        if self.warmup_epochs >= epochs:
            raise ConfigError(
                f"scheduler.warmup_epochs={self.warmup_epochs:g}: a number from 0 to below train.epochs={epochs} is "
                "needed"
            )
        if steps_per_epoch is None:
            return
        total, warmup = epochs * steps_per_epoch, self._warmup_steps(steps_per_epoch)
        if warmup > total - 2:
            raise ConfigError(
                f"scheduler.warmup_epochs={self.warmup_epochs:g} leaves none of the run's {total} steps for the LR to "
                "fall; take a shorter warm-up, a smaller train.batch_size or more train.epochs"
            )

    def comparable_after(self, epochs: int) -> int:
        """The epoch in which the warm-up ends."""
        return math.ceil(self.warmup_epochs)

    def first_lr(self, max_lr: float) -> float:
        """Where the warm-up begins: min_lr; without one, max_lr."""
        return self._min_lr(max_lr) if self.warmup_epochs else max_lr

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The LR of every step, `epochs * steps_per_epoch` of them; the last one's is exactly min_lr * final_lr.

        Raises:
            ConfigError: min_lr is not below max_lr, or the warm-up does not fit.
        """
        self.check(epochs, steps_per_epoch)
        min_lr = self._min_lr(max_lr)
        check_order(min_lr, max_lr)
        warmup, final_lr = self._warmup_steps(steps_per_epoch), min_lr * self.final_lr
        steps_down = epochs * steps_per_epoch - 1 - warmup
        rise = [linear(min_lr, max_lr, step / warmup) for step in range(warmup)]
        fall = [cosine(max_lr, final_lr, step / steps_down) for step in range(1, steps_down + 1)]
        return Schedule(lrs=(*rise, max_lr, *fall), momenta=None, max_lr=max_lr, min_lr=min_lr if warmup else final_lr)

    def _min_lr(self, max_lr: float) -> float:
        return max_lr / MAX_TO_MIN if self.min_lr is None else self.min_lr

    def _warmup_steps(self, steps_per_epoch: int) -> int:
        return max(1, round(self.warmup_epochs * steps_per_epoch)) if self.warmup_epochs else 0
