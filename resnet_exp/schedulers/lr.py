"""What the schedules share: an LR that is given or to be found, and two ways from one LR to another."""

from __future__ import annotations

import math
from typing import Literal

from resnet_exp.interfaces import ConfigError


def given(number: float | Literal["find", "auto"]) -> float | None:
    """The number; None for `find` and `auto`."""
    return None if isinstance(number, str) else float(number)


def check_order(min_lr: float | None, max_lr: float | None) -> None:
    """Raises ConfigError unless min_lr is below max_lr; None is not known yet."""
    if min_lr is not None and max_lr is not None and not min_lr < max_lr:
        raise ConfigError(f"scheduler.min_lr={min_lr:g}: a number below max_lr={max_lr:g} is needed, or find")


def linear(start: float, end: float, part: float) -> float:
    """The LR after this part of a straight way, 0..1."""
    return (end - start) * part + start


def cosine(start: float, end: float, part: float) -> float:
    """The LR after this part of half a cosine's way, 0..1: flat at both ends."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
