"""`Curve`: the recorded losses of one repeat of an LR range test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FLOAT32_MAX = 3.4028235e38  # a loss above it overflowed in training, whatever type it was recorded in


@dataclass(frozen=True)
class Curve:
    """One repeat: the planned `lrs`, rising, and the training loss at each, in nats, mean per image.

    Losses that end before the LRs do, or that become non-finite, mean that training diverged there.

    Raises:
        ValueError: there is no LR, one is not positive and finite, they do not rise, or there are more losses than LRs.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lrs or len(self.losses) > len(self.lrs):
            raise ValueError(f"a curve needs one LR or more and no more losses than LRs, got {len(self.lrs)} LRs and "
                             f"{len(self.losses)} losses")  # fmt: skip
        rising = all(a < b for a, b in pairwise(self.lrs))
        if not rising or self.lrs[0] <= 0 or not math.isfinite(self.lrs[-1]):
            raise ValueError("the LRs of a curve must be positive, finite and rising")


def curve_to_json(curve: Curve) -> dict[str, list[float | None]]:
    """Returns the curve as plain lists that strict JSON can hold: a non-finite loss becomes None."""
    losses = [float(loss) if math.isfinite(loss) else None for loss in curve.losses]
    return {"lrs": [float(lr) for lr in curve.lrs], "losses": losses}


def curve_from_json(data: Mapping[str, Sequence[float | None]]) -> Curve:
    """Returns the curve that `curve_to_json` wrote; None becomes NaN."""
    losses = tuple(math.nan if loss is None else float(loss) for loss in data["losses"])
    return Curve(tuple(float(lr) for lr in data["lrs"] if lr is not None), losses)


def finite_start(curve: Curve) -> np.ndarray:
    """Returns the losses before the first non-finite one, float64."""
    losses = np.asarray(curve.losses, dtype=np.float64)
    bad = ~(np.abs(losses) <= FLOAT32_MAX)  # NaN compares false
    return losses[: int(np.argmax(bad))] if bad.any() else losses
