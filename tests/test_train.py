"""The training stage: interrupted anywhere it ends as if it never had been, and with the weights that were chosen."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data.bank import Batch, in_order, shuffled
from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.evaluate import Evaluation, evaluate
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import NonFinite, infer
from resnet_exp.training.train import LOOP_METRICS, Epoch, resume, train

EPOCHS, STEPS = 5, 3
SCHEDULE = OneCycle(peak_epoch=2).plan(0.05, EPOCHS, STEPS)


RUN = "0123456789ab"


class Interrupted(KeyboardInterrupt):
    pass


def stop():
    raise Interrupted


def weights(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_times(training):
    """All that must not depend on the machine's mood."""
    history = tuple(
        Epoch(epoch.epoch, {name: value for name, value in epoch.metrics.items() if not name.startswith("perf/")})
        for epoch in training.history
    )
    return replace(training, history=history)


@pytest.fixture
def start(tiny_learner, bank, cpu, tmp_path):
    """Trains a fresh learner for 5 epochs of 3 steps, with checkpoints in a folder of that name; goes on there."""

    def go(
        name="run",
        *,
        batches=None,
        measure="images",
        validation="holdout",
        on_epoch=lambda epoch, best: None,
        checkpoint_interval=0.0,
        before_save=lambda: None,
        should_stop=lambda: False,
        ema=None,
    ):
        learner = tiny_learner(SCHEDULE, ema=ema)
        checkpoints = Checkpoints(tmp_path / name, RUN)
        training = train(
            learner,
            resume(learner, checkpoints),
            batches or (lambda epoch, first: shuffled(bank, CropFlipCutout(cutout=4), 16, 0, epoch, first=first)),
            (lambda model: evaluate(*infer(model, in_order(bank, 16), cpu))) if measure == "images" else measure,
            steps_per_epoch=STEPS,
            epochs=EPOCHS,
            validation=VALIDATION[validation],
            keeping=Keeping(checkpoints, checkpoint_interval, before_save, should_stop, stop),
            advance=lambda n=1: None,
            on_epoch=on_epoch,
        )
        return learner, training

    return go


def scripted(accuracies, losses=None):
    """A measurement with these results, and the weights that it was shown."""
    shown = []

    def measure(model):
        shown.append({name: value.clone() for name, value in model.state_dict().items()})
        epoch = len(shown) - 1
        correct = round(100 * accuracies[epoch])
        metrics = {"loss": (losses or [1.0] * EPOCHS)[epoch], "accuracy": correct / 100}
        return Evaluation(metrics, ((correct, 100 - correct), (0, 0)))

    return measure, shown


@pytest.mark.parametrize("validation", ["holdout", "test"])
@pytest.mark.parametrize("after", range(1, EPOCHS + 1))
def test_interrupted_after_any_epoch_and_resumed_it_ends_as_if_never_interrupted(start, after, validation):
    def interrupt(epoch, best):
        if epoch.epoch == after:
            raise Interrupted

    whole, expected = start("whole", validation=validation)
    with pytest.raises(Interrupted):
        start("broken", validation=validation, on_epoch=interrupt)
    reported = []
    resumed, found = start("broken", validation=validation, on_epoch=lambda epoch, best: reported.append(epoch.epoch))
    # The epoch that was being reported was not saved yet: it is trained and reported again.
    assert reported == list(range(after, EPOCHS + 1))
    assert without_times(found) == without_times(expected)
    assert equal(weights(resumed), weights(whole))


# Stopped within an epoch


def everything(value):
    """A state as plain values, for comparison."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {key: everything(item) for key, item in value.items()}
    return [everything(item) for item in value] if isinstance(value, list | tuple) else value


class Stop:
    """Asks to stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def batches(self, batches):
        def counted(epoch, first):
            for batch in batches(epoch, first):
                self.left -= 1  # the step of this batch follows
                yield batch

        return counted

    def __call__(self):
        return self.left <= 0


@pytest.fixture
def batches(bank):
    return lambda epoch, first: shuffled(bank, CropFlipCutout(cutout=4), 16, 0, epoch, first=first)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13, 15])
def test_stopped_after_any_step_it_is_saved_there_and_ends_as_if_never_stopped(start, batches, tmp_path, steps):
    whole, expected = start("whole")
    asked = Stop(steps)
    with pytest.raises(Interrupted):
        start("broken", batches=asked.batches(batches), should_stop=asked, checkpoint_interval=3600.0)
    checkpoint = Checkpoints(tmp_path / "broken", RUN).latest(torch.device("cpu"))
    assert (checkpoint.epoch, checkpoint.step) == ((steps - 1) // STEPS, steps)
    redone = Stop(EPOCHS * STEPS)
    resumed, found = start("broken", batches=redone.batches(batches))
    assert EPOCHS * STEPS - redone.left == EPOCHS * STEPS - steps, "no batch is computed again"
    assert without_times(found) == without_times(expected)
    assert torch.equal(found.steps, expected.steps)
    assert everything(resumed.state_dict()) == everything(whole.state_dict())


@pytest.mark.parametrize("seed", range(2))
def test_stopped_again_and_again_within_epochs_it_still_ends_the_same(start, batches, seed):
    whole, expected = start("whole")
    steps = random.Random(seed)
    for _ in range(6):
        asked = Stop(steps.randrange(1, 4))
        with contextlib.suppress(Interrupted):
            start("broken", batches=asked.batches(batches), should_stop=asked)
    resumed, found = start("broken")
    assert without_times(found) == without_times(expected)
    assert torch.equal(found.steps, expected.steps)
    assert everything(resumed.state_dict()) == everything(whole.state_dict())


@pytest.mark.parametrize("epoch", [1, 3, EPOCHS])
def test_stopped_while_an_epoch_is_measured_it_is_measured_anew_and_not_trained(start, bank, cpu, tmp_path, epoch):
    def measure(model):
        measured = evaluate(*infer(model, in_order(bank, 16), cpu))
        if next(calls) == epoch:
            raise Interrupted
        return measured

    whole, expected = start("whole")
    calls = itertools.count(1)
    with pytest.raises(Interrupted):
        start("broken", measure=measure, checkpoint_interval=3600.0)
    checkpoint = Checkpoints(tmp_path / "broken", RUN).latest(torch.device("cpu"))
    assert (checkpoint.epoch, checkpoint.step) == (epoch - 1, epoch * STEPS)
    firsts = []
    resumed, found = start(
        "broken",
        batches=lambda *place: firsts.append(place) or shuffled(bank, CropFlipCutout(cutout=4), 16, 0, place[0]),
    )
    assert firsts == [(later, 0) for later in range(epoch + 1, EPOCHS + 1)] or firsts[0] == (epoch, STEPS)
    assert without_times(found) == without_times(expected)
    assert equal(weights(resumed), weights(whole))


def test_asked_to_stop_while_an_epoch_is_measured_it_stops_after_the_epoch(start, tmp_path):
    measured = []
    measure, _ = scripted([0.3, 0.6, 0.5, 0.6, 0.4])
    reported = []
    with pytest.raises(Interrupted):
        start(
            measure=lambda model: measured.append(1) or measure(model),
            should_stop=lambda: len(measured) == 2,
            checkpoint_interval=3600.0,
            on_epoch=lambda epoch, best: reported.append(epoch.epoch),
        )
    assert reported == [1, 2]
    assert Checkpoints(tmp_path / "run", RUN).latest_epoch() == 2


def test_the_interval_counts_within_epochs_too(start, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, epoch, step, state: saved.append((epoch, step)) or True)
    ticks = itertools.count()  # a second each time that the clock is read: by each step, at least
    monkeypatch.setattr("resnet_exp.training.keeping.time.monotonic", lambda: float(next(ticks)))
    start(checkpoint_interval=2.0)
    assert len(saved) > EPOCHS
    assert any(step % STEPS for _, step in saved)
    assert saved == sorted(set(saved))
    assert saved[-1] == (EPOCHS, EPOCHS * STEPS)


def test_before_each_checkpoint_what_is_recorded_elsewhere_is_made_durable(start, monkeypatch):
    happened = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, epoch, step, state: happened.append("saved") or True)
    start(before_save=lambda: happened.append("flushed"))
    assert happened == ["flushed", "saved"] * EPOCHS


def test_the_seconds_of_an_epoch_are_those_of_all_its_sittings(start, batches, tmp_path):
    asked = Stop(2)
    with pytest.raises(Interrupted):
        start(batches=asked.batches(batches), should_stop=asked)
    path = tmp_path / "run"
    before = Checkpoints(path, RUN).latest(torch.device("cpu"))
    assert before.state["seconds"] > 0
    Checkpoints(path, RUN).save(before.epoch, before.step, before.state | {"seconds": 1000.0})
    for file in path.glob("*.pt"):
        if file.name == before.path.name:
            file.unlink()
    _, training = start()
    first, second, *_ = training.history
    assert 1000 < first.metrics["perf/epoch_s"] < 1100 > second.metrics["perf/epoch_s"]
    assert first.metrics["perf/images_per_s"] == pytest.approx(48 / first.metrics["perf/epoch_s"])


def test_a_stop_whose_checkpoint_does_not_fit_is_said(start, batches, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoints, "save", lambda *_: False)
    asked = Stop(2)
    with pytest.raises(Interrupted):
        start(batches=asked.batches(batches), should_stop=asked)
    assert "what was done since the last checkpoint is lost: the same command does it again" in caplog.text


def replaced(state, *place, value):
    """A copy of a state in which the value at this place is another; without `value` there is none."""
    copy = dict(state)
    copy[place[0]] = replaced(copy[place[0]], *place[1:], value=value) if place[1:] else value
    return copy


NAN = torch.tensor(math.nan)


@pytest.mark.parametrize(("place", "value"), [
    (("learner",), None),
    (("learner", "model"), {}),
    (("learner", "model", "1.0.weight"), torch.zeros(2)),
    (("learner", "model", "1.1.running_var"), NAN.expand(4).clone()),
    (("learner", "optimizer"), {"state": {}, "param_groups": []}),
    (("learner", "scale"), torch.zeros(3)),
    (("history",), [{"epoch": 1}]),
    (("history",), []),
    (("history",), [{"epoch": number, "metrics": {"loss/train": "0.1"}} for number in (1, 2)]),
    (("steps",), None),
    (("steps",), "none"),
    (("best",), {"epoch": 1}),
    (("best", "accuracy"), "0.9"),
    (("best", "weights"), {"1.0.weight": torch.zeros(2)}),
    (("begun",), {"losses": 3}),
    (("seconds",), None),
])  # fmt: skip
def test_a_checkpoint_of_another_content_is_refused_by_its_name(start, tmp_path, place, value):
    """Its checksum, run and place are right: another program may have written it, or an enemy."""
    with pytest.raises(Interrupted):
        start(on_epoch=lambda epoch, best: stop() if epoch.epoch == 3 else None)
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    found = checkpoints.latest(torch.device("cpu"))
    found.path.unlink()
    checkpoints.save(found.epoch, found.step, replaced(found.state, *place, value=value))
    path = checkpoints.latest(torch.device("cpu")).path
    with pytest.raises(RunError) as caught:
        start()
    message = str(caught.value)
    assert message.startswith(f"{path} has another content than this run can go on from (")
    assert "delete it, and the same command goes on from the checkpoint before it" in message
    assert "\n" not in message
    path.unlink()
    assert start()[1].history[-1].epoch == EPOCHS


# The moving average of the weights


def all_of(learner, training):
    """All that a run ends with; of the averaged weights those chosen, and those that a next step would move."""
    chosen = training.ema and (training.ema, dict(training.ema.weights))
    return everything([weights(learner), learner.state_dict(), training.steps, chosen]), without_times(training)


@pytest.mark.parametrize(("validation", "steps"), [("holdout", 5), ("holdout", 6), ("test", 13), ("none", 1)])
def test_with_an_average_it_ends_the_same_wherever_it_was_stopped(start, batches, steps, validation):
    more = {"validation": validation, "ema": 0.9} | ({"measure": None} if validation == "none" else {})
    expected = all_of(*start("whole", **more))
    asked = Stop(steps)
    with pytest.raises(Interrupted):
        start("broken", batches=asked.batches(batches), should_stop=asked, checkpoint_interval=3600.0, **more)
    assert all_of(*start("broken", **more)) == expected


@pytest.mark.parametrize("call", [2, 9, 10])  # even ones measure the average
def test_stopped_while_the_average_is_measured_the_networks_own_weights_are_saved(start, bank, cpu, tmp_path, call):
    def measure(model):
        if next(calls) == call:
            raise Interrupted
        return evaluate(*infer(model, in_order(bank, 16), cpu))

    expected = all_of(*start("whole", ema=0.9))
    calls = itertools.count(1)
    with pytest.raises(Interrupted):
        start("broken", measure=measure, checkpoint_interval=3600.0, ema=0.9)
    assert Checkpoints(tmp_path / "broken", RUN).latest(torch.device("cpu")).step == (call + 1) // 2 * STEPS
    assert all_of(*start("broken", ema=0.9)) == expected


def test_the_averages_best_epoch_is_chosen_for_itself_and_changes_nothing_of_the_run(start):
    own, average = [0.3, 0.6, 0.5, 0.6, 0.4], [0.1, 0.2, 0.7, 0.5, 0.7]
    both = [accuracy for pair in zip(own, average, strict=True) for accuracy in pair]
    measure, shown = scripted(both, [1.0] * 10)
    better = []
    learner, training = start("with", measure=measure, ema=0.9, on_epoch=lambda epoch, best: better.append(best))
    assert (training.chosen_epoch, training.best_val_accuracy) == (2, 0.6)
    assert (training.ema.epoch, training.ema.val_accuracy) == (3, 0.7)
    assert better == [True, True, False, False, False]
    assert equal(weights(learner), shown[2]) and equal(training.ema.weights, shown[5])
    assert [epoch.metrics["accuracy/val"] for epoch in training.history] == own
    assert [epoch.metrics["accuracy/val_ema"] for epoch in training.history] == average
    plain, without = start("without", measure=scripted(own)[0])
    assert without.ema is None and equal(weights(learner), weights(plain))
    assert torch.equal(training.steps, without.steps)
    assert all("val_ema" not in name for epoch in without.history for name in epoch.metrics)


def test_where_nothing_chooses_the_last_average_is_kept(start):
    learner, training = start(validation="test", ema=0.9)
    assert (training.ema.epoch, training.ema.val_accuracy) == (EPOCHS, None)
    assert equal(training.ema.weights, learner.ema.weights)
    assert "accuracy/test_ema_each_epoch" in training.history[0].metrics


@pytest.mark.parametrize(("place", "value"), [
    (("learner", "ema"), None),
    (("learner", "ema"), {}),
    (("learner", "ema", "1.0.weight"), torch.zeros(2)),
    (("learner", "ema", "1.1.running_var"), NAN.expand(4).clone()),
    (("best_ema",), None),
    (("best_ema", "accuracy"), "0.9"),
    (("best_ema", "weights"), {"1.0.weight": torch.zeros(2)}),
])  # fmt: skip
def test_a_checkpoint_with_another_average_is_refused_by_its_name(start, tmp_path, place, value):
    with pytest.raises(Interrupted):
        start(on_epoch=lambda epoch, best: stop() if epoch.epoch == 3 else None, ema=0.9)
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    found = checkpoints.latest(torch.device("cpu"))
    checkpoints.save(found.epoch, found.step, replaced(found.state, *place, value=value))
    found.path.unlink()
    with pytest.raises(RunError, match="has another content than this run can go on from"):
        start(ema=0.9)


@pytest.mark.parametrize("before", [None, 0.9])
def test_a_checkpoint_of_a_run_with_an_average_is_not_one_of_a_run_without(start, before):
    start(ema=before)
    with pytest.raises(RunError, match="an EMA" if before else "no EMA"):
        start(ema=None if before else 0.9)


@pytest.mark.parametrize("cycled", [False, True])
def test_each_step_is_remembered_as_it_was_applied(tiny_learner, bank, cycled):
    schedule = OneCycle(peak_epoch=2, cycle_momentum=cycled).plan(0.05, EPOCHS, STEPS)
    steps = tiny_learner(schedule).train(shuffled(bank, CropFlipCutout(cutout=4), 16, 0, 1), 0, lambda n=1: None)
    table = steps.table()
    assert table.shape == (STEPS, 3) and table.dtype == torch.float64
    assert table[:, 0].tolist() == list(schedule.lrs[:STEPS])
    assert table[:, 1].tolist() == (list(schedule.momenta[:STEPS]) if cycled else [0.9] * STEPS)
    assert table[:, 2].tolist() == steps.losses.double().tolist()


def test_an_interrupted_training_remembers_the_steps_before_it_too(start):
    def interrupt(epoch, best):
        if epoch.epoch == 3:
            raise Interrupted

    _, whole = start("whole")
    with pytest.raises(Interrupted):
        start("broken", on_epoch=interrupt)
    _, resumed = start("broken")
    assert whole.steps.shape == (EPOCHS * STEPS, 3)
    assert torch.equal(resumed.steps, whole.steps)


def test_a_checkpoint_of_an_older_version_is_not_mistaken_for_a_damaged_one(start, tmp_path):
    (tmp_path / "run").mkdir()
    content = io.BytesIO()
    torch.save({"version": 2, "learner": {}, "history": [], "steps": torch.zeros(0, 3), "best": {}}, content)
    checksum = hashlib.sha256(content.getvalue()).hexdigest()[:16]
    (tmp_path / "run" / f"epoch-00005-{checksum}.pt").write_bytes(content.getvalue())
    with pytest.raises(RunError, match=r"written by another version.*name=\.\.\."):
        start()


def test_interrupted_again_and_again_it_still_ends_the_same(start):
    def interrupt(epoch, best):
        if next(interruptions):
            raise Interrupted

    # Each try trains one epoch, is interrupted in the one after it, and leaves one checkpoint more.
    whole, expected = start("whole")
    for _ in range(EPOCHS - 1):
        interruptions = iter([False, True])
        with pytest.raises(Interrupted):
            start("broken", on_epoch=interrupt)
    resumed, found = start("broken")
    assert without_times(found) == without_times(expected)
    assert equal(weights(resumed), weights(whole))


def test_a_finished_training_started_again_trains_nothing_and_gives_the_same(start):
    first, expected = start()
    reported = []
    again, found = start(on_epoch=lambda epoch, best: reported.append(epoch))
    assert reported == []
    assert found == expected  # the times too
    assert equal(weights(again), weights(first))


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(start, tmp_path):
    whole, expected = start()
    newest = max((tmp_path / "run").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    reported = []
    again, found = start(on_epoch=lambda epoch, best: reported.append(epoch.epoch))
    assert reported == [EPOCHS]
    assert without_times(found) == without_times(expected)
    assert equal(weights(again), weights(whole))


def test_the_best_epochs_weights_are_kept_not_the_last_ones(start):
    measure, shown = scripted([0.3, 0.6, 0.5, 0.6, 0.4])
    better = []
    learner, training = start(measure=measure, on_epoch=lambda epoch, best: better.append(best))
    assert (training.chosen_epoch, training.best_val_accuracy) == (2, 0.6)
    assert better == [True, True, False, False, False]
    assert equal(weights(learner), shown[1])
    assert not equal(shown[1], shown[-1])
    assert [epoch.metrics["accuracy/val"] for epoch in training.history] == [0.3, 0.6, 0.5, 0.6, 0.4]


@pytest.mark.parametrize(("losses", "chosen"), [
    ([1.0, 0.9, 0.8, 0.85, 0.8], 3),
    ([1.0, math.nan, math.nan, 1.0, 1.0], 1),
    ([1.0, math.inf, 0.9, math.nan, 0.95], 3),
])  # fmt: skip
def test_of_equally_accurate_epochs_the_least_loss_wins_and_a_nan_is_never_better(start, losses, chosen):
    measure, shown = scripted([0.5] * EPOCHS, losses)
    learner, training = start(measure=measure)
    assert training.chosen_epoch == chosen
    assert equal(weights(learner), shown[chosen - 1])


def test_the_last_weights_are_kept_where_nothing_honest_can_choose(start):
    measure, shown = scripted([0.3, 0.6, 0.5, 0.6, 0.4])
    learner, training = start(measure=measure, validation="test")
    assert (training.chosen_epoch, training.best_val_accuracy) == (EPOCHS, None)
    assert equal(weights(learner), shown[-1])


def test_without_a_measurement_the_last_weights_are_kept_and_nothing_is_made_up(start):
    with_one, _ = start("measured", validation="test")
    without, training = start("unmeasured", measure=None)
    assert equal(weights(with_one), weights(without))
    assert all(epoch.metrics.keys() == {metric.name for metric in LOOP_METRICS} for epoch in training.history)
    assert (training.chosen_epoch, training.best_val_accuracy) == (EPOCHS, None)


def test_the_history_says_what_was_trained(start):
    _, training = start()
    assert [epoch.epoch for epoch in training.history] == [1, 2, 3, 4, 5]
    assert [epoch.metrics["lr/start"] for epoch in training.history] == list(SCHEDULE.lrs[::STEPS])
    assert [epoch.metrics["lr/end"] for epoch in training.history] == list(SCHEDULE.lrs[STEPS - 1 :: STEPS])
    assert training.history[1].metrics["lr/end"] == SCHEDULE.max_lr
    assert training.history[-1].metrics["loss/train"] < training.history[0].metrics["loss/train"]
    for epoch in training.history:
        assert epoch.metrics["perf/epoch_s"] > 0
        assert epoch.metrics["perf/images_per_s"] == pytest.approx(48 / epoch.metrics["perf/epoch_s"])


def test_no_checkpoint_holds_what_came_after_a_broken_step(start, bank, tmp_path):
    def batches(epoch, first):
        for step, batch in enumerate(shuffled(bank, CropFlipCutout(cutout=4), 16, 0, epoch, first=first), first):
            yield Batch(batch.images * math.nan, batch.labels) if (epoch, step) == (3, 1) else batch

    with pytest.raises(NonFinite, match="the loss of step 7 is not finite"):
        start(batches=batches)
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    assert checkpoints.latest_epoch() == 2
    state = checkpoints.latest(torch.device("cpu")).state
    assert all(bool(value.isfinite().all()) for value in state["learner"]["model"].values())
    # Once its cause is removed, the run goes on from there and ends as one that never broke.
    whole, expected = start("whole")
    mended, found = start()
    assert without_times(found) == without_times(expected)
    assert equal(weights(mended), weights(whole))


def test_a_long_interval_writes_only_the_last_epochs_checkpoint(start, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, epoch, step, state: saved.append(epoch) or True)
    start("rarely", checkpoint_interval=3600.0)
    assert saved == [EPOCHS]
    start("always", checkpoint_interval=0.0)
    assert saved[1:] == [1, 2, 3, 4, 5]


KILLED = """
import sys
from pathlib import Path
import numpy as np
import torch
from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.config.schema import TrainConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data.bank import ImageBank, Normalisation, in_order, shuffled
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import Learner, infer
from resnet_exp.interfaces import LabelledImages
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.training.device import Runtime
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.train import resume, train

folder, epochs = Path(sys.argv[1]), 40
rng = np.random.default_rng(0)
split = LabelledImages(rng.integers(0, 256, (48, 16, 16, 3), dtype=np.uint8), np.arange(48) % 4)
cpu = Runtime(torch.device("cpu"), "fp32")
bank = ImageBank(split, Normalisation.of(split.images), cpu.device, 4)
schedule = OneCycle().plan(0.05, epochs, 3)
torch.manual_seed(0)
model = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=4)
settings = TrainConfig(epochs, 16, "fp32", True, 0.0, None, 1, False, 0.0)
learner = Learner(model, sgd(), schedule, settings, cpu, 0)
print("started", flush=True)
checkpoints = Checkpoints(folder, "run")
training = train(
    learner, resume(learner, checkpoints),
    lambda epoch, first: shuffled(bank, CropFlipCutout(), 16, 0, epoch, first=first),
    lambda model: evaluate(*infer(model, in_order(bank, 48), cpu)), epochs=epochs, steps_per_epoch=3,
    validation=VALIDATION["holdout"],
    keeping=Keeping(checkpoints, 0.0, lambda: None, lambda: False, sys.exit), advance=lambda n=1: None,
    on_epoch=lambda epoch, best: print(epoch.epoch, flush=True),
)
history = [{k: v for k, v in e.metrics.items() if not k.startswith("perf/")} for e in training.history]
torch.save((model.state_dict(), history, training.chosen_epoch, training.best_val_accuracy), folder / "end")
"""


@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_never_killed(tmp_path):
    """SIGKILL at any moment: within a step, while writing a checkpoint, between two epochs."""

    def begin(folder):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert begin(whole).wait(timeout=200) == 0
    delays = random.Random(0)
    for _ in range(3):
        process = begin(broken)
        for _ in range(delays.randrange(4, 9)):  # lines: "started", then the epochs
            process.stdout.readline()
        time.sleep(delays.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (broken / "end").exists()
    assert Checkpoints(broken, "run").latest_epoch() >= 6
    assert begin(broken).wait(timeout=200) == 0
    expected, found = (torch.load(Path(folder) / "end", weights_only=True) for folder in (whole, broken))
    assert equal(found[0], expected[0])
    assert found[1:] == expected[1:]
