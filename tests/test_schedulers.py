"""Cosine, cyclic, step decay and constant: torch's own schedules, by hand, and whatever settings fit a run."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as torchs

from resnet_exp.interfaces import ConfigError
from resnet_exp.schedulers.constant import Constant
from resnet_exp.schedulers.cosine import Cosine
from resnet_exp.schedulers.cyclic import Cyclic
from resnet_exp.schedulers.multistep import MultiStep
from resnet_exp.schedulers.onecycle import OneCycle

STEPS, EPOCHS = 98, 24  # 50,000 images, 512 a batch


def applied(make, steps, max_lr):
    """The LRs that torch's scheduler, made for an optimizer at max_lr, sets for its first steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max_lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came first
        scheduler = make(optimizer)
        lrs = [optimizer.param_groups[0]["lr"]]
        for _ in range(steps - 1):
            scheduler.step()
            lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def close(lrs):
    return pytest.approx(lrs, rel=1e-12, abs=1e-12)


# Cosine


# A half of 21 steps is rounded to the even one.
@pytest.mark.parametrize(
    ("epochs", "steps", "warmup", "rising"), [(24, 98, 5, 490), (24, 98, 1.5, 147), (5, 7, 1.5, 10), (3, 1, 1, 1)]
)
@pytest.mark.parametrize(("min_lr", "final_lr"), [("find", 0.0), (0.02, 0.5), (0.02, 1.0)])
def test_cosine_is_torchs_linear_warmup_and_cosine_annealing(epochs, steps, warmup, rising, min_lr, final_lr):
    start = 0.3 / 8 if min_lr == "find" else min_lr

    def make(optimizer):
        rise = torchs.LinearLR(optimizer, start / 0.3, total_iters=rising)
        fall = torchs.CosineAnnealingLR(optimizer, epochs * steps - 1 - rising, eta_min=start * final_lr)
        return torchs.SequentialLR(optimizer, [rise, fall], [rising])

    assert Cosine("find", min_lr, final_lr, warmup).plan(0.3, epochs, steps).lrs == close(
        applied(make, epochs * steps, 0.3)
    )


def test_cosine_by_hand():
    lrs = Cosine("find", 0.2, 0.5, warmup_epochs=2).plan(1.0, 7, 1).lrs
    root = math.sqrt(0.5)  # of the cosine at a quarter of the way
    assert lrs == close([0.2, 0.6, 1.0, 0.55 + 0.45 * root, 0.55, 0.55 - 0.45 * root, 0.1])


def test_cosine_peaks_right_after_its_warmup_and_ends_at_nothing():
    plan = Cosine(warmup_epochs=5).plan(0.4, EPOCHS, STEPS)
    peak = 5 * STEPS
    assert plan.lrs[0] == plan.min_lr == 0.05
    assert plan.lrs[peak] == max(plan.lrs) == plan.max_lr == 0.4
    assert plan.lrs[-1] == 0.0
    assert all(a < b for a, b in itertools.pairwise(plan.lrs[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(plan.lrs[peak:]))


def test_cosine_without_warmup_is_the_annealing_alone():
    plan = Cosine(warmup_epochs=0).plan(0.4, EPOCHS, STEPS)
    assert plan.lrs[0] == Cosine(warmup_epochs=0).first_lr(0.4) == 0.4
    assert plan.min_lr == plan.lrs[-1] == 0.0, "no LR of this schedule is max_lr / 8"
    total = EPOCHS * STEPS
    assert plan.lrs == close(applied(lambda optimizer: torchs.CosineAnnealingLR(optimizer, total - 1), total, 0.4))


def test_a_warmup_of_less_than_a_step_is_one_step():
    assert Cosine(warmup_epochs=0.001).plan(0.4, 2, 3).lrs[:2] == (0.05, 0.4)


def test_a_min_lr_that_nothing_depends_on_is_refused():
    Cosine(min_lr=0.01, warmup_epochs=0, final_lr=0.1)
    Cosine(min_lr=0.01, warmup_epochs=1, final_lr=0)
    with pytest.raises(ConfigError, match=r"scheduler\.min_lr=0\.01 would be ignored.*leave it find"):
        Cosine(min_lr=0.01, warmup_epochs=0, final_lr=0)


def test_a_warmup_as_long_as_the_run_is_refused_before_the_data_are_known():
    Cosine(warmup_epochs=23.9).check(24)
    with pytest.raises(ConfigError, match=r"warmup_epochs=24: a number from 0 to below train\.epochs=24"):
        Cosine(warmup_epochs=24).check(24)


@pytest.mark.parametrize(("warmup", "epochs"), [(4, 5), (4.9, 5), (0, 1), (0.5, 1)])
def test_a_warmup_that_leaves_no_step_is_refused_once_the_steps_are_known(warmup, epochs):
    Cosine(warmup_epochs=warmup).check(epochs)
    Cosine(warmup_epochs=warmup).check(epochs, steps_per_epoch=20)
    with pytest.raises(ConfigError, match=rf"warmup_epochs={warmup} leaves none of the run's {epochs} steps"):
        Cosine(warmup_epochs=warmup).check(epochs, steps_per_epoch=1)


# Cyclic


@pytest.mark.parametrize("mode", ["triangular", "triangular2"])
@pytest.mark.parametrize(("cycles", "half"), [(1, 1), (1, 49), (2, 7), (5, 3)])
@pytest.mark.parametrize("min_lr", ["find", 0.01])
def test_cycles_that_divide_evenly_are_torchs(mode, cycles, half, min_lr):
    steps = 2 * cycles * half + 1
    plan = Cyclic("find", min_lr, cycles, mode).plan(0.3, 1, steps)

    def make(optimizer):
        return torchs.CyclicLR(optimizer, plan.min_lr, 0.3, step_size_up=half, mode=mode, cycle_momentum=False)

    assert plan.lrs == close(applied(make, steps, 0.3))


def test_cyclic_by_hand():
    assert Cyclic(min_lr=0.1, cycles=2).plan(0.5, 9, 1).lrs == close([0.1, 0.3, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3, 0.1])
    halved = Cyclic(min_lr=0.1, cycles=2, mode="triangular2").plan(0.5, 3, 3).lrs
    assert halved == close([0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3, 0.2, 0.1])


def test_cycles_that_do_not_divide_evenly_differ_by_a_step():
    # 7 steps from the first to the last, 4 halves: of 1, 2, 2 and 2.
    assert Cyclic(min_lr=0.1, cycles=2).plan(0.5, 8, 1).lrs == close([0.1, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3, 0.1])


@pytest.mark.parametrize("cycles", [1, 3, 5, 24])
def test_a_cyclic_run_touches_both_ends_exactly_in_every_cycle(cycles):
    plan = Cyclic(cycles=cycles).plan(0.3, EPOCHS, STEPS)
    assert plan.lrs[0] == plan.lrs[-1] == min(plan.lrs) == plan.min_lr == 0.075, "a quarter, if it is not given"
    assert plan.lrs.count(max(plan.lrs)) == cycles
    assert plan.lrs.count(plan.min_lr) == cycles + 1
    turns = [i for i, lr in enumerate(plan.lrs) if lr in (plan.min_lr, 0.3)]
    halves = [b - a for a, b in itertools.pairwise(turns)]
    assert max(halves) - min(halves) <= 1, "the cycles are spread over the run"


def test_triangular2_halves_the_height_with_each_cycle():
    lrs = Cyclic(min_lr=0.1, cycles=4, mode="triangular2").plan(0.9, 1, 81).lrs
    assert lrs[10] == 0.9
    assert lrs[10::20] == close([0.9, 0.5, 0.3, 0.2])
    assert lrs[::20] == (0.1,) * 5


def test_more_cycles_than_the_steps_hold_are_refused_once_the_steps_are_known():
    Cyclic(cycles=3).check(1)
    Cyclic(cycles=3).check(1, steps_per_epoch=7)
    with pytest.raises(ConfigError, match=r"scheduler\.cycles=3 in 6 steps: a whole number from 1 to 2 is needed"):
        Cyclic(cycles=3).check(3, steps_per_epoch=2)
    with pytest.raises(ConfigError, match=r"scheduler\.cycles=1 in 2 steps: a cycle takes 3"):
        Cyclic(cycles=1).plan(0.3, 2, 1)


# Step decay and constant


@pytest.mark.parametrize("milestones", [[12, 18], [1], [23], [1, 2, 3, 20]])
@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_multistep_is_torchs_stepped_once_an_epoch(milestones, gamma):
    plan = MultiStep("find", milestones, gamma).plan(0.3, EPOCHS, 5)
    a_epoch = applied(lambda optimizer: torchs.MultiStepLR(optimizer, milestones, gamma), EPOCHS, 0.3)
    assert plan.lrs == close([lr for lr in a_epoch for _ in range(5)])
    assert plan.min_lr == plan.lrs[-1]


def test_the_lr_drops_with_the_first_step_after_a_milestone():
    lrs = MultiStep(milestones=[1, 3]).plan(1.0, 4, 2).lrs
    assert lrs == close([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("milestones", [[18, 12], [12, 12], [1, 3, 2]])
def test_milestones_that_do_not_rise_are_refused(milestones):
    shown = str(milestones).replace(" ", "")
    with pytest.raises(ConfigError) as caught:
        MultiStep(milestones=milestones)
    assert str(caught.value) == f"scheduler.milestones={shown}: epochs are needed, each above the one before"


def test_a_drop_after_the_run_is_refused_before_the_data_are_known():
    MultiStep(milestones=[4]).check(5)
    with pytest.raises(ConfigError) as caught:
        MultiStep(milestones=[4, 5]).check(5)
    assert "scheduler.milestones=[4,5]: whole numbers from 1 to below train.epochs=5" in str(caught.value)
    with pytest.raises(ConfigError, match=r"train\.epochs=6"):
        MultiStep().plan(0.3, 6, 3)


def test_a_constant_lr_is_that_everywhere():
    plan = Constant(0.1).plan(0.1, 3, 4)
    assert plan.lrs == (0.1,) * 12
    assert plan.min_lr == plan.max_lr == 0.1


# All of them

lrs = st.floats(1e-4, 10)
ratios = st.one_of(st.just("find"), st.floats(0.01, 0.99))


@st.composite
def runs(draw):
    """A scheduler with any settings, its max_lr, and a run that it may fit or not."""
    epochs, steps, max_lr = draw(st.integers(1, 12)), draw(st.integers(1, 20)), draw(lrs)
    ratio = draw(ratios)
    min_lr = "find" if ratio == "find" else max_lr * ratio
    fraction = st.floats(0, 1)
    scheduler = draw(
        st.one_of(
            st.builds(Constant),
            st.builds(Cyclic, min_lr=st.just(min_lr), cycles=st.integers(1, 30), mode=st.sampled_from(
                ["triangular", "triangular2"])),
            st.builds(Cosine, min_lr=st.just(min_lr), warmup_epochs=st.floats(0.01, 12), final_lr=fraction),
            st.builds(Cosine, warmup_epochs=st.just(0), final_lr=fraction),
            st.builds(MultiStep, gamma=st.floats(0.01, 0.99), milestones=st.sets(
                st.integers(1, 12), min_size=1, max_size=4).map(sorted)),
            # Its linear form misses the peak by a rounding, as torch's does.
            st.builds(OneCycle, min_lr=st.just(min_lr), final_lr=fraction, peak_epoch=st.integers(1, 12)),
        )
    )  # fmt: skip
    return scheduler, max_lr, epochs, steps


def fits(scheduler, epochs, steps):
    try:
        scheduler.check(epochs, steps)
    except ConfigError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(runs())
def test_what_is_admitted_is_planned_to_the_last_step(run):
    scheduler, max_lr, epochs, steps = run
    assume(fits(scheduler, epochs, steps))
    plan = scheduler.plan(max_lr, epochs, steps)
    assert len(plan.lrs) == epochs * steps
    assert all(0 <= lr <= max_lr for lr in plan.lrs)  # NaN is not
    assert max(plan.lrs) == plan.max_lr == max_lr
    assert plan.lrs[0] == pytest.approx(scheduler.first_lr(max_lr), rel=1e-12)
    assert plan.min_lr <= plan.max_lr
    assert plan == scheduler.plan(max_lr, epochs, steps), "a pure function"


@settings(max_examples=200, deadline=None)
@given(runs())
def test_what_is_refused_is_refused_by_plan_too(run):
    scheduler, max_lr, epochs, steps = run
    assume(not fits(scheduler, epochs, steps))
    with pytest.raises(ConfigError, match=r"scheduler\.\w+="):
        scheduler.plan(max_lr, epochs, steps)


@pytest.mark.parametrize(("make", "factor"), [(Constant, 1), (Cyclic, 4), (Cosine, 4), (MultiStep, 1), (OneCycle, 8)])
def test_a_max_lr_is_found_or_given(make, factor):
    assert make().max_lr is None
    assert make().find_factor is None
    assert make().measured_factor == factor, "as measured: results/README.md"
    assert make(max_lr=0.1).max_lr == 0.1
    assert make(find_factor=3).find_factor == 3.0


@pytest.mark.parametrize("make", [Cyclic, Cosine])
@pytest.mark.parametrize("min_lr", [0.1, 0.2])
def test_a_min_lr_that_is_not_below_max_lr_is_refused(make, min_lr):
    with pytest.raises(ConfigError, match=rf"scheduler\.min_lr={min_lr}: a number below max_lr=0\.1"):
        make(max_lr=0.1, min_lr=min_lr)
    make(min_lr=min_lr).plan(0.3, EPOCHS, STEPS)
    with pytest.raises(ConfigError, match=rf"scheduler\.min_lr={min_lr}: a number below max_lr=0\.1"):
        make(min_lr=min_lr).plan(0.1, EPOCHS, STEPS)


@pytest.mark.parametrize(("target", "wrong", "message"), [
    ("constant.Constant", {"max_lr": 0}, "scheduler.max_lr=0: find, or a finite number above 0"),
    ("constant.Constant", {"find_factor": 0}, "scheduler.find_factor=0: auto, or a finite number above 0"),
    ("constant.Constant", {"min_lr": 0.1}, "scheduler.min_lr is no key"),
    ("cosine.Cosine", {"warmup_epochs": -1}, "scheduler.warmup_epochs=-1: a finite number of at least 0"),
    ("cosine.Cosine", {"warmup_epochs": math.nan}, "scheduler.warmup_epochs=nan"),
    ("cosine.Cosine", {"final_lr": 1.5}, "scheduler.final_lr=1.5: a finite number from 0 to 1"),
    ("cosine.Cosine", {"min_lr": 0}, "scheduler.min_lr=0: find, or a finite number above 0"),
    ("cyclic.Cyclic", {"cycles": 0}, "scheduler.cycles=0: a whole number of at least 1"),
    ("cyclic.Cyclic", {"cycles": 1.5}, "scheduler.cycles=1.5"),
    ("cyclic.Cyclic", {"mode": "exp_range"}, "scheduler.mode=exp_range: one of triangular, triangular2"),
    ("multistep.MultiStep", {"milestones": []}, "scheduler.milestones=[]: a list of 1 or more"),
    ("multistep.MultiStep", {"milestones": [0, 3]}, "scheduler.milestones=[0,3]: a list of 1 or more, each a whole"),
    ("multistep.MultiStep", {"milestones": 12}, "scheduler.milestones=12"),
    ("multistep.MultiStep", {"gamma": 1}, "scheduler.gamma=1: a finite number above 0 to below 1"),
    ("multistep.MultiStep", {"gamma": 0}, "scheduler.gamma=0"),
    ("onecycle.OneCycle", {"find_factor": math.inf}, "scheduler.find_factor=inf"),
])  # fmt: skip
def test_a_wrong_setting_is_named_when_it_is_given(target, wrong, message, refused):
    assert message in refused("scheduler", f"schedulers.{target}", **wrong)
