"""The moving average of the weights: its formula, the steps that do not count, and the network that has it."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from test_learner import OPTIMIZERS, Fault, Waits, equal, ignore, linear, overflowing_above, random_batches, weights
from torch import nn

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.data.bank import shuffled
from resnet_exp.interfaces import RunError
from resnet_exp.training.device import Runtime
from resnet_exp.training.ema import Ema, holding
from resnet_exp.training.learner import NonFinite


def normalised():
    """Weights, statistics in floating point, and a count of batches."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def averaged(first, seen, decay):
    """The average in float64, written out: of the weights at first and after each update."""
    found = {name: value.double() for name, value in first.items()}
    for t, now in enumerate(seen, 1):
        kept = min(decay, (1 + t) / (10 + t))
        for name, value in now.items():
            found[name] = kept * found[name] + (1 - kept) * value.double() if value.is_floating_point() else value
    return found


@pytest.mark.parametrize("decay", [0.05, 0.3, 0.999])  # full at once, after the second update, never
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_the_average_that_the_formula_says(tiny_learner, optimizer, decay):
    learner = tiny_learner([0.3] * 8, model=normalised(), optimizer=OPTIMIZERS[optimizer], ema=decay)
    first, seen = copied(learner.model), []
    for step, batch in enumerate(random_batches([8] * 8)):
        learner.train([batch], step, ignore)
        seen.append(copied(learner.model))
    expected = averaged(first, seen, decay)
    assert learner.ema.weights.keys() == expected.keys()
    for name, value in learner.ema.weights.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert learner.ema.weights["1.num_batches_tracked"] == 8
    moved = (learner.ema.weights["0.weight"] - learner.model[0].weight).abs().max()
    assert moved > 1e-4, "the average is another network"


def test_the_training_is_the_same_with_it(tiny_learner, bank):
    plain, with_it = (tiny_learner(ema=decay) for decay in (None, 0.9))
    steps = [learner.train(shuffled(bank, CropFlipCutout(), 16, 0, 1), 0, ignore) for learner in (plain, with_it)]
    assert torch.equal(steps[0].table(), steps[1].table())
    assert equal(plain.model.state_dict().values(), with_it.model.state_dict().values())
    assert plain.ema is None and "ema" not in plain.state_dict()


def test_the_host_does_not_wait_for_it(tiny_learner, bank):
    learner = tiny_learner(ema=0.9)
    with Waits() as waits:
        learner.train(shuffled(bank, CropFlipCutout(), 16, 0, 1), 0, ignore)
    assert waits.seen == []


@pytest.mark.parametrize("optimizer", ["fused", "foreach", "rmsprop"])
def test_a_step_that_fp16_skips_does_not_move_it_and_is_not_counted(tiny_learner, fp16, optimizer):
    (batch,) = random_batches([16])
    learner = overflowing_above(
        tiny_learner([0.01] * 5, model=normalised(), optimizer=OPTIMIZERS[optimizer], runtime=fp16, ema=0.999), 4000
    )
    first, seen, skipped = copied(learner.model), [], 0
    for step in range(5):
        count, before = int(learner.state_dict()["updates"]), [one.clone() for one in learner.ema.weights.values()]
        learner.train([batch], step, ignore)
        if learner.state_dict()["updates"] > count:
            seen.append(copied(learner.model))
        else:
            skipped += 1
            assert equal(learner.ema.weights.values(), before)
    learner.check()
    assert skipped and seen
    for name, value in averaged(first, seen, 0.999).items():
        torch.testing.assert_close(learner.ema.weights[name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_broken_step_does_not_move_it_nor_do_those_after_it(tiny_learner, optimizer, kind):
    fault = Fault(kind)
    sound, broken = (
        fault.into(tiny_learner([0.1] * 6, model=linear(), optimizer=OPTIMIZERS[optimizer], ema=0.9)) for _ in range(2)
    )
    sound.train(fault.batches()[:3], 0, ignore)
    broken.train(fault.batches(), 0, ignore)
    assert equal(broken.ema.weights.values(), sound.ema.weights.values())


def test_what_is_not_finite_in_it_is_never_saved(tiny_learner):
    learner = tiny_learner([0.1] * 2, model=normalised(), ema=0.9)
    learner.train(random_batches([8]), 0, ignore)
    learner.check()
    learner.ema.weights["1.running_var"][2] = float("nan")
    with pytest.raises(NonFinite, match=r"the update of step 0 is not finite \(the EMA of 1\.running_var\)"):
        learner.check()


def test_it_goes_on_from_its_state_bit_for_bit(tiny_learner, bank):
    whole, first, second = (tiny_learner(ema=0.9) for _ in range(3))
    batches = list(itertools.islice(shuffled(bank, CropFlipCutout(), 4, 0, 1), 9))
    whole.train(batches, 0, ignore)
    first.train(batches[:4], 0, ignore)
    for value in second.ema.weights.values():  # nothing of a fresh one may be left
        value.zero_()
    second.load_state_dict(first.state_dict())
    second.train(batches[4:], 4, ignore)
    assert equal(whole.ema.weights.values(), second.ema.weights.values())


def test_a_state_with_it_is_not_read_without_it_nor_the_other_way_round(tiny_learner):
    plain, with_it = (tiny_learner([0.1], model=linear(), ema=decay) for decay in (None, 0.9))
    with pytest.raises(RunError, match=r"the checkpoint has an EMA of the weights, and train\.ema is null"):
        plain.load_state_dict(with_it.state_dict())
    with pytest.raises(RunError, match=r"the checkpoint has no EMA of the weights, and train\.ema is set"):
        with_it.load_state_dict(plain.state_dict())
    for other in ({"weight": torch.zeros(1)}, {**with_it.ema.weights, "bias": torch.zeros(1)}):
        with pytest.raises(ValueError, match="the EMA is of another network"):
            with_it.load_state_dict({**plain.state_dict(), "ema": other})


class Replacing(nn.Module):
    """Replaces its buffers in each step: by assignment, and in half precision."""

    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("short", torch.ones((), dtype=torch.bfloat16))

    def forward(self, images):
        self.steps = self.steps + 1
        self.short = self.short + 1
        return self.layer(images)


def test_a_buffer_that_is_replaced_or_of_half_precision_is_averaged_as_all_others(tiny_learner):
    learner = tiny_learner([0.1] * 40, model=Replacing(), ema=0.999)
    learner.train(random_batches([8] * 40), 0, ignore)
    average = 0.0
    for t in range(1, 41):
        average += (1 - (1 + t) / (10 + t)) * (t - average)
    assert float(learner.ema.weights["steps"]) == pytest.approx(average, rel=1e-6)
    # bfloat16 has eight bits: steps of the average below a 256th of it would be lost.
    assert float(learner.ema.weights["short"]) == pytest.approx(average + 1, rel=1e-6)
    with holding(learner.model, learner.ema.weights) as model:
        assert model.short.dtype == torch.bfloat16 and float(model.short) == pytest.approx(average + 1, rel=1e-2)


def test_a_network_holds_other_weights_within_the_block_alone(tiny_learner):
    model, other = normalised(), normalised()
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1)
        model[0].weight[0, 0] = -0.0
    before, tensors = copied(model), [id(value) for value in model.parameters()]
    with contextlib.suppress(KeyboardInterrupt), holding(model, other.state_dict()):
        assert equal(model.state_dict().values(), other.state_dict().values())
        raise KeyboardInterrupt
    for name, value in model.state_dict().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name
    assert [id(value) for value in model.parameters()] == tensors  # those that the optimizer updates


def test_tied_weights_have_one_average():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update(model, torch.tensor(1), torch.tensor(False))
    assert torch.equal(ema.weights["0.weight"], ema.weights["1.weight"])
    with holding(model, ema.weights):
        assert model[1].weight is model[0].weight and torch.equal(model[0].weight, ema.weights["0.weight"])


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_the_host_does_not_wait_for_it_either(tiny_learner, learnable, precision):
    from resnet_exp.data.bank import ImageBank, Normalisation

    runtime = Runtime(torch.device("cuda", 0), precision)
    on_gpu = ImageBank(learnable, Normalisation.of(learnable.images), runtime.device, padding=4)
    learner = tiny_learner(runtime=runtime, ema=0.9)
    learner.train(shuffled(on_gpu, CropFlipCutout(), 16, 0, 1), 0, ignore)  # what is set up once may wait
    before = weights(learner)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.train(shuffled(on_gpu, CropFlipCutout(), 16, 0, 2), 3, ignore)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.check()
    assert not equal(weights(learner), before)
