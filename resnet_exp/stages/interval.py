"""How sure an accuracy is: the interval that so many images leave."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile: an interval of 95 %


def wilson_interval(correct: int, count: int, z: float = _Z) -> tuple[float, float]:
    """The lowest and the highest accuracy, fractions, that so many correct images are compatible with at 95 %.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (JASA 1927); recommended by
    Brown, Cai, DasGupta, Interval Estimation for a Binomial Proportion (Statistical Science 2001), section 3.1.1.

    Raises:
        ValueError: no image, or more correct ones than there are.
    """
    if not 0 <= correct <= count or count == 0:
        raise ValueError(f"correct={correct} of count={count}: at least one image is needed")
    share, z2 = correct / count, z * z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At the bounds the formula's rounding may leave them by a last digit.
    return 0.0 if correct == 0 else middle - half, 1.0 if correct == count else middle + half
