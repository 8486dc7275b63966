"""The LRs that fastai's rules suggest for a curve, for comparison with ours."""

from __future__ import annotations

import math

import numpy as np

from resnet_exp.training.range_curve import FLOAT32_MAX, Curve

FASTAI_BETA, FASTAI_STOP = 0.98, 4.0  # Source: fastai Recorder and LRFinder (callback/schedule.py)


def suggestions(curve: Curve) -> dict[str, float | None]:
    """Returns the LRs that fastai's four rules would suggest for this curve; None where one is undefined.

    They are computed as fastai does: on the debiased moving average of the losses (beta 0.98), up to where it exceeds
    4× its best, without the first tenth of the LRs, the last 5 points, and all that follows a NaN.

    Source: fastai callback/schedule.py, `valley`, `slide`, `minimum`, `steep`, `Learner.lr_find`.
    """
    lrs, losses = _as_fastai_reads(curve)
    return {
        "valley": _valley(lrs, losses),
        "steep": _steep(lrs, losses),
        "minimum/10": float(lrs[np.argmin(losses)]) / 10 if len(losses) else None,
        "slide": _slide(lrs, losses),
    }


def _as_fastai_reads(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The LRs and smoothed losses that fastai's rules would be given, float64."""
    averages, average, best, stop = [], 0.0, math.inf, len(curve.losses)
    for i, loss in enumerate(curve.losses):
        # fastai computes in float32, where a larger loss is infinite.
        loss = loss if abs(loss) <= FLOAT32_MAX or math.isnan(loss) else math.inf
        average = FASTAI_BETA * average + (1 - FASTAI_BETA) * loss
        averages.append(average / (1 - FASTAI_BETA ** (i + 1)))
        best = min(best, averages[-1])
        if averages[-1] > FASTAI_STOP * best:
            stop = i + 1
            break
    start = len(curve.lrs) // 10
    averages_read = np.asarray(averages)[start : max(stop - 5, 0)]
    if (bad := ~np.isfinite(averages_read)).any():
        averages_read = averages_read[: int(np.argmax(bad))]
    return np.asarray(curve.lrs[start : start + len(averages_read)]), averages_read


def _valley(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """Returns the LR in the middle of the longest falling subsequence, taken as contiguous. Source: fastai `valley`."""
    if len(losses) < 2:
        return None
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths[i] += lengths[:i][losses[:i] > losses[i]].max(initial=0)
    end = int(np.argmax(lengths))
    start = end - int(lengths[end]) if end else 0
    third = (end - start) / 3
    return float(lrs[max(start + int(third) + int(third / 2), 0)])


def _steep(lrs: np.ndarray, losses: np.ndarray) -> float | None:
    """Returns the LR where the loss falls fastest per log LR. Source: fastai `steep`."""
    if len(losses) < 2:
        return None
    with np.errstate(all="ignore"):  # the logarithms of neighbouring LRs may be equal
        return float(lrs[np.argmin(np.diff(losses) / np.diff(np.log(lrs)))])


def _slide(lrs: np.ndarray, losses: np.ndarray, window: int = 15, threshold: float = 0.005) -> float | None:
    """Returns the LR where a window sliding down from the end has equal slopes at its ends. Source: fastai `slide`."""
    if len(losses) < window + 2:
        return None
    slopes = np.gradient(losses)
    right = len(losses) - 1
    left = right - window
    lr = lrs[left]
    while left >= 0 and abs(slopes[right] - slopes[left]) > threshold:
        lr = lrs[left]
        right, left = right - 1, left - 1
    return float(lr)
