"""The range test stage: sweeps that repeat bit for bit, are made again where that helps, and leave no trace behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.config.schema import RangeTestConfig
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, endless, shuffled
from resnet_exp.interfaces import Schedule
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.device import untouched_randomness
from resnet_exp.training.learner import NonFinite, Steps
from resnet_exp.training.lr_range import RangeTest, range_test
from tests.stopping import Keeping, Stopped

SETTINGS = RangeTestConfig(start_lr=1e-5, end_lr=10.0, num_steps=60, repeats=2)


@contextlib.contextmanager
def silent(description, total):
    yield lambda n=1: None


class Counted:
    """A progress that remembers what it was told."""

    def __init__(self):
        self.totals, self.advanced = [], []

    @contextlib.contextmanager
    def __call__(self, description, total):
        self.totals.append(total)
        self.advanced.append(0)

        def advance(n=1):
            self.advanced[-1] += n

        yield advance


@pytest.fixture
def real(tiny_learner, bank):
    """The range test of the tiny network on the learnable images."""

    def go(settings=SETTINGS, make=tiny_learner, progress=silent, **saving):
        def batches(repeat, first):
            return endless(
                bank, CropFlipCutout(cutout=4), 16, randomness.mix(0, randomness.RANGE_TEST, repeat), first=first
            )

        return range_test(make, batches, settings, 4, progress, **saving)

    return go


def test_on_images_that_can_be_learnt_it_finds_an_lr_that_learns_them(real, tiny_learner, bank):
    found = real()
    assert found.verdict.status in ("ok", "low_confidence")
    assert 1e-3 < found.verdict.suggestion < 3
    assert len(found.curves) == 2
    for curve in found.curves:
        assert curve.lrs[0] == 1e-5
        assert curve.lrs[59] == pytest.approx(10.0, rel=1e-12)
        ratios = np.diff(np.log(curve.lrs))
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
    assert found.curves[0].losses != found.curves[1].losses  # other images
    schedule = OneCycle(peak_epoch=2).plan(found.verdict.suggestion, 8, 3)
    learner = tiny_learner(schedule)
    for epoch in range(8):
        steps = learner.train(shuffled(bank, CropFlipCutout(cutout=4), 16, 0, epoch), 3 * epoch, lambda n=1: None)
    assert steps.accuracy() > 0.9


def test_two_range_tests_are_one_bit_for_bit(real):
    first = real()
    torch.manual_seed(99)
    assert real() == first


def test_it_goes_through_json_as_it_is(real):
    found = real()
    assert RangeTest.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_no_random_generator_and_no_other_network_notices(real):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    bystander = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=2)
    before = {name: value.clone() for name, value in bystander.state_dict().items()}

    def drawn():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    def careless(*arguments):
        random.random()
        np.random.rand()
        return real()

    start = drawn()
    with untouched_randomness():
        careless()
        assert all(now != then for now, then in zip(drawn(), start, strict=True))  # it does draw
    assert drawn() == start
    assert bystander.training
    for name, value in bystander.state_dict().items():
        assert torch.equal(before[name], value)


def test_randomness_is_put_back_also_when_the_range_test_breaks():
    start = torch.get_rng_state(), random.getstate()
    with contextlib.suppress(ZeroDivisionError), untouched_randomness():
        assert torch.rand(1) + random.random() + np.random.rand() > 0
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), start[0])
    assert random.getstate() == start[1]


def test_training_after_it_is_training_without_it_bit_for_bit(real, tiny_learner, bank):
    """The same LRs, once after a range test in the same process, once alone; with layers that draw."""

    def make(schedule):
        torch.manual_seed(randomness.mix(0, randomness.INIT))
        network = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
        return tiny_learner(schedule, model=nn.Sequential(nn.Dropout(0.1), network))

    def training():
        learner = make(OneCycle(peak_epoch=1).plan(0.05, 3, 3))
        losses = [
            learner.train(shuffled(bank, CropFlipCutout(), 16, 0, epoch), 3 * epoch, lambda n=1: None).losses
            for epoch in range(3)
        ]
        return torch.cat(losses).tolist(), learner.model.state_dict()

    with untouched_randomness():
        real(make=make)
    after, weights_after = training()
    torch.manual_seed(1234)
    alone, weights_alone = training()
    assert after == alone
    assert all(torch.equal(weights_after[name], value) for name, value in weights_alone.items())


def test_a_sweep_that_overflows_ends_with_nan_and_the_others_go_on(tiny_learner):
    """A linear network on overlapping classes; one batch of the first repeat is too large for float32."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (64,), generator=generator)
    images = 3 * (torch.eye(4)[labels] + torch.randn(64, 4, generator=generator))

    def batches(repeat, first):
        for step in itertools.count(first):
            yield Batch(images * (1e38 if (repeat, step) == (0, 47) else 1.0), labels)

    def make(schedule):
        torch.manual_seed(0)
        return tiny_learner(schedule, model=nn.Linear(4, 4))

    progress = Counted()
    found = range_test(make, batches, SETTINGS, 4, progress)
    broken, sound = (curve.losses for curve in found.curves)
    assert len(broken) == 48
    assert math.isnan(broken[-1])
    assert all(map(math.isfinite, broken[:-1]))
    assert broken[:47] == sound[:47]
    assert len(sound) == 60
    assert progress.advanced == progress.totals == [120]
    assert found.verdict.suggestion is not None
    assert "NaN" not in json.dumps(found.to_json())
    again = RangeTest.from_json(found.to_json())
    assert math.isnan(again.curves[0].losses[-1])
    assert again.verdict == found.verdict


@pytest.mark.parametrize("patience", [6, 10])
def test_one_that_is_stopped_again_and_again_goes_on_to_the_same_curves(real, patience):
    """Within a chunk and at its end, within a repeat and at its end, where it diverges and where it is made again."""
    settings = RangeTestConfig(start_lr=1e-4, end_lr=1e6, num_steps=34, repeats=2)
    straight, keeping, stopped = real(settings), Keeping(patience), None
    while stopped is None:
        keeping.steps = 0
        try:
            stopped = real(settings, keeping=keeping, saved=keeping.saved)
        except Stopped:
            assert len(keeping.places) < 100
    assert stopped == straight and stopped.history
    assert len(keeping.places) > 5
    assert keeping.places == sorted(set(keeping.places))


def test_one_that_was_killed_goes_on_from_what_was_saved(real, tiny_learner):
    straight, learners, keeping = real(), [], Keeping(75)  # steps: in the second repeat
    with pytest.raises(Stopped):
        real(keeping=keeping)

    def make(schedule):
        learners.append(tiny_learner(schedule))
        return learners[-1]

    assert real(make=make, saved=keeping.saved) == straight
    assert len(learners) == 1


class Scripted:
    """A learner whose loss is a function of the LR; it breaks where that is not finite, and skips steps like fp16."""

    def __init__(self, schedule: Schedule, loss, skipped=()):
        self.lrs, self.loss, self.skipped, self.broken = schedule.lrs, loss, skipped, None
        self.updates = 0

    def train(self, batches, first_step, advance, should_stop):
        losses, lrs = [], []
        for step, _ in enumerate(batches, first_step):
            lrs.append(self.lrs[self.updates])
            losses.append(self.loss(lrs[-1]))
            if self.broken is None and not math.isfinite(losses[-1]):
                self.broken = step
            self.updates += step not in self.skipped
        losses, lrs = (torch.tensor(values, dtype=torch.float64) for values in (losses, lrs))
        return Steps(losses, lrs, (0.9,) * len(losses), (1,) * len(losses), torch.tensor(0))

    def check(self):
        if self.broken is not None:
            raise NonFinite(self.broken, "loss")


def scripted(loss, settings=SETTINGS, skipped=()):
    """The range test over such learners, the first and the last LR of each sweep, and its progress."""
    sweeps, progress = [], Counted()

    def make(schedule):
        sweeps.append((schedule.lrs[0], schedule.lrs[-1], len(schedule.lrs)))
        return Scripted(schedule, loss, skipped)

    found = range_test(make, lambda repeat, first: itertools.count(first), settings, 10, progress)
    assert progress.advanced == progress.totals  # it ends full, however the sweeps ended
    return found, sweeps


def valley(bottom, wall=1.5):
    """A loss of 2.5 that falls to 1 around LR 10^bottom and rises steeply from `wall` decades on."""

    def loss(lr):
        x = math.log10(lr) - bottom
        return 2.5 - 1.5 * math.exp(-0.5 * x**2) + 20 * max(0.0, x - wall) ** 2

    return loss


def close(sweeps):
    return [(pytest.approx(first), pytest.approx(last), steps) for first, last, steps in sweeps]


def test_a_valley_within_the_sweep_is_read_from_one_sweep_a_repeat():
    found, sweeps = scripted(valley(-1.0))
    assert found.verdict.status == "ok"
    assert math.log10(found.verdict.suggestion) == pytest.approx(-1.0, abs=0.1)
    assert sweeps == close([(1e-5, 10.0, 60)] * 2)
    assert found.history == ()


def test_steps_that_fp16_skips_do_not_shift_the_curve():
    whole, _ = scripted(valley(-1.0))
    found, _ = scripted(valley(-1.0), skipped=(0, 1, 2, 30))
    for curve, expected in zip(found.curves, whole.curves, strict=True):
        assert curve.losses == pytest.approx(expected.losses[:56])  # the four last LRs are not reached
    assert found.verdict.suggestion == pytest.approx(whole.verdict.suggestion, rel=0.01)


def test_a_sweep_that_diverges_at_once_is_made_again_from_a_hundredth_at_the_same_density():
    found, sweeps = scripted(valley(-5.5, wall=0.5))
    # 59 intervals for 6 decades: 79 for 8.
    assert sweeps == close([(1e-5, 10.0, 60)] * 2 + [(1e-7, 10.0, 80)] * 2)
    assert found.verdict.suggestion is not None
    assert math.log10(found.verdict.suggestion) == pytest.approx(-5.5, abs=0.2)
    assert found.history == ("diverged at once from LR 1e-05: again from 1e-07",)


def test_one_that_diverges_from_a_hundredth_too_has_failed():
    found, sweeps = scripted(lambda lr: min(2.5 * (lr / 1e-9), 1e30))
    assert len(sweeps) == 4
    assert found.verdict.status == "failed"
    assert found.verdict.suggestion is None
    assert all(len(curve.losses) < len(curve.lrs) for curve in found.curves)  # stopped, not swept to LR 10


def test_a_loss_that_still_falls_at_the_end_is_followed_ten_times_further():
    found, sweeps = scripted(valley(1.5))
    assert sweeps == close([(1e-5, 10.0, 60)] * 2 + [(1e-5, 100.0, 70)] * 2)
    assert found.verdict.status == "ok"
    assert math.log10(found.verdict.suggestion) == pytest.approx(1.5, abs=0.1)
    assert found.history == ("the loss still fell at LR 10: again up to 100",)


def test_a_loss_that_falls_for_ever_ends_in_doubt():
    found, sweeps = scripted(lambda lr: 2.0 - 0.2 * math.log10(lr))
    assert [last for _, last, _ in sweeps] == pytest.approx([10.0, 10.0, 100.0, 100.0])
    assert found.verdict.status == "low_confidence"
    assert "still falls" in found.verdict.reason or "end" in found.verdict.reason


def test_a_diverged_sweep_is_not_carried_on_to_the_end():
    found, _ = scripted(valley(-3.0, wall=1.0))
    for curve in found.curves:
        assert len(curve.lrs) == 60
        assert len(curve.losses) < 60
        assert len(curve.losses) % 10 == 0
        assert min(curve.losses[-10:]) > 4 * min(curve.losses)
    assert found.verdict.status in ("ok", "low_confidence")
    assert math.log10(found.verdict.suggestion) == pytest.approx(-3.0, abs=0.2)


def test_every_repeat_sees_batches_of_its_own():
    asked = []

    def batches(repeat, first):
        asked.append(repeat)
        return itertools.count()

    settings = RangeTestConfig(start_lr=1e-5, end_lr=10.0, num_steps=60, repeats=3)
    range_test(lambda schedule: Scripted(schedule, valley(-1.0)), batches, settings, 10, silent)
    assert asked == [0, 1, 2]
