"""What every augmentation in conf/ gives, against torchvision's transforms of one image at a time.

The tests find the yamls. Distributions are tested to 1 in 1,000; all draws are fixed, so that none fails by chance.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.datasets import load_digits

from resnet_exp.config.conf import CONF
from resnet_exp.data import randomness
from resnet_exp.data.bank import ImageBank, Normalisation, in_order, shuffled
from resnet_exp.interfaces import LabelledImages

NAMES = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))
# Those that torchvision has, or a few lines here.
COMPARED = ("crop_flip_cutout.CropFlipCutout", "crop_flip_mix.CropFlipMix")
CPU = torch.device("cpu")
SIZE = 32
KEYS = randomness.keys(torch.arange(40_000), 5, randomness.VIEW, 1)


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "augmentation" / f"{name}.yaml").read_text())


def made(name: str):
    arguments = settings(name)
    module, _, kind = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), kind)(**arguments)


def filled(count: int) -> LabelledImages:
    """Real digits, 32x32, of two classes in turn: grey on a slope, so that black from the padding shows."""
    digits = load_digits()
    images = [digits.images[digits.target == label][number] for number in range(2) for label in (2, 7)]
    slope = 40 + 2 * np.arange(SIZE)[:, None] + np.arange(SIZE)
    images = [np.minimum(np.kron(image, np.ones((4, 4))) * 6 + slope, 255).astype(np.uint8) for image in images]
    return LabelledImages(np.resize(np.stack(images)[..., None], (count, SIZE, SIZE, 1)), np.arange(count) % 2)


def bank_for(augmentation, split: LabelledImages) -> ImageBank:
    return ImageBank(split, Normalisation.of(split.images), CPU, augmentation.padding)


@pytest.fixture(scope="module")
def digits():
    return filled(4_000)


def each_augmentation(test):
    return pytest.mark.parametrize("name", NAMES)(test)


def each_compared(test):
    return pytest.mark.parametrize("name", [name for name in NAMES if settings(name)["_target_"].endswith(COMPARED)])(
        test
    )


def test_the_usual_ones_are_there():
    assert {"none", "crop", "crop_flip", "crop_flip_cutout", "crop_flip_mixup", "crop_flip_cutmix"} <= set(NAMES)


def same(first, second):
    labels = torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    if first.mixed is None or second.mixed is None:
        return labels and first.mixed is second.mixed
    mixed = zip(vars(first.mixed).values(), vars(second.mixed).values(), strict=True)
    return labels and all(itertools.starmap(torch.equal, mixed))


@each_augmentation
def test_an_image_is_the_same_whatever_else_is_in_its_batch(name, digits):
    augmentation = made(name)
    bank = bank_for(augmentation, digits)
    indices = torch.tensor([7, 3, 3999, 0, 12])
    alone = [bank.batch(index[None], augmentation, 1, 2) for index in indices]
    for order in (indices, indices.flip(0)):
        together = bank.batch(order, augmentation, 1, 2)
        for found, index in zip(together.chunks(5), order, strict=True):
            assert same(found, alone[int((indices == index).nonzero())])


@each_augmentation
def test_an_epoch_begun_in_its_middle_shows_the_same_batches(name, digits):
    """As after a kill: a new bank, and an augmentation that has drawn nothing yet."""

    def epoch(number):
        augmentation = made(name)
        return list(itertools.islice(shuffled(bank_for(augmentation, digits), augmentation, 64, 0, number), 4))

    whole = epoch(2)
    assert same(epoch(2)[3], whole[3])
    changing = name != "none"
    other = bank_for(made(name), digits).batch(torch.arange(64), made(name), 0, randomness.VIEW, 3)
    one = bank_for(made(name), digits).batch(torch.arange(64), made(name), 0, randomness.VIEW, 2)
    assert torch.equal(one.images, other.images) != changing


@each_augmentation
def test_a_batch_is_normalised_and_within_the_range_of_pixels(name, digits):
    augmentation = made(name)
    bank = bank_for(augmentation, digits)
    batch = bank.batch(torch.arange(500), augmentation, 1)
    normalisation = Normalisation.of(digits.images)
    black, white = ((value - normalisation.mean[0]) / normalisation.std[0] for value in (0, 255))
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (500, 1, SIZE, SIZE)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.min() >= black - 1e-5
    assert batch.images.max() <= white + 1e-5
    assert batch.labels.tolist() == [index % 2 for index in range(500)]
    if batch.mixed is not None:
        assert batch.mixed.labels.dtype == torch.int64
        assert batch.mixed.share.dtype == torch.float32
        assert bool(((batch.mixed.share >= 0) & (batch.mixed.share <= 1)).all())


@each_augmentation
def test_images_to_measure_on_are_never_changed(name, digits):
    """Validation and test images are read in order, from a bank that may be padded, with no augmentation at all."""
    stored, padding = LabelledImages(digits.images[:8], digits.labels[:8]), made(name).padding
    normalisation = Normalisation.of(digits.images)
    (batch,) = in_order(ImageBank(stored, normalisation, CPU, padding), 8)
    expected = (stored.images.transpose(0, 3, 1, 2) - normalisation.mean[0]) / normalisation.std[0]
    np.testing.assert_allclose(batch.images, expected, rtol=0, atol=1e-5)
    assert batch.mixed is None


def views_of(augmentation) -> list:
    """The view of each image and, where images are mixed, that of the second."""
    view = augmentation.sample(KEYS, SIZE)
    return [view] if view.mix is None else [view, view.mix.view]


def drawn_of(view) -> dict[str, torch.Tensor]:
    """What was drawn for each image, small whole numbers."""
    drawn = {"top": view.rows.min(1).values, "left": view.cols.min(1).values}
    drawn["mirrored"] = (view.cols[:, 0] > view.cols[:, -1]).long()
    if view.erase is not None:  # in which quarter of the image most of the square lies
        for axis, seen in (("erased row", view.erase.any(2)), ("erased column", view.erase.any(1))):
            middle = (seen * torch.arange(SIZE)).sum(1) / seen.sum(1)
            drawn[axis] = (middle / 8).long()
    return drawn


@each_compared
def test_a_crop_begins_anywhere_and_half_are_mirrored(name):
    """As torchvision's RandomCrop.get_params and RandomHorizontalFlip(0.5): all cases alike, by chi-square."""
    padding, flip = settings(name)["padding"], settings(name)["flip"]
    shifts, ways = 2 * padding + 1, 2 if flip else 1
    for view in views_of(made(name)):
        drawn = drawn_of(view)
        cases = (drawn["top"] * shifts + drawn["left"]) * 2 + drawn["mirrored"]
        counts = np.bincount(cases, minlength=2 * shifts**2).reshape(-1, 2)[:, :ways].ravel()
        assert counts.sum() == len(KEYS)
        assert counts.size == shifts**2 * ways
        assert counts.size == 1 or stats.chisquare(counts).pvalue > 0.001


@each_augmentation
def test_no_draw_tells_anything_of_another(name):
    """Pairwise, by chi-square: the crop, the flip, the square; those of the second image; the share of the first."""
    augmentation = made(name)
    view = augmentation.sample(KEYS, SIZE)
    drawn = drawn_of(view)
    if view.mix is not None:
        drawn |= {f"second's {what}": values for what, values in drawn_of(view.mix.view).items()}
        drawn["second"] = view.mix.keys % 10
        share = view.mix.share.mean((1, 2))
        drawn["share"] = torch.bucketize(share, share.quantile(torch.tensor([0.25, 0.5, 0.75])))
    drawn = {what: values for what, values in drawn.items() if len(values.unique()) > 1}
    pairs = list(itertools.combinations(drawn, 2))
    for one, other in pairs:
        table = torch.zeros(int(drawn[one].max()) + 1, int(drawn[other].max()) + 1)
        table.index_put_((drawn[one], drawn[other]), torch.ones(len(KEYS)), accumulate=True)
        assert stats.chi2_contingency(table.numpy()).pvalue > 0.001 / len(pairs), (one, other)


def cut_out(image: torch.Tensor, side: int, rng: np.random.Generator) -> torch.Tensor:
    """A square set to 0 about a pixel drawn from all, what lies outside left off; DeVries and Taylor, section 3.2."""
    row, column = rng.integers(SIZE, size=2)
    image = image.clone()
    for y, x in itertools.product(range(side), range(side)):
        at = row - side // 2 + y, column - side // 2 + x
        if all(0 <= place < SIZE for place in at):
            image[:, at[0], at[1]] = 0.0
    return image


def one_at_a_time(name: str, split: LabelledImages, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many of torchvision's own, images `[count, 1, H, W]` and soft labels `[count, 2]`; CutOut by `cut_out`."""
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, v2

    torch.manual_seed(0)
    rng, plan, normalisation = np.random.default_rng(0), settings(name), Normalisation.of(split.images)
    tensors = torch.from_numpy(split.images).permute(0, 3, 1, 2)
    view = Compose([
        RandomCrop(SIZE, padding=plan["padding"]),
        *([RandomHorizontalFlip()] if plan["flip"] else []),
        lambda image: (image - normalisation.mean[0]) / normalisation.std[0],
        *([lambda image: cut_out(image, plan["cutout"], rng)] if plan.get("cutout") else []),
    ])  # fmt: skip
    firsts = torch.arange(count) % len(tensors)
    images, labels = (
        torch.stack([view(tensors[index]) for index in firsts]),
        torch.eye(2)[torch.from_numpy(split.labels)[firsts]],
    )
    if "kind" in plan:
        mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[plan["kind"]](alpha=plan["alpha"], num_classes=2)
        for number, second in enumerate(rng.integers(len(tensors), size=count)):
            pair = torch.stack([images[number], view(tensors[second])])
            mixed, shares = mix(pair, torch.tensor([split.labels[firsts[number]], split.labels[second]]))
            images[number], labels[number] = mixed[0], shares[0]
    return images, labels


@each_compared
def test_pixels_and_labels_have_torchvisions_means_and_second_moments(name, digits):
    """Each pixel's, over 4,000 draws on each side; they may differ by 5 standard errors."""
    augmentation, count = made(name), len(digits)
    batch = bank_for(augmentation, digits).batch(torch.arange(count), augmentation, 1)
    labels = torch.eye(2)[batch.labels]
    if batch.mixed is not None:
        share = batch.mixed.share[:, None]
        labels = share * labels + (1 - share) * torch.eye(2)[batch.mixed.labels]
    expected_images, expected_labels = one_at_a_time(name, digits, count)
    for found, expected in ((batch.images, expected_images), (labels, expected_labels)):
        for power in (1, 2):
            one, other = found.double() ** power, expected.double() ** power
            error = ((one.var(0) + other.var(0)) / count).sqrt()
            assert bool(((one.mean(0) - other.mean(0)).abs() <= 5 * error + 1e-5).all()), f"moment {power}"


@pytest.mark.parametrize("name", [name for name in NAMES if settings(name).get("cutout")])
def test_the_erased_area_is_distributed_as_that_of_squares_erased_one_at_a_time(name):
    rng, side = np.random.default_rng(1), settings(name)["cutout"]
    ones = torch.ones(1, SIZE, SIZE)
    expected = [int((cut_out(ones, side, rng) == 0).sum()) for _ in range(4_000)]
    found = made(name).sample(KEYS[:4_000], SIZE).erase.sum((1, 2)).tolist()
    areas = sorted({*expected, *found})
    table = [[side_of.count(area) for area in areas] for side_of in (expected, found)]
    assert max(found) == side**2
    assert stats.chi2_contingency(table).pvalue > 0.001
