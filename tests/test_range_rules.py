"""Range test rules: measured curves, scripted failures, properties over any curve, and the figure of each status."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_exp.training.fastai_rules import suggestions
from resnet_exp.training.range_curve import Curve, curve_from_json, curve_to_json
from resnet_exp.training.range_rules import (
    USABLE,
    diverged_at_once,
    judge,
    minimum_at_end,
    read_curve,
    verdict_from_json,
)

MEASURED = {
    name: curve_from_json(data)
    for name, data in json.loads((Path(__file__).parent / "data" / "range_curves.json").read_text()).items()
}
EXP100 = [MEASURED[f"exp100_{seed}"] for seed in range(3)]
LRS = np.logspace(-5, 1, 100)
X = np.log10(LRS)
STEP = np.arange(100)


def scripted(losses: np.ndarray | list[float], lrs: np.ndarray = LRS) -> Curve:
    return Curve(tuple(lrs.tolist()), tuple(np.asarray(losses, dtype=float).tolist()))


def noise(sigma: float) -> np.ndarray:
    return sigma * np.random.default_rng(0).normal(size=100)


def falling(until: int = 100) -> np.ndarray:
    """A loss from 2.5 down by 0.02 a step, then NaN."""
    return np.where(until > STEP, 2.5 - 0.02 * STEP + noise(0.05), np.nan)


def valley(lrs: np.ndarray = LRS) -> np.ndarray:
    """A loss with its bottom at LR 10^-1.5 on the left of a steep rise."""
    x = np.log10(lrs)
    return 2.6 - 1.0 * np.exp(-0.5 * ((x + 1.5) / 0.8) ** 2) + 6 * np.maximum(0, x + 0.8)


CURVES = {
    "ok": scripted(valley() + noise(0.05)),
    "diverged_early": scripted(np.minimum(3 * 1.3**STEP, 1e12)),
    "flat": scripted(2.3 + noise(0.1)),
    "at_end": scripted(falling()),
    "cliff": scripted(falling(60)),
    "not_better_than_chance": scripted(valley() + 1.2 + noise(0.05)),
    "non_finite": scripted([math.nan] * 100),
    "too_short": scripted(valley()[:14], LRS[:14]),
}


# Golden suggestions, within 0.1 % of the prototype's, whose curves were not rounded.
@pytest.mark.parametrize(
    ("name", "lr", "loss_min", "valley_end"),
    [
        ("exp100_0", 0.0081113, 2.1323, 62),
        ("exp100_1", 0.012328, 2.1303, 61),
        ("exp100_2", 0.0081113, 2.1984, 60),
        ("exp170_0", 0.0079325, 1.9389, 120),
    ],
)
def test_measured_exponential_sweeps_keep_their_suggestion(name, lr, loss_min, valley_end):
    reading = read_curve(MEASURED[name], 10)
    assert (reading.status, reading.lr, reading.valley_end) == ("ok", pytest.approx(lr, rel=1e-3), valley_end)
    assert reading.loss_min == pytest.approx(loss_min, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_measured_linear_sweeps_diverge_early_whatever_they_recover_to(seed):
    # Seeds 1 and 2 come back to 3.0 and 2.25: the prototype took LR 0.35 and 1.0 from them.
    reading = read_curve(MEASURED[f"lin100_{seed}"], 10)
    assert (reading.status, reading.lr) == ("diverged_early", None)


def test_three_measured_repeats_agree():
    verdict = judge(EXP100, 10)
    assert (verdict.status, verdict.suggestion) == ("ok", pytest.approx(0.0093259, rel=1e-3))
    assert verdict.spread_decades == pytest.approx(0.182, abs=1e-3)
    assert verdict.rules == pytest.approx(
        {"minimum": 0.0093259, "valley": 0.0012619, "steep": 0.00020565, "minimum/10": 0.0043288, "slide": 0.012915},
        rel=1e-3,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exp100_0", {"valley": 0.00152, "steep": 0.000327, "minimum/10": 0.00498, "slide": 0.00175}),
        ("exp100_1", {"valley": 0.00115, "steep": 0.000163, "minimum/10": 0.00433, "slide": 0.00464}),
        ("exp100_2", {"valley": 0.00115, "steep": 0.000163, "minimum/10": 0.00376, "slide": 0.266}),
        ("lin100_0", {"valley": 0.243, "steep": 0.253, "minimum/10": 0.0102, "slide": 0.102}),
    ],
)
def test_rules_of_fastai_on_measured_curves(name, expected):
    assert suggestions(MEASURED[name]) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("status", CURVES)
def test_each_status_arises_and_only_usable_ones_carry_an_lr(status):
    reading = read_curve(CURVES[status], 10)
    assert reading.status == status
    assert (reading.lr is not None) == (status in USABLE)
    assert reading.reason


def test_nan_at_step_5_is_an_early_divergence():
    verdict = judge([scripted(falling(5))] * 3, 10)
    assert (verdict.status, verdict.suggestion, diverged_at_once(verdict)) == ("failed", None, True)
    assert "step 5" in verdict.reason


@pytest.mark.parametrize("recorded", [60, 61, 100])
def test_nan_on_a_falling_curve_pulls_the_lr_back_and_is_doubted(recorded):
    # However much of the NaN tail was recorded: the reading must not depend on it.
    verdict = judge([scripted(falling(60)[:recorded])] * 3, 10)
    assert verdict.status == "low_confidence" and "non-finite" in verdict.reason
    assert LRS[60] / 10 < verdict.suggestion < LRS[60] / 2
    assert verdict.suggestion == judge([CURVES["cliff"]] * 3, 10).suggestion


def test_nan_after_the_loss_has_risen_is_ok():
    losses = valley() + noise(0.05)
    losses[80:] = np.nan
    assert read_curve(scripted(losses), 10).lr == read_curve(CURVES["ok"], 10).lr


@pytest.mark.parametrize("height", [10.0, 1e6])
@pytest.mark.parametrize("step", [20, 45, 57, 65])
def test_a_single_spike_hardly_moves_the_suggestion(step, height):
    losses = valley() + noise(0.05)
    losses[step] = height
    reading = read_curve(scripted(losses), 10)
    assert reading.status == "ok"
    assert abs(math.log10(reading.lr / read_curve(CURVES["ok"], 10).lr)) < 0.35


def test_collapse_to_chance_after_divergence_is_outside_the_first_valley():
    losses = np.where(STEP < 60, 2.6 - 0.01 * STEP, np.where(STEP < 70, 9.0, 2.303))
    reading = read_curve(scripted(losses), 10)
    assert (reading.status, reading.valley_end < 60) == ("ok", True)
    assert reading.lr < LRS[60]


@pytest.mark.parametrize("plateau", [2.303, 2.29, 3.0])
def test_collapse_to_chance_without_a_valley_is_not_usable(plateau):
    losses = np.interp(STEP, [0, 40, 99], [3.8, plateau, plateau]) + noise(0.005)
    assert read_curve(scripted(losses), 10).status == "not_better_than_chance"


def test_early_divergence_with_partial_recovery_is_not_usable():
    losses = np.interp(STEP, [0, 2, 4, 20, 60, 99], [2.6, 3.0, 9.0, 8.0, 2.4, 2.28]) + noise(0.02)
    verdict = judge([scripted(losses)] * 3, 10)
    assert (verdict.status, diverged_at_once(verdict)) == ("failed", True)


def test_a_linear_sweep_of_a_benign_valley_gives_the_same_lr():
    lrs = np.linspace(1e-3, 1.0, 200)
    reading = read_curve(scripted(valley(lrs), lrs), 10)
    assert (reading.status, reading.lr) == ("ok", pytest.approx(10**-1.5, rel=0.25))


def test_repeats_far_apart_lower_the_confidence():
    shifted = Curve(tuple(lr / 10 for lr in CURVES["ok"].lrs), CURVES["ok"].losses)
    verdict = judge([CURVES["ok"], shifted], 10)
    assert (verdict.status, verdict.spread_decades) == ("low_confidence", pytest.approx(1.0))
    assert verdict.suggestion == pytest.approx(read_curve(CURVES["ok"], 10).lr / math.sqrt(10))
    assert "decades apart" in verdict.reason


@pytest.mark.parametrize("others", [[], ["flat", "flat"], ["diverged_early"], ["non_finite", "too_short"]])
def test_fewer_than_two_usable_repeats_lower_the_confidence(others):
    verdict = judge([CURVES["ok"], *(CURVES[name] for name in others)], 10)
    assert (verdict.status, verdict.suggestion) == ("low_confidence", read_curve(CURVES["ok"], 10).lr)
    assert "only" in verdict.reason and not diverged_at_once(verdict)


def test_one_unusable_repeat_of_three_is_left_out():
    verdict = judge([CURVES["ok"], CURVES["flat"], CURVES["ok"]], 10)
    assert (verdict.status, verdict.suggestion) == ("ok", read_curve(CURVES["ok"], 10).lr)


def test_a_minimum_at_the_end_asks_for_a_longer_sweep():
    verdict = judge([CURVES["ok"], CURVES["at_end"], CURVES["ok"]], 10)
    assert minimum_at_end(verdict) and verdict.status == "low_confidence"
    assert not minimum_at_end(judge([CURVES["ok"]] * 2, 10))


def test_the_mean_is_not_taken_where_a_repeat_was_non_finite():
    early = scripted(falling(45))
    verdict = judge([CURVES["ok"], CURVES["ok"], early], 10)
    assert verdict.suggestion == read_curve(early, 10).lr < LRS[45]
    assert verdict.status == "low_confidence" and "lowest suggestion" in verdict.reason


def test_a_sweep_that_was_stopped_is_not_called_non_finite():
    verdict = judge([scripted(3 * 1.3 ** np.arange(10))] * 2 + [scripted([3.0, math.inf])], 10)
    assert "stopped at LR" in verdict.reason and diverged_at_once(verdict)


@pytest.mark.parametrize("status", [name for name in CURVES if name not in USABLE])
def test_a_failed_verdict_has_a_reason_and_no_lr(status):
    verdict = judge([CURVES[status]] * 3, 10)
    assert (verdict.status, verdict.suggestion, verdict.spread_decades, verdict.rules) == ("failed", None, None, {})
    assert status.replace("_", " ") in verdict.reason


@pytest.mark.parametrize("status", CURVES)
def test_json_round_trip(status):
    curves = [CURVES[status], CURVES["cliff"]]
    verdict = judge(curves, 10)
    assert verdict_from_json(json.loads(json.dumps(asdict(verdict), allow_nan=False))) == verdict
    back = [curve_from_json(json.loads(json.dumps(curve_to_json(curve), allow_nan=False))) for curve in curves]
    assert judge(back, 10) == verdict


@pytest.mark.parametrize(
    ("lrs", "losses"),
    [((), ()), ((0.0, 0.1), ()), ((0.1, 0.1), ()), ((0.1,), (1.0, 2.0)), ((math.nan,), ()), ((0.1, math.inf), ())],
)
def test_a_curve_refuses_impossible_sweeps(lrs, losses):
    with pytest.raises(ValueError, match="curve"):
        Curve(lrs, losses)


def test_judging_nothing_or_one_class_is_refused():
    with pytest.raises(ValueError, match="no curves"):
        judge([], 10)
    with pytest.raises(ValueError, match="num_classes"):
        judge([CURVES["ok"]], 1)


any_loss = st.floats(width=64) | st.floats(0.0, 5.0)
steps = st.floats(1e-3, 0.3)


@st.composite
def any_curve(draw: st.DrawFn) -> Curve:
    losses = draw(st.lists(any_loss, min_size=1, max_size=60) | st.lists(st.floats(0.0, 4.0), min_size=15, max_size=60))
    unmet = draw(st.integers(0, 3))
    logs = np.cumsum([-5.0, *draw(st.lists(steps, min_size=len(losses) + unmet - 1, max_size=len(losses) + unmet - 1))])
    return Curve(tuple((10.0**logs).tolist()), tuple(losses))


@settings(max_examples=150, deadline=None)
@given(st.lists(any_curve(), min_size=1, max_size=3), st.integers(2, 1000))
def test_any_curve_gives_a_verdict_within_what_was_swept(curves, num_classes):
    with np.errstate(all="raise", under="ignore"):
        verdict = judge(curves, num_classes)
    json.dumps(asdict(verdict), allow_nan=False)
    assert (verdict.suggestion is None) == (verdict.status == "failed")
    for curve, reading in zip(curves, verdict.readings, strict=True):
        assert all(lr is None or curve.lrs[0] / 10 <= lr <= curve.lrs[-1] for lr in suggestions(curve).values())
        if reading.lr is None:
            continue
        bad = [lr for lr, loss in zip(curve.lrs, curve.losses, strict=False) if not math.isfinite(loss)]
        assert curve.lrs[0] <= reading.lr <= curve.lrs[len(curve.losses) - 1]
        assert reading.lr < min(bad, default=math.inf)
        assert verdict.suggestion < min(bad, default=math.inf)
    if verdict.suggestion is not None:
        usable = [reading.lr for reading in verdict.readings if reading.lr is not None]
        assert min(usable) <= verdict.suggestion <= max(usable)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*CURVES]), st.floats(0.01, 100))
def test_scaling_the_lrs_scales_the_suggestions(name, factor):
    scaled = Curve(tuple(lr * factor for lr in CURVES[name].lrs), CURVES[name].losses)
    before, after = read_curve(CURVES[name], 10), read_curve(scaled, 10)
    assert (after.status, after.index) == (before.status, before.index)
    if before.lr is not None:
        assert after.lr == pytest.approx(before.lr * factor)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ok", "flat", "at_end", "cliff", "diverged_early"]), st.integers(-4, 4))
def test_scaling_the_losses_moves_nothing_but_the_judgement_of_chance(name, power):
    scaled = Curve(CURVES[name].lrs, tuple(loss * 2.0**power for loss in CURVES[name].losses))
    before, after = read_curve(CURVES[name], 10), read_curve(scaled, 10)
    assert (after.index, after.valley_end) == (before.index, before.valley_end)
    assert after.status in (before.status, "not_better_than_chance")
    ours, theirs = suggestions(CURVES[name]), suggestions(scaled)
    assert all(theirs[rule] == ours[rule] for rule in ("valley", "steep", "minimum/10"))  # slide: absolute threshold


@pytest.mark.parametrize("name", ["exp100", *CURVES])
def test_the_figure_of_each_status_is_a_whole_png(name, tmp_path):
    from matplotlib.image import imread

    from resnet_exp.report.drawing import save
    from resnet_exp.report.parts.lr_range import range_test_figure

    curves = EXP100 if name == "exp100" else [CURVES[name]]
    verdict = judge(curves, 10)
    max_lr = verdict.suggestion and verdict.suggestion * 4
    min_lr = max_lr and max_lr / 8
    assert save(range_test_figure(verdict, curves, max_lr, min_lr, name), tmp_path / "a.png", svg=True).exists()
    picture = imread(tmp_path / "a.png")
    assert picture.shape[:2] == (930, 1440) and picture[..., :3].std() > 0.02
    assert (tmp_path / "a.svg").read_text().rstrip().endswith("</svg>")
    save(range_test_figure(verdict, curves, max_lr, min_lr, name), tmp_path / "b.png", svg=True)
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()


def test_labels_of_the_figure_do_not_overlap():
    from resnet_exp.report.parts.lr_range import LABEL_WIDTH, _spread_out

    for wanted in ([0.5] * 6, [0.0, 0.01, 0.5, 0.99, 1.0, 1.0], [0.1, 0.11, 0.12, 0.13, 0.14, 0.15], []):
        at = _spread_out(wanted)
        assert all(b - a > 0.95 * LABEL_WIDTH for a, b in pairwise(at))
        assert all(0 <= x <= 1 for x in at)
