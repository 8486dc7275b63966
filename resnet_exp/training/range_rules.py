"""Reads the curves of an LR range test: recorded losses in, a suggested LR and a verdict on it out.

Pure functions of recorded curves: no model, no device. This project measured the rule and its constants
(docs/decisions/0004); the rules of others are computed for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_exp.training.fastai_rules import suggestions
from resnet_exp.training.range_curve import Curve, finite_start

# The rule's constants. Source, where no other is named: measured, docs/decisions/0004-reading-a-range-test.md.
SIGMA_DECADES = 0.18  # width of the Gaussian in log10 LR; it is centred, so that the minimum does not lag
CAP = 4.0  # larger losses are capped at this many times the least one. Source: fastai LRFinder, which stops there
SKIP = 5  # first points, which cannot be the minimum
RISE, PATIENCE = 1.25, 5  # the valley ends where the smoothed loss stays above RISE x its best for this many points
MIN_POINTS = 15  # a valley of fewer points is an early divergence
# The minimum must be below ln C by more than this fraction of it: a collapsed repeat that we measured has a median loss
# within 0.01 % of ln C, good ones have minima 4.5 % or more below it.
CHANCE_MARGIN = 0.01
MAX_SPREAD_DECADES = 0.5  # repeats further apart lower the confidence

USABLE = ("ok", "at_end", "cliff")  # statuses of a reading that carries an LR; all but "ok" lower the confidence


@dataclass(frozen=True)
class CurveReading:
    """What the rule reads in the curve of one repeat.

    Attributes:
        status: usable: `ok`; `at_end` (still falling at the sweep's end); `cliff` (still falling when the loss turned
            non-finite). Not usable: `diverged_early`, `flat`, `not_better_than_chance`, `non_finite` (before the
            first update), `too_short` (fewer LRs than the rule needs).
        reason: one sentence for the user.
        lr: the suggestion; None unless usable.
        index: step of the minimum; None if the curve was too short or diverged.
        loss_min: smoothed loss there, nats per image.
        smoothed: the smoothed loss at each step before any non-finite one; empty if too few.
        valley_end: first step past the first valley; the number of finite losses if the valley never ended.
    """

    status: str
    reason: str
    lr: float | None = None
    index: int | None = None
    loss_min: float | None = None
    smoothed: tuple[float, ...] = ()
    valley_end: int = 0


@dataclass(frozen=True)
class Verdict:
    """The verdict on all repeats together.

    Attributes:
        status: `ok`, `low_confidence` (there is a suggestion, with a reason to doubt it) or `failed`.
        reason: a sentence for the user.
        suggestion: the LR; geometric mean over the usable repeats (see `judge` for the exception); None if failed.
        spread_decades: log10 of the largest over the smallest usable LR; None if failed.
        readings: one per repeat.
        rules: geometric mean of each rule over the usable repeats, where defined; `minimum` is the suggestion.
        chance_loss: ln C, nats, the loss of guessing.
    """

    status: str
    reason: str
    suggestion: float | None
    spread_decades: float | None
    readings: tuple[CurveReading, ...]
    rules: dict[str, float]
    chance_loss: float


def read_curve(curve: Curve, num_classes: int) -> CurveReading:
    """Returns the LR of the least smoothed loss in the first valley, or why that would mean nothing.

    A non-finite loss, and all after it, count as losses at the cap: such a cliff moves the minimum back by about 1.5
    SIGMA_DECADES, and would have no effect otherwise. If the loss still fell before it, the status is `cliff`. The
    untrained network's loss belongs to the valley too, so that a repeat that diverges at once and then recovers is not
    read as a good one.

    Args:
        curve: one repeat.
        num_classes: C; guessing has a loss of ln C.

    Raises:
        ValueError: num_classes is below 2.

    Source: the range test and its upper bound, where results stop improving: Smith 2017, "Cyclical Learning Rates for
    Training Neural Networks", §3.3.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a classifier has 2 or more")
    losses = finite_start(curve)
    if refusal := _too_little(curve, len(losses)):
        return refusal
    smoothed = _smooth(curve, losses, cliff=True)
    end = min(_valley_end(smoothed), len(losses))
    shown = tuple(smoothed[: len(losses)].tolist())
    if end < MIN_POINTS:
        reason = f"the loss rises at LR {curve.lrs[end]:.3g} (step {end}) before it has fallen"
        return CurveReading("diverged_early", reason, smoothed=shown, valley_end=end)
    index = SKIP + int(np.argmin(smoothed[SKIP:end]))
    chance = math.log(num_classes)
    if _is_flat(losses[:end], max(smoothed[0], smoothed[SKIP]), smoothed[index]):
        status, reason = "flat", f"the loss hardly falls up to LR {curve.lrs[end - 1]:.3g}"
    elif smoothed[index] > (1 - CHANCE_MARGIN) * chance:
        status = "not_better_than_chance"
        reason = f"the least loss, {smoothed[index]:.3f}, does not beat guessing, ln {num_classes} = {chance:.3f}"
    else:
        # The points at the cap would hide whether the curve itself still fell.
        without_cliff = _smooth(curve, losses, cliff=False)
        status, reason = _how_it_ends(curve, len(losses), _falls_to_the_end(without_cliff))
    lr = float(curve.lrs[index]) if status in USABLE else None
    return CurveReading(status, reason, lr, index, float(smoothed[index]), shown, end)


def judge(curves: Sequence[Curve], num_classes: int) -> Verdict:
    """Returns the verdict over all repeats; `suggestion` is the geometric mean of the usable ones.

    Low confidence: fewer than two usable repeats (also when only one was run), repeats further apart than
    MAX_SPREAD_DECADES, one whose loss still fell at the last LR or before a cliff, or one that had ended (non-finite,
    or stopped) at the mean of all: the lowest suggestion is then taken instead. Failed: none is usable.

    Raises:
        ValueError: there is no curve, or num_classes is below 2.

    Source: geometric mean and the 0.5 decade: measured by this project (docs/decisions/0004-reading-a-range-test.md).
    """
    if not curves:
        raise ValueError("no curves to judge")
    readings = tuple(read_curve(curve, num_classes) for curve in curves)
    chance = math.log(num_classes)
    lrs = [reading.lr for reading in readings if reading.lr is not None]
    if not lrs:
        return Verdict("failed", _why_failed(readings), None, None, readings, {}, chance)
    spread = math.log10(max(lrs)) - math.log10(min(lrs))
    suggestion, doubts = _geometric_mean(lrs), _doubts(readings, spread)
    cliff = min((c.lrs[n] for c in curves if (n := len(finite_start(c))) < len(c.lrs)), default=math.inf)
    if suggestion >= cliff:
        suggestion = min(lrs)
        doubts.append(f"a repeat had ended by LR {cliff:.3g}, so the lowest suggestion is taken, not the mean")
    rules = {"minimum": suggestion} | _mean_suggestions(curves, readings)
    reason = "; ".join(doubts) or f"{len(lrs)} of {len(readings)} repeats agree within {spread:.2f} decade"
    return Verdict("low_confidence" if doubts else "ok", reason, suggestion, spread, readings, rules, chance)


def diverged_at_once(verdict: Verdict) -> bool:
    """Returns whether no repeat is usable and one diverged early: starting from a lower LR may still work."""
    statuses = [reading.status for reading in verdict.readings]
    return "diverged_early" in statuses and not any(status in USABLE for status in statuses)


def minimum_at_end(verdict: Verdict) -> bool:
    """Returns whether the loss of a repeat still fell at the last LR: higher ones should be tried."""
    return any(reading.status == "at_end" for reading in verdict.readings)


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """Returns the verdict whose `dataclasses.asdict` this is."""
    readings = (CurveReading(**{**reading, "smoothed": tuple(reading["smoothed"])}) for reading in data["readings"])
    return Verdict(**{**data, "readings": tuple(readings)})


def _too_little(curve: Curve, num_finite: int) -> CurveReading | None:
    if len(curve.lrs) < MIN_POINTS:
        reason = f"the sweep has {len(curve.lrs)} points; the rule needs {MIN_POINTS}"
        return CurveReading("too_short", reason, valley_end=num_finite)
    if num_finite == 0:
        return CurveReading("non_finite", "the loss is non-finite before the first update; no LR can mend that")
    if num_finite < MIN_POINTS:
        what = "turned non-finite" if len(curve.losses) > num_finite else "exploded and the sweep was stopped"
        reason = f"the loss {what} at LR {curve.lrs[num_finite]:.3g} (step {num_finite})"
        return CurveReading("diverged_early", reason, valley_end=num_finite)
    return None


def _how_it_ends(curve: Curve, num_finite: int, falls: bool) -> tuple[str, str]:
    if not falls:
        return "ok", "the loss has a minimum within the sweep"
    if num_finite < len(curve.lrs):
        return "cliff", f"the loss still fell when it turned non-finite at LR {curve.lrs[num_finite]:.3g}"
    return "at_end", f"the loss still falls at the end of the sweep, LR {curve.lrs[-1]:.3g}"


def loss_ceiling(losses: np.ndarray) -> float:
    """Returns the cap on losses: CAP × the least one, but never less than the mean of the first losses.

    The cap is meant for the divergence. On easy data the least loss is under a fourth of the first ones: a cap below
    these would flatten the fall itself (digits: repeats 0.24 decade apart, with this lower bound 0.06).
    """
    capped = losses.min() + (CAP - 1) * abs(losses.min())  # CAP × least if that is positive; above it if not
    return float(max(capped, losses[: SKIP + 1].mean()))


def _smooth(curve: Curve, losses: np.ndarray, *, cliff: bool) -> np.ndarray:
    """Returns the Gaussian mean in log10 LR of the capped losses; past a cliff, mirrored points at the cap follow."""
    n = len(losses)
    x = np.log10(np.asarray(curve.lrs[: n + 1]))
    ceiling = loss_ceiling(losses)
    values = np.minimum(losses, ceiling)
    if cliff and n < len(curve.lrs):  # mirrored LRs are as dense past the cliff as those before it
        x = np.concatenate([x[:n], x[n - 1] + x[n] - x[n - 1 :: -1]])
        values = np.concatenate([values, np.full(n, ceiling)])
    else:
        x = x[:n]
    # Divided by the weights' sum, so that the ends, with points on one side only, are means too.
    weights = np.exp(-0.5 * ((x[:, None] - x[None, :]) / SIGMA_DECADES) ** 2)
    return weights @ values / weights.sum(axis=1)


def _valley_end(smoothed: np.ndarray) -> int:
    """Returns the first of PATIENCE points in a row above RISE × the best so far; the length if there are none."""
    best, above = smoothed[0], 0
    for i, value in enumerate(smoothed):
        best = min(best, value)
        # For a positive loss this is RISE × best; `abs` makes it hold for a negative one too.
        above = above + 1 if value > best + (RISE - 1) * abs(best) else 0
        if above == PATIENCE:
            return i - PATIENCE + 1
    return len(smoothed)


def _falls_to_the_end(smoothed: np.ndarray) -> bool:
    whole = _valley_end(smoothed) == len(smoothed)
    return whole and int(np.argmin(smoothed)) >= len(smoothed) - PATIENCE


def _is_flat(losses: np.ndarray, first: float, least: float) -> bool:
    """Returns whether the loss falls by less than 5 % and less than 2 sigma of its noise, from step differences.

    Source: 1.4826 × MAD is sigma for a Gaussian; both limits: measured by this project, on scripted curves.
    """
    steps = np.diff(losses)
    # Medians ignore the few large steps of the fall itself; the difference of two losses has sqrt(2) times their sigma.
    noise = 1.4826 * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2)
    drop = first - least
    return bool(drop <= 0 or (drop < 2 * noise and drop < 0.05 * abs(first)))


def _geometric_mean(lrs: Sequence[float]) -> float:
    mean = math.exp(sum(math.log(lr) for lr in lrs) / len(lrs))
    return min(max(mean, min(lrs)), max(lrs))  # exp(log(x)) may miss x by a rounding


def _mean_suggestions(curves: Sequence[Curve], readings: Sequence[CurveReading]) -> dict[str, float]:
    each = [suggestions(curve) for curve, reading in zip(curves, readings, strict=True) if reading.lr is not None]
    by_rule = {name: [lrs[name] for lrs in each] for name in each[0]}
    defined = {name: [lr for lr in lrs if lr is not None] for name, lrs in by_rule.items()}
    return {name: _geometric_mean(lrs) for name, lrs in defined.items() if lrs}


def _doubts(readings: Sequence[CurveReading], spread: float) -> list[str]:
    usable = [reading for reading in readings if reading.lr is not None]
    doubts = [reading.reason for reading in usable if reading.status != "ok"][:1]
    if len(usable) < 2:
        rest = [reading.reason for reading in readings if reading.lr is None][:1]
        doubts += ["only one repeat was run" if len(readings) == 1 else f"only 1 of {len(readings)} repeats is usable"]
        doubts += rest
    if spread > MAX_SPREAD_DECADES:
        doubts.append(f"the repeats are {spread:.2f} decades apart, more than {MAX_SPREAD_DECADES:g}")
    return doubts


def _why_failed(readings: Sequence[CurveReading]) -> str:
    statuses = [reading.status for reading in readings]
    common = max(statuses, key=statuses.count)
    example = next(reading.reason for reading in readings if reading.status == common)
    share = f"; {statuses.count(common)} of {len(readings)} repeats: {common.replace('_', ' ')}"
    return example + (share if len(readings) > 1 else "")
