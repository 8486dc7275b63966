"""The one-cycle policy: up to max_lr until the end of peak_epoch, then down to far below where it began."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from resnet_exp.config.ranges import AutoOrNumber, Count, FoundOrNumber
from resnet_exp.interfaces import ConfigError, Schedule
from resnet_exp.schedulers.lr import check_order, cosine, given, linear

# What `find` takes for min_lr: max_lr / 8, the div_factor of the reference logs.
DIV_FACTOR = 8.0
# Momentum while the LR is lowest and highest. Source: Smith, A disciplined approach to neural network
# hyper-parameters: Part 1 (2018), section 4.2; the values are those of torch.optim.lr_scheduler.OneCycleLR.
MAX_MOMENTUM, BASE_MOMENTUM = 0.95, 0.85


class OneCycle:
    """A schedule in two phases over all steps of a run, equal to torch's OneCycleLR digit for digit.

    Args:
        max_lr: the peak, a number; or `find`, for the range test's.
        min_lr: where the cycle begins, a number below max_lr; or `find`, for max_lr / 8.
        final_lr: where it ends, as a ratio of min_lr; 1 is "no annihilation".
        peak_epoch: the peak is reached with the last step of this epoch, counted from 1.
        anneal: the shape of both phases, `cos` or `linear`.
        cycle_momentum: moves the momentum against the LR, 0.95 -> 0.85 -> 0.95.
        find_factor: `find` takes this many times the LR that the range test suggests; `auto`: `measured_factor` times
            with SGD on a network with batch normalisation, else the suggestion itself.

    Raises:
        ConfigError: min_lr is not below max_lr.

    Source: Smith, Topin: Super-Convergence (2018), section 3; the arithmetic is that of torch's OneCycleLR with
    `three_phase=False`, div_factor = max_lr / min_lr and final_div_factor = 1 / final_lr.
    """

    measured_factor = 8.0  # results/README.md

    def __init__(
        self,
        max_lr: FoundOrNumber = "find",
        min_lr: FoundOrNumber = "find",
        final_lr: Annotated[float, Ge(0), Le(1)] = 1e-4,
        peak_epoch: Count = 5,
        anneal: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = False,
        find_factor: AutoOrNumber = "auto",
    ) -> None:
        self.max_lr, self.min_lr = given(max_lr), given(min_lr)
        check_order(self.min_lr, self.max_lr)
        self.final_lr, self.peak_epoch = float(final_lr), peak_epoch
        self.anneal, self.cycle_momentum = anneal, cycle_momentum
        self.find_factor = given(find_factor)

    def check(self, epochs: int, steps_per_epoch: int | None = None) -> None:
        """Raises ConfigError where the peak does not fit into the run; steps are checked once they are known."""
        if self.peak_epoch > epochs:
            raise ConfigError(
                f"scheduler.peak_epoch={self.peak_epoch}: a whole number from 1 to train.epochs={epochs} is needed"
            )
        if steps_per_epoch is not None and steps_per_epoch * self.peak_epoch < 2:
            raise ConfigError(
                f"scheduler.peak_epoch={self.peak_epoch} comes after a single step ({steps_per_epoch} an epoch): the "
                "LR cannot rise; take a smaller train.batch_size or a later peak_epoch"
            )

    def comparable_after(self, epochs: int) -> int:
        """The epoch of the peak."""
        return self.peak_epoch

    def first_lr(self, max_lr: float) -> float:
        """Where the cycle begins: min_lr."""
        return max_lr / DIV_FACTOR if self.min_lr is None else self.min_lr

    def plan(self, max_lr: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """The LR of every step, `epochs * steps_per_epoch` of them; the peak is that of step peak_epoch * steps - 1.

        Raises:
            ConfigError: min_lr is not below max_lr, or the peak does not fit.
        """
        self.check(epochs, steps_per_epoch)
        min_lr = self.first_lr(max_lr)
        check_order(min_lr, max_lr)
        total, peak = epochs * steps_per_epoch, self.peak_epoch * steps_per_epoch - 1
        lrs = self._two_phases(total, peak, min_lr, max_lr, min_lr * self.final_lr)
        momenta = None
        if self.cycle_momentum:
            momenta = self._two_phases(total, peak, MAX_MOMENTUM, BASE_MOMENTUM, MAX_MOMENTUM)
        return Schedule(lrs=lrs, momenta=momenta, max_lr=max_lr, min_lr=min_lr)

    def _two_phases(self, total: int, peak: int, first: float, top: float, last: float) -> tuple[float, ...]:
        shape = cosine if self.anneal == "cos" else linear
        rise = [shape(first, top, step / peak) for step in range(peak + 1)]
        fall = [shape(top, last, (step - peak) / (total - 1 - peak)) for step in range(peak + 1, total)]
        return tuple(rise + fall)
