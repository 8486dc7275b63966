"""OneCycle: torch's schedule to every digit, and what a learner really applies."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import nn

from resnet_exp.data.bank import Batch
from resnet_exp.interfaces import ConfigError
from resnet_exp.schedulers.onecycle import OneCycle

STEPS, EPOCHS = 98, 24  # of the references: 50,000 images, 512 a batch, the last and smaller one kept


def torchs(max_lr, total, pct_start, div, final_div, anneal, steps, **momentum):
    """What torch's scheduler sets for steps 0 .. steps-1: LRs and momenta."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, total_steps=total, pct_start=pct_start, div_factor=div, final_div_factor=final_div,
        anneal_strategy=anneal, **momentum,
    )  # fmt: skip
    lrs, momenta = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came first
        for _ in range(steps):
            lrs.append(optimizer.param_groups[0]["lr"])
            momenta.append(optimizer.param_groups[0]["momentum"])
            if len(lrs) < steps:
                scheduler.step()
    return lrs, momenta


GRID = list(itertools.product([(5, 24, 98), (1, 3, 7), (3, 3, 20), (1, 1, 2)], ["cos", "linear"], [1e-4, 0.5, 1.0]))


@pytest.mark.parametrize(("size", "anneal", "final_lr"), GRID)
@pytest.mark.parametrize("min_lr", ["find", 0.001])
def test_every_step_is_torchs(size, anneal, final_lr, min_lr):
    peak_epoch, epochs, steps = size
    plan = OneCycle("find", min_lr, final_lr, peak_epoch, anneal, cycle_momentum=True).plan(0.3, epochs, steps)
    total, div = epochs * steps, 0.3 / plan.min_lr
    if peak_epoch == epochs:  # torch divides by zero where the peak is the last step: ours is the whole rise, alone
        total += 1
    expected = torchs(0.3, total, peak_epoch * steps / total, div, 1 / final_lr, anneal, epochs * steps)
    # A float of n * pct_start may miss the whole step by a rounding.
    assert plan.lrs == pytest.approx(expected[0], rel=1e-12)
    assert plan.momenta == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("div", [8, 10, 25])
def test_the_log_of_resnet18_onecycle_is_met_whatever_its_div_factor(div):
    """Only div_factor * final_div_factor = 1000 shows in what was printed."""
    plan = OneCycle(0.3, 0.3 / div, div / 1000, 6, "linear").plan(0.3, EPOCHS, STEPS)
    assert plan.lrs[2254] == pytest.approx(0.01678010204081637, rel=1e-12)
    past_the_end = torchs(0.3, STEPS * EPOCHS, 0.25, div, 1000 / div, "linear", STEPS * EPOCHS + 1)[0][-1]
    assert past_the_end == pytest.approx(0.0001301020408163156, rel=1e-9)
    assert len(plan.lrs) == 2352
    assert min(plan.lrs) == plan.lrs[-1] == pytest.approx(0.0003, rel=1e-12)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("peak_epoch", [1, 5, 24])
def test_the_peak_is_the_last_step_of_its_epoch(anneal, peak_epoch):
    plan = OneCycle("find", "find", 1e-4, peak_epoch, anneal).plan(0.4, EPOCHS, STEPS)
    peak = STEPS * peak_epoch - 1
    assert plan.lrs[peak] == max(plan.lrs) == plan.max_lr == 0.4
    assert plan.lrs[0] == pytest.approx(plan.min_lr, rel=1e-14) == 0.05
    assert all(a < b for a, b in itertools.pairwise(plan.lrs[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(plan.lrs[peak:]))


def test_final_lr_1_is_no_annihilation():
    plan = OneCycle("find", 0.05, 1.0, 5).plan(0.4, EPOCHS, STEPS)
    assert plan.lrs[-1] == pytest.approx(0.05, rel=1e-12)
    assert min(plan.lrs) >= plan.min_lr * (1 - 1e-12)


def test_final_lr_0_ends_at_nothing():
    assert OneCycle(final_lr=0.0).plan(0.4, EPOCHS, STEPS).lrs[-1] == 0.0


def test_momentum_stands_still_unless_asked_to_cycle():
    assert OneCycle().plan(0.4, EPOCHS, STEPS).momenta is None
    momenta = OneCycle(cycle_momentum=True).plan(0.4, EPOCHS, STEPS).momenta
    assert (momenta[0], momenta[STEPS * 5 - 1], momenta[-1]) == (0.95, 0.85, pytest.approx(0.95, rel=1e-12))


@pytest.mark.parametrize(("wrong", "message"), [
    ({"max_lr": 0}, "scheduler.max_lr=0: find, or a finite number above 0"),
    ({"max_lr": -0.1}, "scheduler.max_lr=-0.1"),
    ({"max_lr": math.nan}, "scheduler.max_lr=nan"),
    ({"max_lr": math.inf}, "scheduler.max_lr=inf"),
    ({"max_lr": "found"}, "scheduler.max_lr=found"),
    ({"max_lr": True}, "scheduler.max_lr=true"),
    ({"max_lr": None}, "scheduler.max_lr=null"),
    ({"min_lr": 0.0}, "scheduler.min_lr=0.0"),
    ({"final_lr": -0.1}, "scheduler.final_lr=-0.1: a finite number from 0 to 1"),
    ({"final_lr": 1.1}, "scheduler.final_lr=1.1"),
    ({"final_lr": math.nan}, "scheduler.final_lr=nan"),
    ({"final_lr": "1e-4"}, "scheduler.final_lr=1e-4"),
    ({"peak_epoch": 0}, "scheduler.peak_epoch=0: a whole number of at least 1"),
    ({"peak_epoch": 2.5}, "scheduler.peak_epoch=2.5"),
    ({"peak_epoch": True}, "scheduler.peak_epoch=true"),
    ({"anneal": "cosine"}, "scheduler.anneal=cosine: one of cos, linear"),
    ({"cycle_momentum": "yes"}, "scheduler.cycle_momentum=yes: true or false"),
])  # fmt: skip
def test_a_wrong_setting_is_named_when_it_is_given(wrong, message, refused):
    assert message in refused("scheduler", "schedulers.onecycle.OneCycle", **wrong)


@pytest.mark.parametrize("min_lr", [0.1, 0.2])
def test_a_min_lr_that_is_not_below_max_lr_is_refused(min_lr):
    with pytest.raises(ConfigError, match=rf"scheduler\.min_lr={min_lr}: a number below max_lr=0\.1"):
        OneCycle(max_lr=0.1, min_lr=min_lr)


def test_a_peak_after_the_end_is_refused_before_the_data_are_known():
    OneCycle(peak_epoch=24).check(24)
    with pytest.raises(ConfigError, match=r"scheduler\.peak_epoch=25: a whole number from 1 to train\.epochs=24"):
        OneCycle(peak_epoch=25).check(24)


def test_a_rise_of_a_single_step_is_refused_once_the_steps_are_known():
    OneCycle(peak_epoch=1).check(24)
    OneCycle(peak_epoch=2).check(24, steps_per_epoch=1)
    with pytest.raises(ConfigError, match=r"peak_epoch=1 comes after a single step \(1 an epoch\)"):
        OneCycle(peak_epoch=1).check(24, steps_per_epoch=1)


def test_a_found_max_lr_below_the_given_min_lr_is_refused():
    with pytest.raises(ConfigError, match=r"scheduler\.min_lr=0\.1: a number below max_lr=0\.05"):
        OneCycle("find", 0.1).plan(0.05, EPOCHS, STEPS)


def test_the_learner_applies_the_plan_at_every_one_of_2352_steps(tiny_learner):
    plan = OneCycle().plan(0.0373, EPOCHS, STEPS)
    learner = tiny_learner(plan, model=nn.Linear(1, 2, bias=False))
    (group,) = learner.optimizer.param_groups
    applied = []
    learner.optimizer.register_step_pre_hook(lambda *_: applied.append(group["lr"].item()))
    batch = Batch(torch.ones(1, 1), torch.tensor([0]))
    for epoch in range(EPOCHS):
        learner.train([batch] * STEPS, epoch * STEPS, lambda n=1: None)
    assert tuple(applied) == plan.lrs
