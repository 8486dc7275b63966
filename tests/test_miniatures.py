"""Miniature runs: which are made, what they suggest, and that one that is stopped goes on to the same suggestion."""

from __future__ import annotations

import contextlib
import itertools
import json
import math

import pytest
import torch

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.config.schema import MiniaturesConfig
from resnet_exp.data import randomness
from resnet_exp.data.bank import endless, shuffled
from resnet_exp.interfaces import Schedule
from resnet_exp.report.parts.lr_range import range_test_section
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.learner import NonFinite, Steps
from resnet_exp.training.lr_range import RangeTest, range_test
from resnet_exp.training.miniatures import one_cycle
from tests.stopping import Keeping, Stopped

SETTINGS = MiniaturesConfig(first_lr=0.02, num_steps=20)
CLASSES = 10


class Progress:
    """Remembers how far each display was advanced, and how far it should have been."""

    def __init__(self):
        self.ends = []

    @contextlib.contextmanager
    def __call__(self, description, total, done=0):
        at = [0]
        yield lambda n=1: at.__setitem__(0, at[0] + n)
        self.ends.append((at[0], total))


class Scripted:
    """A learner whose last losses are a function of its peak; at an infinite one it breaks in the middle."""

    def __init__(self, schedule: Schedule, end):
        self.lrs, self.end, self.is_broken = schedule.lrs, end(schedule.max_lr, len(schedule.lrs)), False

    def train(self, batches, first_step, advance, should_stop):
        steps = [step for step, _ in enumerate(batches, first_step)]
        losses = torch.full((len(steps),), self.end if math.isfinite(self.end) else 2.0, dtype=torch.float64)
        self.is_broken = math.isinf(self.end) and steps[-1] >= len(self.lrs) // 2
        lrs = torch.tensor([self.lrs[step] for step in steps], dtype=torch.float64)
        return Steps(losses, lrs, (0.9,) * len(steps), (1,) * len(steps), torch.tensor(0))

    def check(self):
        if self.is_broken:
            raise NonFinite(len(self.lrs) // 2, "loss")


def scripted(end, settings=SETTINGS):
    """What miniatures find whose last losses are `end(max_lr, steps)`, and their peaks and steps in order."""
    made, progress = [], Progress()

    def make(schedule):
        made.append((pytest.approx(schedule.max_lr), len(schedule.lrs)))
        return Scripted(schedule, end)

    found = range_test(make, lambda repeat, first: itertools.count(first), settings, CLASSES, progress)
    assert all(at == total for at, total in progress.ends)
    return found, made


def valley(best, depth=1.0):
    """A loss that is least at one max_lr, a parabola in its logarithm."""
    return lambda max_lr, steps: 2.0 - depth + 0.2 * math.log(max_lr / best) ** 2


@pytest.fixture
def real(tiny_learner, bank):
    """Miniatures of the tiny network on images that can be learnt."""

    def go(settings=SETTINGS, make=tiny_learner, **saving):
        def batches(repeat, first):
            seed = randomness.mix(0, randomness.RANGE_TEST, repeat)
            return endless(bank, CropFlipCutout(cutout=4), 16, seed, first=first)

        return range_test(make, batches, settings, 4, Progress(), **saving)

    return go


@pytest.mark.parametrize("best", [0.0003, 0.004, 0.013, 0.02, 0.031, 0.2, 3.0])
def test_where_the_loss_is_a_parabola_its_least_place_is_suggested(best):
    found, made = scripted(valley(best))
    assert found.verdict.status == "ok"
    assert found.verdict.suggestion == pytest.approx(best, rel=1e-6)
    assert len(made) <= 3 + abs(round(math.log(best / 0.02, 2.5)))


def test_neighbours_of_the_best_one_are_made_until_it_is_between_two_worse_ones():
    assert scripted(valley(0.02))[1] == [(0.02, 20), (0.05, 20), (0.008, 20)]
    assert scripted(valley(0.11))[1] == [(0.02, 20), (0.05, 20), (0.125, 20), (0.3125, 20)]
    assert scripted(valley(0.004))[1] == [(0.02, 20), (0.05, 20), (0.008, 20), (0.0032, 20), (0.00128, 20)]


def test_a_run_that_is_lost_is_worse_than_any():
    found, _ = scripted(lambda max_lr, steps: math.inf if max_lr > 0.004 else valley(0.002)(max_lr, steps))
    assert found.verdict.status == "ok"
    assert 0.001 < found.verdict.suggestion < 0.004
    assert [len(one.losses) for one in found.miniatures if one.max_lr > 0.004] == [10] * 3


def test_where_all_are_lost_it_has_failed_and_says_down_to_which_lr():
    found, _ = scripted(lambda max_lr, steps: math.inf)
    assert (found.verdict.status, found.verdict.suggestion) == ("failed", None)
    assert "was lost, down to a max_lr of" in found.verdict.reason
    assert found.miniatures[0].max_lr < 1e-3


def test_a_loss_that_falls_for_ever_ends_in_doubt():
    found, made = scripted(lambda max_lr, steps: 1.0 / max_lr**0.01)
    assert (found.verdict.status, len(made)) == ("low_confidence", 8)
    assert "still falls" in found.verdict.reason


def test_where_none_beats_guessing_they_are_made_longer():
    """A network may need more steps before its loss moves at all."""

    def late(max_lr, steps):
        return math.log(CLASSES) - 0.001 if steps < 80 else valley(0.05)(max_lr, steps)

    found, made = scripted(late)
    assert (found.verdict.status, found.verdict.suggestion) == ("ok", pytest.approx(0.05))
    assert [steps for _, steps in made] == sorted(steps for _, steps in made)
    assert [line.rpartition("again with ")[2] for line in found.history] == ["40", "80"]
    assert all(one.steps == 80 for one in found.miniatures)


def test_where_none_ever_beats_guessing_it_has_failed():
    found, _ = scripted(lambda max_lr, steps: math.log(CLASSES))
    assert (found.verdict.status, found.verdict.suggestion) == ("failed", None)
    assert "no run of 80 steps beats guessing, ln 10" in found.verdict.reason


def test_a_miniature_is_a_complete_one_cycle():
    lrs = one_cycle(0.8, 40)
    assert len(lrs) == 40
    assert (lrs[0], max(lrs), lrs[11]) == (pytest.approx(0.1), pytest.approx(0.8), pytest.approx(0.8))
    assert 0 < lrs[-1] < 0.03
    assert all(a < b for a, b in itertools.pairwise(lrs[:12])) and all(a > b for a, b in itertools.pairwise(lrs[11:]))
    assert min(one_cycle(1.0, 10)) > 0


def test_on_images_that_can_be_learnt_it_finds_an_lr_that_learns_them(real, tiny_learner, bank):
    found = real()
    assert found.verdict.status in ("ok", "low_confidence")
    learner = tiny_learner(OneCycle(peak_epoch=2).plan(found.verdict.suggestion, 8, 3))
    for epoch in range(8):
        steps = learner.train(shuffled(bank, CropFlipCutout(cutout=4), 16, 0, epoch), 3 * epoch, lambda n=1: None)
    assert steps.accuracy() > 0.9
    assert real() == found  # bit for bit
    assert RangeTest.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@pytest.mark.parametrize("patience", [7, 10])
def test_one_that_is_stopped_again_and_again_goes_on_to_the_same_suggestion(real, patience):
    straight, keeping, stopped = real(), Keeping(patience), None
    while stopped is None:
        keeping.steps = 0
        try:
            stopped = real(keeping=keeping, saved=keeping.saved)
        except Stopped:
            assert len(keeping.places) < 100
    assert stopped == straight
    assert len(keeping.places) > 4
    assert keeping.places == sorted(set(keeping.places))


@pytest.mark.parametrize(
    "end",
    [
        valley(0.03),
        lambda max_lr, steps: math.inf,
        lambda max_lr, steps: math.inf if max_lr > 0.02 else valley(0.005)(max_lr, steps),
        lambda max_lr, steps: 1e30 * max_lr,
        lambda max_lr, steps: math.log(CLASSES),
    ],
)
def test_every_verdict_has_a_figure_that_says_it(end, tmp_path):
    found, _ = scripted(end)
    suggestion = found.verdict.suggestion
    section = range_test_section(found, suggestion and 2 * suggestion, suggestion and suggestion / 4, tmp_path)
    (figure,) = section.figures
    assert figure.image.exists() and (tmp_path / "range_test.png").stat().st_size > 10_000
    assert found.verdict.reason in figure.alt
    columns = (tmp_path / "range_test.csv").read_text().splitlines()
    assert columns[0].count("loss_at_") == len(found.miniatures)
    assert len(columns) == 1 + found.miniatures[0].steps
