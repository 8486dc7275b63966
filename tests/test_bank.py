"""Batches from the bank: pixel for pixel what cropping, flipping and erasing each image by hand gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from resnet_exp.augmentation.crop_flip_cutout import CropFlipCutout
from resnet_exp.data import randomness
from resnet_exp.data.bank import ImageBank, Normalisation, in_order, num_batches, shuffled
from resnet_exp.interfaces import LabelledImages

CPU = torch.device("cpu")
KEYS = randomness.keys(torch.arange(20_000), 0, randomness.VIEW, 1)


def by_hand(image, view, which, padding, normalisation):
    """One image `[H, W, C], uint8` padded, cropped, flipped, normalised and erased; `[C, H, W], float64`."""
    size = image.shape[0]
    black = np.zeros((size + 2 * padding, size + 2 * padding, image.shape[2]), np.uint8)
    black[padding : padding + size, padding : padding + size] = image
    top, left = int(view.rows[which].min()), int(view.cols[which].min())
    pixels = black[top : top + size, left : left + size].astype(np.float64)
    if view.cols[which][0] > view.cols[which][-1]:
        pixels = pixels[:, ::-1]
    pixels = (pixels - normalisation.mean) / normalisation.std
    if view.erase is not None:
        for row, column in np.argwhere(view.erase[which].numpy()):
            pixels[row, column] = 0.0
    return pixels.transpose(2, 0, 1)


@pytest.fixture(scope="module")
def images():
    """Random images, in which any mix-up of axes shows."""
    rng = np.random.default_rng(1)
    return LabelledImages(rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8), rng.integers(0, 5, 30))


@pytest.mark.parametrize("augmentation", [
    CropFlipCutout(padding=4, flip=True, cutout=5),
    CropFlipCutout(padding=4, flip=False, cutout=0),
    CropFlipCutout(padding=0, flip=True, cutout=0),
    CropFlipCutout(padding=0, flip=False, cutout=4),
    CropFlipCutout(padding=0, flip=False, cutout=0),
], ids=["crop_flip_cutout", "crop", "flip", "cutout", "none"])  # fmt: skip
def test_a_batch_is_what_each_image_gives_by_hand(images, augmentation):
    normalisation = Normalisation.of(images.images)
    bank = ImageBank(images, normalisation, CPU, augmentation.padding)
    indices = torch.tensor([3, 29, 0, 3, 17, 8])
    batch = bank.batch(indices, augmentation, 7, 1)
    view = augmentation.sample(randomness.keys(indices, 7, 1), 12)
    expected = [
        by_hand(images.images[i], view, which, augmentation.padding, normalisation) for which, i in enumerate(indices)
    ]
    np.testing.assert_allclose(batch.images.numpy(), np.stack(expected), rtol=0, atol=1e-5)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.tolist() == images.labels[indices].tolist()
    if augmentation.cutout:
        assert bool(view.erase.any())
        assert not batch.images.permute(0, 2, 3, 1)[view.erase].any()  # exactly 0


def test_a_crop_past_the_edge_shows_black(images):
    normalisation = Normalisation.of(images.images)
    bank = ImageBank(images, normalisation, CPU, padding=4)
    augmentation = CropFlipCutout(padding=4, flip=False, cutout=0)
    view = augmentation.sample(randomness.keys(torch.arange(30), 0), 12)
    topmost = int(view.rows[:, 0].argmin())
    assert view.rows[topmost, 0] == 0
    first_row = bank.batch(torch.arange(30), augmentation, 0).images[topmost, :, 0]
    black = -torch.tensor(normalisation.mean) / torch.tensor(normalisation.std)
    torch.testing.assert_close(first_row, black[:, None].expand(3, 12))


def test_training_images_have_mean_0_and_standard_deviation_1(images):
    bank = ImageBank(images, Normalisation.of(images.images), CPU, padding=4)
    (batch,) = in_order(bank, 30)
    std, mean = torch.std_mean(batch.images.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(std, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_statistics_are_numpys_and_a_channel_without_contrast_divides_by_one(images):
    normalisation = Normalisation.of(images.images)
    np.testing.assert_allclose(normalisation.mean, images.images.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, images.images.std(axis=(0, 1, 2)), rtol=1e-12)
    assert Normalisation.of(np.full((2, 4, 4, 1), 7, np.uint8)) == Normalisation((7.0,), (1.0,))


def test_in_order_gives_each_stored_image_once_as_it_is(images):
    normalisation = Normalisation.of(images.images)
    batches = list(in_order(ImageBank(images, normalisation, CPU, padding=4), 8))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 6]
    restored = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1) * torch.tensor(normalisation.std)
    restored = (restored + torch.tensor(normalisation.mean)).round().to(torch.uint8)
    np.testing.assert_array_equal(restored.numpy(), images.images)
    assert torch.cat([batch.labels for batch in batches]).tolist() == images.labels.tolist()


def test_an_epoch_shows_the_same_views_whatever_the_batch_size(images):
    bank, augmentation = ImageBank(images, Normalisation.of(images.images), CPU, 4), CropFlipCutout()

    def epoch(batch_size, seed=0, number=1):
        return torch.cat([batch.images for batch in shuffled(bank, augmentation, batch_size, seed, number)])

    assert torch.equal(epoch(7), epoch(30))


def test_each_epoch_and_each_seed_has_an_order_and_views_of_its_own(images):
    numbered = LabelledImages(images.images, np.arange(30))
    bank, augmentation = ImageBank(numbered, Normalisation.of(images.images), CPU, 4), CropFlipCutout()

    def epoch(seed, number):
        (batch,) = shuffled(bank, augmentation, 30, seed, number)
        return batch.labels, batch.images[batch.labels.argsort()]

    order, views = epoch(0, 1)
    for other_order, other_views in (epoch(0, 2), epoch(1, 1)):
        assert (order == other_order).sum() < 8  # one is expected of two random orders
        same = (views == other_views).flatten(1).all(1)
        assert same.sum() < 3  # of 162 crops and flips, and 144 places of the square


def test_an_epoch_shows_every_image_once(images):
    numbered = LabelledImages(images.images, np.arange(30))
    bank = ImageBank(numbered, Normalisation.of(images.images), CPU, 4)
    batches = list(shuffled(bank, CropFlipCutout(), 8, 0, 1))
    shown = torch.cat([batch.labels for batch in batches]).tolist()
    assert sorted(shown) == list(range(30))
    assert shown != list(range(30))
    assert len(batches) == num_batches(30, 8) == 4


def test_an_epoch_begins_at_any_batch_without_those_before_it(monkeypatch, bank):
    expected = list(shuffled(bank, CropFlipCutout(), 10, 0, 3))
    computed = []
    original = ImageBank.batch
    monkeypatch.setattr(ImageBank, "batch", lambda *args: computed.append(1) or original(*args))
    for first in (0, 1, 4, 5):
        computed.clear()
        found = list(shuffled(bank, CropFlipCutout(), 10, 0, 3, first=first))
        assert len(found) == len(computed) == len(expected) - first
        assert all(torch.equal(a.images, b.images) for a, b in zip(found, expected[first:], strict=True))
        assert all(torch.equal(a.labels, b.labels) for a, b in zip(found, expected[first:], strict=True))


@pytest.mark.parametrize(("images", "batch_size", "batches"), [(1, 1, 1), (16, 8, 2), (17, 8, 3), (7, 8, 1)])
def test_the_last_batch_is_counted(images, batch_size, batches):
    assert num_batches(images, batch_size) == batches


def test_grey_images_keep_their_one_channel(images):
    grey = LabelledImages(images.images[..., :1], images.labels)
    bank = ImageBank(grey, Normalisation.of(grey.images), CPU, 4)
    assert next(shuffled(bank, CropFlipCutout(), 8, 0, 1)).images.shape == (8, 1, 12, 12)


@pytest.fixture(scope="module")
def views():
    return CropFlipCutout(padding=4, flip=True, cutout=8).sample(KEYS, 32)


def test_crops_begin_anywhere_from_0_to_8(views):
    tops, lefts = views.rows.min(1).values, views.cols.min(1).values
    both = np.bincount(tops * 9 + lefts, minlength=81)
    assert len(both) == 81
    expected = len(KEYS) / 81
    assert ((both - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 80)


def test_half_are_mirrored_and_no_view_skips_a_pixel(views):
    steps = views.cols.diff(dim=1)
    mirrored = steps[:, 0] == -1
    # Half of them whatever the crop: 9 columns, each mirrored or not.
    both = np.bincount(views.cols.min(1).values * 2 + mirrored, minlength=18)
    expected = len(KEYS) / 18
    assert ((both - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 17)
    assert bool((steps == torch.where(mirrored, -1, 1)[:, None]).all())
    assert bool((views.rows.diff(dim=1) == 1).all())


def test_cutout_erases_a_square_whose_centre_lies_anywhere_in_the_image(views):
    """DeVries and Taylor: the centre is uniform over all pixels, and what lies outside the image is cut off."""
    expected = np.zeros((32, 32))
    for row in range(32):
        for column in range(32):
            expected[max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4] += 1 / 32**2
    found = views.erase.double().mean(0).numpy()
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / len(KEYS))
    rows, columns = views.erase.any(2).sum(1), views.erase.any(1).sum(1)
    assert torch.equal(views.erase.sum((1, 2)), rows * columns)  # a rectangle
    assert (int(rows.min()), int(rows.max())) == (4, 8)  # at least half of it is inside, however far out the centre
    whole = float(((rows == 8) & (columns == 8)).double().mean())
    assert whole == pytest.approx((25 / 32) ** 2, abs=0.015)


def test_what_is_left_out_changes_nothing_else():
    full, bare = CropFlipCutout(), CropFlipCutout(flip=False, cutout=0)
    keys = KEYS[:100]
    assert bare.sample(keys, 32).erase is None
    assert torch.equal(full.sample(keys, 32).rows, bare.sample(keys, 32).rows)
    assert torch.equal(full.sample(keys, 32).cols.min(1).values, bare.sample(keys, 32).cols.min(1).values)


@pytest.mark.parametrize("wrong", [
    {"padding": -1}, {"padding": 1.5}, {"padding": True}, {"cutout": -8}, {"cutout": "8"}, {"flip": 1},
])  # fmt: skip
def test_a_wrong_setting_is_named(wrong, refused):
    (key, value), *_ = wrong.items()
    message = refused("augmentation", "augmentation.crop_flip_cutout.CropFlipCutout", **wrong)
    assert message.startswith(f"augmentation.{key}={str(value).lower()}: ")


@pytest.mark.cuda
def test_the_gpu_draws_the_same_views(images):
    augmentation, normalisation = CropFlipCutout(), Normalisation.of(images.images)
    banks = (ImageBank(images, normalisation, torch.device(name), 4) for name in ("cpu", "cuda"))
    for expected, found in zip(*(shuffled(bank, augmentation, 8, 0, 1) for bank in banks), strict=True):
        torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-5)
        assert torch.equal(found.labels.cpu(), expected.labels)


@pytest.mark.cuda
def test_images_too_many_for_the_gpu_stay_in_the_hosts_memory_and_give_the_same_batches(images, monkeypatch):
    augmentation, normalisation = CropFlipCutout(), Normalisation.of(images.images)
    gpu = torch.device("cuda", 0)
    resident = ImageBank(images, normalisation, gpu, 4)
    monkeypatch.setattr("resnet_exp.data.bank._SHARE_OF_FREE_MEMORY", 0.0)
    streamed = ImageBank(images, normalisation, gpu, 4)
    assert (resident.store, streamed.store) == (gpu, CPU)
    epochs = (shuffled(bank, augmentation, 8, 0, 1) for bank in (resident, streamed))
    for expected, found in zip(*epochs, strict=True):
        assert found.images.device == gpu
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)


def test_pixels_are_the_images_as_they_were_loaded(bank, learnable):
    indices = torch.tensor([5, 0, 40])
    assert (bank.pixels(indices) == learnable.images[[5, 0, 40]]).all()


def test_what_the_network_sees_can_be_shown(bank, learnable):
    seen = bank.batch(torch.arange(8), None).images
    assert (bank.denormalised(seen) == learnable.images[:8]).all()
