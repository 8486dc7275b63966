"""The one loop: what a step changes, what it must not change, and that the host never waits within an epoch."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.data.bank import Batch, in_order, shuffled
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.training import learner as learner_module
from resnet_exp.training.device import Runtime
from resnet_exp.training.learner import NonFinite

PLAIN_SGD = sgd(momentum=0.0, nesterov=False, weight_decay=0.0)
OPTIMIZERS = {
    "fused": sgd(),
    "foreach": lambda model: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4, foreach=True),
    "one by one": lambda model: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, foreach=False),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.0, foreach=False),
}


def ignore(n=1):
    pass


def linear(seed=0, features=6, classes=4):
    torch.manual_seed(seed)
    return nn.Linear(features, classes)


def random_batches(sizes, features=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Batch(torch.randn(size, features, generator=generator), torch.randint(classes, (size,), generator=generator))
        for size in sizes
    ]


def weights(learner):
    return [parameter.detach().clone() for parameter in learner.model.parameters()]


def momenta(learner):
    return [learner.optimizer.state[parameter]["momentum_buffer"].clone() for parameter in learner.model.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def epochs(learner, bank, count, augmentation=None, batch_size=16):
    """The mean loss and the accuracy of each epoch."""
    augmentation = augmentation or CropFlipCutout(padding=4, flip=True, cutout=4)
    steps = -(-len(bank) // batch_size)
    for epoch in range(1, count + 1):
        done = learner.train(shuffled(bank, augmentation, batch_size, 0, epoch), (epoch - 1) * steps, ignore)
        yield done.mean_loss(), done.accuracy()


def test_what_can_be_learnt_is_learnt(tiny_learner, bank):
    learner = tiny_learner()
    found = list(epochs(learner, bank, 8))
    learner.check()
    assert found[-1][0] < 0.5 * found[0][0]
    assert found[-1][1] > 0.9 > found[0][1]


def test_mean_loss_and_accuracy_are_over_images_not_over_batches(tiny_learner):
    batches = random_batches([8, 8, 1])
    learner = tiny_learner([0.0] * 3, model=linear())
    advanced = []
    steps = learner.train(batches, 0, lambda n=1: advanced.append(n))
    images, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels"))
    logits = learner.model(images).detach()
    assert steps.mean_loss() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert steps.accuracy() == int((logits.argmax(1) == labels).sum()) / 17
    assert steps.losses[2].item() == pytest.approx(F.cross_entropy(logits[16:], labels[16:]).item(), rel=1e-6)
    assert (steps.images, steps.sizes, advanced) == (17, (8, 8, 1), [8, 8, 1])


@pytest.mark.parametrize("parts", [2, 4, 13])
def test_a_batch_computed_in_parts_makes_the_same_update(tiny_learner, parts):
    """13 images in 4 parts are 4 + 4 + 4 + 1; the last batch has fewer images than parts."""
    batches = random_batches([13, 13, 3])
    settings = {"batch_size": 13, "label_smoothing": 0.1}
    whole, divided = (tiny_learner([0.5] * 3, model=linear(), grad_accum_steps=n, **settings) for n in (1, parts))
    expected, found = (learner.train(batches, 0, ignore) for learner in (whole, divided))
    torch.testing.assert_close(weights(divided), weights(whole), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-6, atol=0)
    assert found.correct == expected.correct


def test_clipping_bounds_the_norm_of_all_gradients_together(tiny_learner):
    (batch,) = random_batches([16])
    batch = Batch(10 * batch.images, batch.labels)

    def moved(clip):
        learner = tiny_learner([1.0], model=linear(), optimizer=PLAIN_SGD, clip_grad_norm=clip)
        before = weights(learner)
        learner.train([batch], 0, ignore)
        return torch.cat([(new - old).flatten() for new, old in zip(weights(learner), before, strict=True)])

    free = moved(None)
    assert free.norm() > 1
    torch.testing.assert_close(moved(0.1), free * (0.1 / free.norm()), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved(1000.0), free, rtol=0, atol=0)


def test_label_smoothing_is_torchs(tiny_learner):
    (batch,) = random_batches([16])
    learner = tiny_learner([0.1], model=linear(), label_smoothing=0.2)
    expected = F.cross_entropy(learner.model(batch.images), batch.labels, label_smoothing=0.2).item()
    assert learner.train([batch], 0, ignore).losses[0].item() == pytest.approx(expected, rel=1e-6)


def test_the_updates_are_torchs_own_from_the_first_step_on(tiny_learner):
    """The momentum that stands at zero before the first step changes nothing against torch's, which has none yet."""
    batches, lrs = random_batches([16] * 4), [0.1, 0.2, 0.05, 0.3]
    learner = tiny_learner(lrs, model=linear())
    model = linear()
    settings = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **settings, foreach=False)
    for step, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        learner.train([batch], step, ignore)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
        torch.testing.assert_close(weights(learner), list(model.parameters()), rtol=1e-6, atol=1e-7)


def test_cycled_momentum_is_that_of_the_step_also_after_an_epoch(tiny_learner):
    planned = tuple(0.95 - 0.01 * step for step in range(6))
    learner = tiny_learner([0.1] * 6, model=linear(), momenta=planned)
    seen = []
    learner.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["momentum"]))
    batches = random_batches([4] * 6)
    learner.train(batches[:3], 0, ignore)
    learner.train(batches[3:], 3, ignore)
    assert tuple(seen) == planned


def test_without_channels_last_images_and_weights_are_contiguous_and_the_losses_the_same(tiny_learner, bank):
    layouts = {}
    for channels_last in (True, False):
        learner = tiny_learner(channels_last=channels_last)
        seen = []
        learner.model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].is_contiguous()))
        losses = learner.train(in_order(bank, 16), 0, ignore).losses
        layouts[channels_last] = losses, set(seen), learner.model[1][0].weight.is_contiguous()
    assert layouts[True][1:] == ({False}, False)
    assert layouts[False][1:] == ({True}, True)
    torch.testing.assert_close(layouts[True][0], layouts[False][0], rtol=1e-4, atol=1e-5)


def test_dropout_draws_by_the_step_alone(tiny_learner):
    def losses(first_step, disturb=None):
        learner = tiny_learner([0.0] * 9, model=nn.Sequential(nn.Dropout(0.5), linear()))
        torch.manual_seed(first_step + 99 if disturb is None else disturb)
        return learner.train(random_batches([16] * 9)[first_step:], first_step, ignore).losses

    assert torch.equal(losses(0)[4:], losses(4))
    assert torch.equal(losses(0, disturb=1), losses(0, disturb=2))
    assert len(set(losses(0)[:2].tolist())) == 2


class Fault:
    """Breaks step 3: a NaN among the images, or a gradient that overflows though the loss is finite."""

    def __init__(self, kind):
        self.kind = kind

    def batches(self):
        batches = random_batches([8] * 6)
        if self.kind == "loss":
            batches[3].images[2, 1] = float("nan")
        return batches

    def into(self, learner):
        if self.kind == "gradient":
            steps = itertools.count()
            learner.model.bias.register_hook(lambda grad: grad * (float("inf") if next(steps) == 3 else 1.0))
        return learner


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_updated_from_a_broken_step_on(tiny_learner, optimizer, kind, clip):
    fault, make = Fault(kind), OPTIMIZERS[optimizer]
    sound, broken = (
        fault.into(tiny_learner([0.1] * 6, model=linear(), optimizer=make, clip_grad_norm=clip)) for _ in range(2)
    )
    sound.train(fault.batches()[:3], 0, ignore)
    sound.check()
    broken.train(fault.batches(), 0, ignore)
    assert equal(weights(broken), weights(sound))
    if optimizer == "fused":  # the other ones' state decays, which no update will use
        assert equal(momenta(broken), momenta(sound))
    with pytest.raises(NonFinite, match=f"the {kind} of step 3 is not finite") as raised:
        broken.check()
    assert (raised.value.step, raised.value.what) == (3, kind)
    broken.train(random_batches([8] * 2, seed=1), 6, ignore)
    assert equal(weights(broken), weights(sound))
    with pytest.raises(NonFinite, match="step 3"):
        broken.check()


def test_weights_that_the_last_update_made_infinite_are_seen_at_once(tiny_learner):
    """Loss and gradient were finite: the next step would tell, but a checkpoint may come before it."""
    learner = tiny_learner([1e38, 1e38], model=linear())
    batches = random_batches([8])
    batches[0].images.mul_(1e3)
    learner.train(batches, 0, ignore)
    with pytest.raises(NonFinite, match="the update of step 0 is not finite"):
        learner.check()


def test_training_can_stop_after_any_step_and_go_on_with_the_same_batches(tiny_learner, bank):
    whole, parted = tiny_learner(), tiny_learner()
    expected = whole.train(shuffled(bank, CropFlipCutout(), 8, 0, 1), 0, ignore)
    batches, askings = shuffled(bank, CropFlipCutout(), 8, 0, 1), itertools.count(1)
    first = parted.train(batches, 0, ignore, lambda: next(askings) == 4)
    assert first.sizes == (8,) * 4
    found = first.and_then(parted.train(batches, 4, ignore))
    assert torch.equal(found.table(), expected.table())
    assert (found.sizes, found.correct) == (expected.sizes, expected.correct)
    assert equal(whole.model.state_dict().values(), parted.model.state_dict().values())


class BrokenState:
    """Makes one number non-finite that a step leaves behind, in step 3 of 6."""

    def __init__(self, learner, tensors, value, monkeypatch):
        step, update = itertools.count(), learner._step

        def broken(*arguments):
            update(*arguments)
            if next(step) == 3:
                with torch.no_grad():
                    next(iter(tensors(learner))).view(-1)[-1] = value

        monkeypatch.setattr(learner, "_step", broken)


LEFT = {
    "weight": (lambda learner: learner.model.parameters(), "0.weight"),
    "running statistic": (lambda learner: [learner.model[1].running_var], "1.running_var"),
    "optimizer's state": (
        lambda learner: [state["momentum_buffer"] for state in learner.optimizer.state.values()],
        "the optimizer's momentum_buffer of 0.weight",
    ),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("optimizer", ["fused", "foreach"])
def test_what_a_step_left_non_finite_is_told_with_that_step_and_no_later_step_counts(
    tiny_learner, monkeypatch, left, value, optimizer
):
    """BatchNorm's statistics leave no trace in the losses, and a NaN in the optimizer's state none in the weights."""
    tensors, where = LEFT[left]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    learner = tiny_learner([0.1] * 6, model=model, optimizer=OPTIMIZERS[optimizer])
    BrokenState(learner, tensors, value, monkeypatch)
    batches = random_batches([8] * 6)
    learner.train(batches[:4], 0, ignore)
    after = weights(learner)
    learner.train(batches[4:], 4, ignore)
    with pytest.raises(NonFinite, match="the update of step 3 is not finite") as raised:
        learner.check()
    assert (raised.value.step, raised.value.what) == (3, "update")
    if optimizer == "fused":  # in others what is not finite spreads: no update follows it, but 0 * NaN is NaN
        assert f"({where})" in str(raised.value)
        assert equal([w.nan_to_num(9) for w in weights(learner)], [w.nan_to_num(9) for w in after])


def test_statistics_that_a_batch_of_huge_values_overflows_are_told_with_its_step(tiny_learner):
    """The normalised values are finite, and so is the loss."""
    model = nn.Sequential(nn.BatchNorm1d(6), linear())
    learner = tiny_learner([0.01] * 6, model=model)
    batches = random_batches([8] * 6)
    batches[2].images[:, 0] *= 3e19
    steps = learner.train(batches, 0, ignore)
    assert steps.losses.isfinite().all()
    with pytest.raises(NonFinite, match=r"the update of step 2 is not finite \(0\.running_var\)"):
        learner.check()


def test_to_look_at_what_a_step_left_changes_no_bit_of_it(tiny_learner):
    learner = tiny_learner([0.1], model=nn.Sequential(nn.BatchNorm1d(6), linear()))
    values = torch.tensor([0.0, -0.0, 1e-45, -3e-39, 3.4e38, -1.1])
    with torch.no_grad():
        learner.model[1].weight.copy_(values.expand(4, 6))
        learner.model[0].running_mean.copy_(values)
    learner._note_update(0)
    learner.check()
    for found in (learner.model[1].weight[0], learner.model[0].running_mean):
        assert torch.equal(found.detach().view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_buffer_of_another_type_is_looked_at_before_each_save(tiny_learner, dtype):
    model = linear()
    model.register_buffer("kept", torch.ones(3, dtype=dtype))
    learner = tiny_learner([0.1], model=model)
    learner.train(random_batches([8]), 0, ignore)
    learner.check()
    model.kept[1] = float("nan")
    with pytest.raises(NonFinite, match=r"of step 0 is not finite \(kept\)"):
        learner.check()


def test_a_state_in_another_precision_is_refused(tiny_learner, fp16):
    state = tiny_learner([0.1], model=linear(), runtime=fp16).state_dict()
    with pytest.raises(RunError, match="of precision fp16; this run's is fp32"):
        tiny_learner([0.1], model=linear()).load_state_dict(state)


def test_the_first_step_of_all_may_break_and_leaves_the_initial_weights(tiny_learner):
    learner = tiny_learner([0.1] * 2, model=linear())
    (batch,) = random_batches([8])
    batch.images[0, 0] = float("inf")
    learner.train([batch, *random_batches([8])], 0, ignore)
    assert equal(weights(learner), list(linear().parameters()))
    assert not any(momentum.any() for momentum in momenta(learner))


class Waits(TorchDispatchMode):
    """Collects the operations for which the host waits for a GPU: those that read a value, or a shape, off a tensor."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(function.name().split("::")[1].startswith(name) for name in self.NAMES):
            self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def test_the_host_never_waits_within_an_epoch(tiny_learner, bank):
    learner = tiny_learner(clip_grad_norm=1.0, grad_accum_steps=2, label_smoothing=0.1)
    with Waits() as waits:
        steps = learner.train(shuffled(bank, CropFlipCutout(), 16, 0, 1), 0, ignore)
    assert waits.seen == []
    with waits:
        learner.check()
        steps.mean_loss()
    assert waits.seen  # the watch does see what the host waits for


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_host_never_waits_for_the_gpu_within_an_epoch(tiny_learner, learnable, precision):
    from resnet_exp.data.bank import ImageBank, Normalisation

    runtime = Runtime(torch.device("cuda", 0), precision)
    on_gpu = ImageBank(learnable, Normalisation.of(learnable.images), runtime.device, padding=4)
    learner = tiny_learner(runtime=runtime, clip_grad_norm=1.0, grad_accum_steps=2)
    learner.train(shuffled(on_gpu, CropFlipCutout(), 16, 0, 1), 0, ignore)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.train(shuffled(on_gpu, CropFlipCutout(), 16, 0, 2), 3, ignore)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.check()


def overflowing_above(learner, limit):
    """Gives the learner fp16's range: a scaled gradient beyond `limit` becomes infinite."""
    for parameter in learner.model.parameters():
        parameter.register_hook(lambda grad: torch.where(grad.abs() > limit, float("inf"), grad))
    return learner


def test_fp16_trains_as_fp32_where_nothing_overflows(tiny_learner, fp16):
    batches = random_batches([16] * 5)
    scaled, plain = (tiny_learner([0.1] * 5, model=linear(), **more) for more in ({"runtime": fp16}, {}))
    losses = [learner.train(batches, 0, ignore).losses for learner in (scaled, plain)]
    assert equal(*losses)  # the scale is a power of two: nothing is rounded
    assert equal(weights(scaled), weights(plain))


def test_fp16_skips_an_overflow_with_half_the_scale_and_the_schedule_waits(tiny_learner, fp16):
    (batch,) = random_batches([16])
    lrs = [0.1, 0.2, 0.3, 0.4, 0.5]
    learner = overflowing_above(tiny_learner(lrs, model=linear(), runtime=fp16), limit=4000)
    (group,) = learner.optimizer.param_groups
    applied, scales, moved, before = [], [], [], weights(learner)
    learner.optimizer.register_step_pre_hook(lambda *_: applied.append(group["lr"].item()))
    for step in range(4):
        learner.train([batch], step, ignore)
        scales.append(learner.state_dict()["scale"].item())
        moved.append(not equal(weights(learner), before))
        before = weights(learner)
    learner.check()
    # The largest gradient is 0.19: 12,600 with the first scale.
    assert scales == [32768, 16384, 16384, 16384]
    assert moved == [False, False, True, True]
    assert applied == [0.1, 0.1, 0.1, 0.2]


def test_fp16_doubles_the_scale_after_enough_good_updates(tiny_learner, fp16, monkeypatch):
    monkeypatch.setattr(learner_module, "_GROWTH_INTERVAL", 3)
    learner = tiny_learner([0.01] * 8, model=linear(), runtime=fp16)
    scales = []
    for step, batch in enumerate(random_batches([16] * 8)):
        learner.train([batch], step, ignore)
        scales.append(learner.state_dict()["scale"].item() / 65536)
    assert scales == [1, 1, 2, 2, 2, 4, 4, 4]


def test_fp16_goes_on_with_the_scale_and_the_count_of_good_updates(tiny_learner, fp16, monkeypatch):
    monkeypatch.setattr(learner_module, "_GROWTH_INTERVAL", 3)
    batches = random_batches([16] * 5)
    before, after = (tiny_learner([0.01] * 5, model=linear(), runtime=fp16) for _ in range(2))
    before.train(batches[:4], 0, ignore)
    after.load_state_dict(before.state_dict())
    for learner in (before, after):
        learner.train(batches[4:], 4, ignore)
        assert (learner.state_dict()["scale"], learner.state_dict()["good"]) == (131072, 2)


def test_fp16_without_any_scale_left_stops_as_fp32_does(tiny_learner, fp16):
    learner = overflowing_above(tiny_learner([0.1] * 20, model=linear(), runtime=fp16), limit=0.0)
    learner.train(random_batches([16] * 16), 0, ignore)
    learner.check()  # sixteen halvings have brought the scale to 1
    assert learner.state_dict()["scale"] == 1
    learner.train(random_batches([16]), 16, ignore)
    with pytest.raises(NonFinite, match="the gradient of step 16 is not finite"):
        learner.check()
    assert equal(weights(learner), list(linear().parameters()))


def test_fp16_stops_at_once_where_the_loss_itself_is_not_finite(tiny_learner, fp16):
    batches = random_batches([16] * 3)
    batches[1].images[0, 0] = float("nan")
    learner = tiny_learner([0.1] * 3, model=linear(), runtime=fp16)
    learner.train(batches, 0, ignore)
    with pytest.raises(NonFinite, match="the loss of step 1 is not finite"):
        learner.check()


def test_fp16_and_cycled_momentum_are_refused_together(tiny_learner, fp16):
    with pytest.raises(ConfigError, match=r"scheduler\.cycle_momentum=true needs train\.precision=fp32 or bf16"):
        tiny_learner([0.1], model=linear(), runtime=fp16, momenta=(0.9,))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learner_goes_on_from_its_state_bit_for_bit(tiny_learner, bank, optimizer):
    make, lrs = OPTIMIZERS[optimizer], [0.01 * step for step in range(1, 13)]
    whole, first, second = (tiny_learner(lrs, optimizer=make, seed=seed) for seed in (0, 0, 0))
    nn.init.zeros_(second.model[-1].weight)  # nothing of a fresh learner may be left
    batches = list(itertools.islice(shuffled(bank, CropFlipCutout(), 4, 0, 1), 12))
    losses = whole.train(batches, 0, ignore).losses
    first.train(batches[:5], 0, ignore)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.train(batches[5:], 5, ignore).losses, losses[5:])
    assert equal(whole.model.state_dict().values(), second.model.state_dict().values())


GOLDEN = [
    1.51878572, 1.44687426, 1.22762752, 1.3918196,
    1.27204514, 1.2038877, 1.2329998, 0.96411413,
    0.962556541, 1.01056492, 0.801529109, 0.922703087,
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fixed_recipe_gives_the_losses_it_always_gave(tiny_learner, bank, threads):
    """A refactoring must not move them. They depend on torch's initial weights for a seed, and little on rounding: in
    this recipe no rounding turns a maximum or a ReLU over, as it does in others after a few steps."""
    learner = tiny_learner([0.002 * step for step in range(1, 13)], label_smoothing=0.1, clip_grad_norm=5.0)
    batches = [batch for epoch in range(1, 5) for batch in shuffled(bank, CropFlipCutout(), 19, 0, epoch)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        losses = learner.train(batches, 0, ignore).losses.tolist()
    finally:
        torch.set_num_threads(before)
    assert losses == pytest.approx(GOLDEN, rel=1e-5)
