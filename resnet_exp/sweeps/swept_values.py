"""The values of swept keys, checked before anything is planned: each has some, and nothing of them is ignored."""

from __future__ import annotations

import itertools
import math
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config.overrides import values_of
from resnet_exp.interfaces import ConfigError, first_line


def check_swept(override: Override) -> None:
    """Raises ConfigError where a swept key has no values, or Hydra's functions were given what cannot work."""
    value: Any = override.value()
    reason = _reason(value)
    if reason is None and not isinstance(value, IntervalSweep):
        reason = _reason_of_a_list(override)
    if reason is not None:
        raise ConfigError(f"{override.input_line}: {reason}")


def _reason(value: Any) -> str | None:
    """Why the arguments of an interval, a range or a tag cannot work; None where they can."""
    try:
        is_finite = all(map(math.isfinite, _numbers(value)))
    except OverflowError:  # of a whole number that is too large for a float
        is_finite = False
    if not is_finite:
        return "finite numbers are needed"
    if isinstance(value, RangeSweep) and value.step == 0:
        return "a step other than 0 is needed"
    if isinstance(value, IntervalSweep):
        return _reason_of_an_interval(value)
    if isinstance(value, Sweep) and value.tags:
        return f"the tag {', '.join(sorted(value.tags))} would be ignored: only an interval takes one, log"
    return None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, IntervalSweep):
        return [float(number) for number in (value.start, value.end) if number is not None]
    if isinstance(value, RangeSweep):
        return [float(number) for number in (value.start, value.stop, value.step) if number is not None]
    return []


def _reason_of_an_interval(interval: IntervalSweep) -> str | None:
    assert interval.start is not None and interval.end is not None
    if interval.start >= interval.end:
        return f"an interval goes from a number up to a larger one, not from {interval.start:g} to {interval.end:g}"
    if others := sorted(interval.tags - {"log"}):
        return f"the tag {', '.join(others)} would be ignored: an interval takes log"
    if "log" in interval.tags and interval.start <= 0:
        return f"a logarithmic interval starts above 0, not at {interval.start:g}"
    return None


def _reason_of_a_list(override: Override) -> str | None:
    """Why the values of a key cannot be listed, or that there are none; None where they can, or not be known yet."""
    try:
        values = values_of(override)
        if values is None or list(itertools.islice(values, 1)):
            return None
    except (HydraException, OmegaConfBaseException, ArithmeticError, TypeError, ValueError) as error:
        return f"Hydra cannot list these values ({first_line(error)})"
    if isinstance(override.value(), Glob):
        return f"no option of {override.key_or_group} matches"
    return "there are no values in it: a range goes from its first number up to, and without, its second"
