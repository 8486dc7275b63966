"""Mixed images: which image, how much of it, in which box; what they cost, and that a network learns from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.augmentation.crop_flip_mix import CropFlipMix
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, ImageBank, Mixed, Normalisation, in_order, shuffled
from resnet_exp.interfaces import LabelledImages, Mix, Sampling
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.learner import infer

CPU = torch.device("cpu")
KEYS = randomness.keys(torch.arange(20_000), 0, randomness.VIEW, 1)
KINDS = ("mixup", "cutmix")


def ignore(n=1):
    pass


@pytest.fixture(scope="module")
def images():
    """30 random images, each with a label of its own."""
    rng = np.random.default_rng(1)
    return LabelledImages(rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8), np.arange(30))


@pytest.fixture(scope="module")
def resident(images):
    return ImageBank(images, Normalisation.of(images.images), CPU, padding=4)


def same(first, second):
    pairs = [(first.images, second.images), (first.labels, second.labels)]
    pairs += [(first.mixed.labels, second.mixed.labels), (first.mixed.share, second.mixed.share)]
    return all(torch.equal(*pair) for pair in pairs)


# --- which image, and how much of it


def test_the_second_image_is_any_training_image_in_a_view_that_its_key_draws(resident):
    mix = CropFlipMix().sample(KEYS, 12).mix
    assert mix.keys.min() >= 0
    assert stats.chisquare(np.bincount(mix.keys % 30, minlength=30)).pvalue > 0.001
    alone = CropFlipCutout(cutout=0).sample(mix.keys, 12)
    assert torch.equal(mix.view.rows, alone.rows)
    assert torch.equal(mix.view.cols, alone.cols)
    assert mix.view.mix is None


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 50.0])
def test_the_share_is_drawn_from_the_beta_distribution(alpha):
    """By Kolmogorov-Smirnov, in float32: of a small alpha many a share is rounded to 1."""
    found = CropFlipMix(alpha=alpha).sample(KEYS, 8).mix.share.flatten().numpy()
    expected = stats.beta(alpha, alpha).rvs(500_000, random_state=0).astype(np.float32)
    assert stats.ks_2samp(found, expected).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_shares_that_can_be_drawn_lie_at_equal_steps_of_probability(alpha):
    table = CropFlipMix(alpha=alpha)._shares.double().numpy()
    inside = table < 0.999  # as exact as float32 is
    steps = stats.beta(alpha, alpha).cdf(table[inside])
    np.testing.assert_allclose(steps, (np.arange(len(table))[inside] + 0.5) / len(table), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6, 1e12])
def test_an_extreme_alpha_gives_shares_all_the_same(alpha):
    share = CropFlipMix(alpha=alpha).sample(KEYS, 8).mix.share.flatten()
    assert bool(((share >= 0) & (share <= 1)).all())
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.std() == pytest.approx(0.5 / np.sqrt(2 * alpha + 1), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_probability_leaves_the_other_images_whole(kind):
    whole = CropFlipMix(kind=kind, alpha=2.0, probability=0.3).sample(KEYS, 32).mix
    always = CropFlipMix(kind=kind, alpha=2.0).sample(KEYS, 32).mix
    left = (whole.share == 1).all(2).all(1)
    assert stats.binomtest(int((~left).sum()), len(KEYS), 0.3 * 0.999).pvalue > 0.001
    assert torch.equal(whole.share[~left].flatten(1), always.share[~left].flatten(1))
    assert not bool((always.share == 1).flatten(1).all(1).float().mean() > 0.01)


def authors_box(lam, row, column, size):
    """The box of CutMix's first code, for one image: it is cut off at the edges, then lambda is set right."""
    side = int(size * np.sqrt(1.0 - lam))
    top, bottom = np.clip([row - side // 2, row + side // 2], 0, size)
    left, right = np.clip([column - side // 2, column + side // 2], 0, size)
    return top, bottom, left, right


@pytest.mark.parametrize("size", [12, 32, 33])
def test_the_box_is_that_of_cutmixs_first_code(size):
    """Drawn one at a time with numpy: the box's area by Kolmogorov-Smirnov, how often it covers a pixel by 5 sigma."""
    rng, count = np.random.default_rng(2), 4_000
    expected = np.zeros((count, size, size), np.float32)
    for number in range(count):
        top, bottom, left, right = authors_box(rng.beta(1.0, 1.0), *rng.integers(size, size=2), size)
        expected[number, top:bottom, left:right] = 1
    found = 1 - CropFlipMix(kind="cutmix").sample(KEYS[:count], size).mix.share.numpy()
    areas = [boxes.sum((1, 2)) for boxes in (expected, found)]
    assert stats.ks_2samp(*areas).pvalue > 0.01
    error = np.sqrt((expected.var(0) + found.var(0)) / count)
    assert (np.abs(expected.mean(0) - found.mean(0)) <= 5 * error).all()
    np.testing.assert_array_equal(areas[1], found.any(2).sum(1) * found.any(1).sum(1))  # rectangles


# --- the batch


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_two_images_mixed_by_hand(images, resident, kind):
    augmentation = CropFlipMix(kind=kind)
    indices = torch.tensor([3, 29, 0, 3, 17, 8])
    batch = resident.batch(indices, augmentation, 7, 1)
    keys = randomness.keys(indices, 7, 1)
    mix = augmentation.sample(keys, 12).mix
    plain = CropFlipCutout(cutout=0)
    first = resident.batch(indices, plain, 7, 1).images
    for which, key in enumerate(mix.keys):
        other = int(key) % 30
        alone = Fixed(Sampling(mix.view.rows[which : which + 1], mix.view.cols[which : which + 1]))
        second = resident.batch(torch.tensor([other]), alone).images[0]
        share = mix.share[which]
        expected = share * first[which] + (1 - share) * second
        torch.testing.assert_close(batch.images[which], expected, rtol=0, atol=1e-6)
        assert batch.labels[which] == indices[which]
        assert batch.mixed.labels[which] == other
        assert batch.mixed.share[which] == share.double().mean().float()  # as the pixels do on average
    if kind == "cutmix":
        from_first = (batch.images == first).all(1)
        assert bool(from_first[mix.share == 1].all()), "outside of the box not a bit is changed"


class Fixed:
    """An augmentation that always gives this view."""

    padding = 4

    def __init__(self, view):
        self.view = view

    def sample(self, keys, image_size):
        return self.view


def test_each_image_is_erased_before_they_are_mixed(resident):
    """What an augmentation of one's own may ask for: each view has its own square, and the share is a map."""
    pixels = torch.arange(4, 16).expand(2, -1)
    erased = torch.zeros(2, 2, 12, 12, dtype=torch.bool)
    erased[0, :, :3], erased[1, :, :, :3] = True, True
    share = torch.linspace(0, 1, 144).view(1, 12, 12).expand(2, -1, -1)
    mix = Mix(torch.tensor([35, 2]), Sampling(pixels, pixels, erased[1]), share)
    batch = resident.batch(torch.tensor([0, 1]), Fixed(Sampling(pixels, pixels, erased[0], mix)))
    (stored,) = in_order(resident, 30)
    first, second = stored.images[:2].clone(), stored.images[[5, 2]].clone()
    first[:, :, :3], second[:, :, :, :3] = 0, 0
    expected = share[:, None] * first + (1 - share[:, None]) * second
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=1e-6)
    assert batch.mixed.labels.tolist() == [5, 2]
    assert batch.mixed.share.tolist() == pytest.approx([0.5, 0.5])


def test_an_epoch_of_mixed_images_is_the_same_whatever_the_batch_size(resident):
    def epoch(batch_size):
        batches = list(shuffled(resident, CropFlipMix(), batch_size, 0, 1))
        mixed = [torch.cat([getattr(batch.mixed, what) for batch in batches]) for what in ("labels", "share")]
        images, labels = (torch.cat([getattr(batch, what) for batch in batches]) for what in ("images", "labels"))
        return Batch(images, labels, Mixed(*mixed))

    assert same(epoch(7), epoch(30))


def test_what_does_not_mix_pays_nothing(resident, monkeypatch):
    monkeypatch.setattr(ImageBank, "_mixed", None)
    for batch in shuffled(resident, CropFlipCutout(), 8, 0, 1):
        assert batch.mixed is None
        assert batch.main_labels() is batch.labels


# --- the loss, and learning


def mixed_batch(size=13, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels, others = torch.randint(classes, (2, size), generator=generator)
    share = torch.rand(size, generator=generator)
    return Batch(torch.randn(size, 6, generator=generator), labels, Mixed(others, share))


def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_loss_is_torchs_for_labels_that_share(tiny_learner, smoothing, parts):
    """13 images in 4 parts are 4 + 4 + 4 + 1: each image counts alike."""
    batch, model = mixed_batch(), linear()
    share = batch.mixed.share[:, None]
    target = share * F.one_hot(batch.labels, 4) + (1 - share) * F.one_hot(batch.mixed.labels, 4)
    expected = F.cross_entropy(model(batch.images), target, label_smoothing=smoothing)
    expected.backward()
    settings = {"label_smoothing": smoothing, "grad_accum_steps": parts}
    learner = tiny_learner([1.0], model=linear(), optimizer=plain_sgd, **settings)
    steps = learner.train([batch], 0, ignore)
    assert steps.mean_loss() == pytest.approx(expected.item(), rel=1e-6)
    for found, start in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, start - start.grad, rtol=1e-5, atol=1e-6)


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.0)


def test_a_prediction_is_right_if_it_is_the_label_of_the_larger_part(tiny_learner):
    logits = torch.eye(4)[[0, 1, 1, 1]] * 5
    labels, others = torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 1, 1])
    batch = Batch(logits, labels, Mixed(others, torch.tensor([0.9, 0.4, 0.4, 0.5])))
    learner = tiny_learner([0.0], model=nn.Sequential(nn.Linear(4, 4)))
    with torch.no_grad():
        learner.model[0].weight.copy_(torch.eye(4))
        learner.model[0].bias.zero_()
    assert batch.main_labels().tolist() == [0, 1, 1, 2]
    assert learner.train([batch], 0, ignore).accuracy() == 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_learns_from_mixed_images(tiny_learner, bank, cpu, kind):
    learner, augmentation = tiny_learner(), CropFlipMix(kind=kind)
    losses = []
    for epoch in range(1, 31):
        losses.append(learner.train(shuffled(bank, augmentation, 16, 0, epoch), 3 * (epoch - 1), ignore).mean_loss())
    learner.check()
    assert losses[-1] < 0.7 * losses[0]
    assert evaluate(*infer(learner.model, in_order(bank, 16), cpu)).accuracy > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_in_an_epoch_ends_with_the_same_bits(tiny_learner, bank, kind):
    def batches():
        return list(shuffled(bank, CropFlipMix(kind=kind), 16, 0, 1))

    whole, first, second = (tiny_learner() for _ in range(3))
    whole.train(batches(), 0, ignore)
    first.train(batches()[:1], 0, ignore)
    second.load_state_dict(first.state_dict())
    second.train(batches()[1:], 1, ignore)
    for found, expected in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_recipe_gives_the_losses_it_always_gave(tiny_learner, bank, kind):
    """Golden values: a change of them is a change of every result with mixed images."""
    learner, augmentation = tiny_learner(), CropFlipMix(kind=kind)
    losses = learner.train(shuffled(bank, augmentation, 16, 0, 1), 0, ignore).losses.tolist()
    assert losses == pytest.approx(GOLDEN[kind], rel=1e-5)


GOLDEN = {
    "mixup": [1.4436346292495728, 1.366147518157959, 1.185386061668396],
    "cutmix": [1.4347338676452637, 1.4323608875274658, 1.2674485445022583],
}


# --- the settings


@pytest.mark.parametrize(("wrong", "needed"), [
    ({"kind": "cutout"}, "one of mixup, cutmix is needed"),
    ({"alpha": 0}, "a finite number above 0 is needed"),
    ({"probability": 0}, "a finite number above 0 to 1 is needed"),
    ({"probability": 1.5}, "a finite number above 0 to 1 is needed"),
    ({"padding": -1}, "a whole number of at least 0 is needed"),
])  # fmt: skip
def test_a_wrong_setting_is_named(wrong, needed, refused):
    ((key, value),) = wrong.items()
    message = refused("augmentation", "augmentation.crop_flip_mix.CropFlipMix", **wrong)
    assert message == f"augmentation.{key}={value}: {needed}"


# --- the GPU


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_mixes_the_same_images_also_from_the_hosts_memory(images, kind, monkeypatch):
    normalisation, gpu = Normalisation.of(images.images), torch.device("cuda", 0)
    on_cpu, on_gpu = (ImageBank(images, normalisation, device, 4) for device in (CPU, gpu))
    monkeypatch.setattr("resnet_exp.data.bank._SHARE_OF_FREE_MEMORY", 0.0)
    streamed = ImageBank(images, normalisation, gpu, 4)
    assert (on_gpu.store, streamed.store) == (gpu, CPU)
    # Augmentations of their own: the table of shares lies where the keys are.
    epochs = [shuffled(bank, CropFlipMix(kind=kind), 8, 0, 1) for bank in (on_cpu, on_gpu, streamed)]
    for expected, *found in zip(*epochs, strict=True):
        for batch in found:
            assert batch.images.device == batch.mixed.share.device == batch.mixed.labels.device == gpu
            torch.testing.assert_close(batch.images.cpu(), expected.images, rtol=0, atol=1e-5)
            torch.testing.assert_close(batch.mixed.share.cpu(), expected.mixed.share, rtol=0, atol=1e-6)
            assert torch.equal(batch.labels.cpu(), expected.labels)
            assert torch.equal(batch.mixed.labels.cpu(), expected.mixed.labels)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_never_waits_for_the_gpu_within_an_epoch_of_mixed_images(tiny_learner, learnable, kind):
    from resnet_exp.training.device import Runtime

    gpu = torch.device("cuda", 0)
    on_gpu = ImageBank(learnable, Normalisation.of(learnable.images), gpu, padding=4)
    augmentation, learner = CropFlipMix(kind=kind), tiny_learner(runtime=Runtime(gpu, "fp32"))
    learner.train(shuffled(on_gpu, augmentation, 16, 0, 1), 0, ignore)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.train(shuffled(on_gpu, augmentation, 16, 0, 2), 3, ignore)
    finally:
        torch.cuda.set_sync_debug_mode("default")
