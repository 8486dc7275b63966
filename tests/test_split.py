"""What may be asked of a data set's training images, and their split: stratified, disjoint, the same for one seed."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resnet_exp.config.schema import SplitConfig
from resnet_exp.data.split import check_fit, digest, part_of_one, split
from resnet_exp.interfaces import ConfigError, DataSize, LabelledImages


def asked(validation="holdout", holdout=None, limit_train=None):
    return SplitConfig(validation=validation, holdout=holdout, limit_train=limit_train)


def numbered(labels):
    """Images of one pixel that hold their own number, so that each can be told from the others."""
    return LabelledImages(np.arange(len(labels), dtype=np.int64).reshape(-1, 1, 1, 1), np.asarray(labels))


def balanced(count, num_classes=10):
    return numbered(np.arange(count) % num_classes)


def numbers(images):
    return set(images.images.ravel().tolist())


# Of each class its share


@given(
    sizes=st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda sizes: sum(sizes) > len(sizes)),
    part=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    limited=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_each_class_gives_its_share_to_within_one_image_and_keeps_one(sizes, part, seed, limited):
    """The share of what is held out, and of what is left out by limit_train: one rule."""
    sizes, train = np.array(sizes), numbered(np.repeat(np.arange(len(sizes)), sizes))
    count = 1 + int(part * (len(train) - len(sizes) - 1))
    request = asked("none", limit_train=len(train) - count) if limited else asked(holdout=count)
    kept, held = split(train, request, seed, len(sizes))
    left = np.bincount(kept.labels, minlength=len(sizes))
    assert left.sum() == len(train) - count
    assert (left >= np.minimum(sizes, 1)).all()
    share = sizes * count / len(train)
    if (np.ceil(share) < sizes)[sizes > 0].all():  # else a class keeps an image that its share would take
        assert np.abs(sizes - left - share).max() < 1
    assert held is None if limited else numbers(kept) | numbers(held) == numbers(train)
    assert held is None or not numbers(kept) & numbers(held)


def test_many_rare_classes_do_not_take_the_share_of_a_common_one():
    train = numbered(np.concatenate([np.zeros(900, np.int64), np.repeat(np.arange(1, 101), 3)]))
    _, held = split(train, asked(holdout=204), 0, 101)
    assert abs(int((held.labels == 0).sum()) - 153) <= 1


def test_a_class_never_gives_its_last_image():
    """Classes of one image each, and a limit whose shares would round half of them to none."""
    train = numbered(np.concatenate([np.zeros(900, np.int64), np.arange(1, 101)]))
    for request in (asked(holdout=500), asked("none", limit_train=101), asked(holdout=60, limit_train=200)):
        kept, _ = split(train, request, 0, 101)
        assert len(np.unique(kept.labels)) == 101


def test_what_the_rounding_leaves_goes_to_the_first_classes():
    kept, held = split(balanced(1000), asked(holdout=25, limit_train=203), 0, 10)
    assert np.bincount(np.r_[kept.labels, held.labels]).tolist() == [21] * 3 + [20] * 7


def test_a_split_is_the_one_it_has_always_been():
    """Golden: another choice of images would change the results of every run without a word."""
    labels = (np.arange(500) ** 2 // 7) % 10
    kept, held = split(numbered(labels), asked(holdout=20, limit_train=120), 3, 10)
    assert sorted(numbers(held)) == [
        14, 21, 27, 63, 107, 212, 225, 227, 245, 278, 298, 307, 308, 332, 341, 342, 373, 391, 428, 451,
    ]  # fmt: skip
    assert (len(kept), sum(numbers(kept))) == (100, 25_993)


def test_the_labels_stay_with_their_images():
    train = balanced(100)
    for part in split(train, asked(holdout=30), 0, 10):
        assert (part.images.ravel() % 10 == part.labels).all()


def test_one_seed_makes_one_split_and_another_seed_another():
    first, again, other = (split(balanced(1000), asked(holdout=100), seed, 10)[1] for seed in (0, 0, 1))
    assert numbers(first) == numbers(again)
    assert len(numbers(first) & numbers(other)) < 30  # 10 are expected of two random ones


@pytest.mark.parametrize(("images", "held_out"), [
    (60_000, 5_000), (50_000, 5_000), (49_999, 5_000), (1_442, 144), (30, 10),
])  # fmt: skip
def test_what_is_held_out_by_default(images, held_out):
    """5,000 of 50,000 and more, a tenth of smaller sets, and at least an image of each class."""
    kept, held = split(balanced(images), asked(), 0, 10)
    assert (len(kept), len(held)) == (images - held_out, held_out)


@pytest.mark.parametrize("validation", ["none", "test"])
def test_nothing_is_held_out_where_nothing_is_asked_for(validation):
    kept, held = split(balanced(100), asked(validation), 0, 10)
    assert held is None
    assert len(kept) == 100


def test_limit_train_takes_of_each_class_its_share_and_holds_out_of_that():
    kept, held = split(balanced(1000), asked(limit_train=200), 0, 10)
    assert (len(kept), len(held)) == (180, 20)
    assert set(np.bincount(kept.labels)) == {18}
    assert numbers(kept) | numbers(held) == numbers(split(balanced(1000), asked("none", limit_train=200), 0, 10)[0])


# What fits


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    validation=st.sampled_from(["holdout", "none", "test"]),
    holdout=st.none() | st.integers(1, 70),
    limit=st.none() | st.integers(1, 70),
    batch_size=st.integers(1, 70),
)
@example(labels=[0, 1, 2, 3, 4, 5], validation="holdout", holdout=None, limit=None, batch_size=2)
@example(labels=[0, 0, 0, 1, 2, 3, 4, 5], validation="holdout", holdout=2, limit=None, batch_size=6)
@settings(max_examples=400, deadline=None)
def test_what_is_admitted_is_done_and_what_is_refused_could_not_be(labels, validation, holdout, limit, batch_size):
    classes, labels = len(set(labels)), np.unique(labels, return_inverse=True)[1].ravel()
    request = asked(validation, holdout if validation == "holdout" else None, limit)
    if could_not_be_done(len(labels), classes, request, batch_size):
        with pytest.raises(ConfigError):
            check_fit(DataSize(len(labels), classes), request, batch_size)
        return
    promised = check_fit(DataSize(len(labels), classes), request, batch_size)
    trained, held = split(numbered(labels), request, 0, classes)
    assert len(trained) == promised
    assert len(trained) + (len(held) if held else 0) == (limit or len(labels))
    assert (held is None) == (validation != "holdout")
    assert len(held if held else "-") >= 1
    assert len(np.unique(trained.labels)) == classes, "each class has an image to train on"
    assert min(len(part) for part in torch.arange(promised).split(batch_size)) >= 2, "batches, as the loop makes them"
    assert batch_size <= promised


def could_not_be_done(images, classes, request, batch_size):
    """Whether drawing it by hand fails: images from an urn, then batches from what is left."""
    urn = list(range(images))
    if request.limit_train:
        if request.limit_train > len(urn):
            return True
        urn = urn[: request.limit_train]
    if request.validation == "holdout":
        tenth = max(classes, round(len(urn) / 10))
        for _ in range(request.holdout or tenth):
            if not urn:
                return True
            urn.pop()
    if len(urn) < classes:  # by the pigeonhole principle a class has none
        return True
    batches = [urn[start : start + batch_size] for start in range(0, len(urn), batch_size)]
    return batch_size > len(urn) or min(map(len, batches)) == 1


@pytest.mark.parametrize(("size", "request_", "batch_size", "trained"), [
    (DataSize(50_000, 10), asked(), 512, 45_000),  # CIFAR-10, by default
    (DataSize(50_000, 100), asked("test"), 512, 50_000),
    (DataSize(1_442, 10), asked(limit_train=200), 64, 180),
    (DataSize(20, 10), asked(), 5, 10),
    (DataSize(1_000, 10), asked(holdout=1), 512, 999),  # few are held out: harmless
])  # fmt: skip
def test_what_fits_tells_how_many_images_are_trained_on(size, request_, batch_size, trained):
    assert check_fit(size, request_, batch_size) == trained


@pytest.mark.parametrize(("request_", "batch_size", "message"), [
    (asked(limit_train=101), 8, "data.limit_train=101: a whole number from 10, one image for each class, to the"),
    (asked("none", limit_train=9), 8, "data.limit_train=9: a whole number from 10, one image for each class, to the"),
    (asked(holdout=100), 8, "data.holdout=100: a whole number from 1 to 90 is needed, so that of the 100 training ima"),
    (asked(holdout=91), 8, "data.holdout=91: a whole number from 1 to 90 is needed"),
    (asked(holdout=50, limit_train=50), 8, "from 1 to 40 is needed, so that of the 50 training images (data.limit_t"),
    (asked(limit_train=10), 8, "data.holdout=null: none of the 10 training images (data.limit_train) can be held out"),
    (asked(limit_train=19), 8, "data.holdout=null, here 10: a whole number from 1 to 9 is needed"),
    (asked(limit_train=19), 8, "or take data.validation=none, or test"),
    (asked("none"), 101, "train.batch_size=101: a whole number up to the 100 images trained on is needed"),
    (asked(), 91, "train.batch_size=91: a whole number up to the 90 images trained on is needed"),
    (asked(holdout=9), 15, "train.batch_size=15 leaves a last batch of one image of the 91: batch norm"),
    (asked(holdout=9), 15, "take 14 or 16"),
    (asked("none"), 33, "take 32 or 34"),
    (asked("none", limit_train=91), 9, "take 7 or 8"),  # 10 would leave one too
    (asked("none"), 1, "train.batch_size=1 makes batches of one image: batch normalisation needs two; take 2 or 4"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_key_value_range_and_a_way_out(request_, batch_size, message):
    with pytest.raises(ConfigError) as caught:
        check_fit(DataSize(100, 10), request_, batch_size)
    assert message in str(caught.value)


def test_a_batch_of_one_image_is_what_a_network_cannot_take():
    from resnet_exp.models.custom_resnet import CustomResNet

    network = CustomResNet(num_classes=2, in_channels=3, image_size=8, width=2)
    network(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(1, 3, 8, 8))


def test_asking_whether_it_fits_imports_no_torch():
    program = "import sys, resnet_exp.data.split; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# The digest


def test_the_digest_sees_one_pixel_and_one_label():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.arange(4)
    changed_pixel, changed_label = images.copy(), labels.copy()
    changed_pixel[3, 1, 1, 0] = 1
    changed_label[0] = 1
    digests = {digest(LabelledImages(*both)) for both in [
        (images, labels), (changed_pixel, labels), (images, changed_label),
    ]}  # fmt: skip
    assert len(digests) == 3
    assert digest(LabelledImages(images.copy(), labels.copy())) in digests


# Parts of a batch


@pytest.mark.parametrize(("trained", "batch_size", "parts"), [
    (64, 16, 16), (64, 16, 9), (64, 16, 8), (66, 16, 2), (67, 16, 2), (68, 16, 2), (60, 15, 7), (60, 15, 14),
    (60, 13, 4), (60, 10, 3), (102, 33, 16),
])  # fmt: skip
def test_a_part_of_one_image_is_found_as_torch_cuts_the_batch(trained, batch_size, parts):
    sizes = [len(batch) for batch in torch.arange(trained).split(batch_size)]
    cut = {size: [len(part) for part in torch.arange(size).chunk(parts)] for size in sizes}
    found = part_of_one(trained, batch_size, parts)
    assert (found is not None) == any(1 in each for each in cut.values())
    if found is None:
        return
    (named, taken) = re.search(
        r"of one image of a batch of (\d+): .* take train.grad_accum_steps=(\d+)", found
    ).groups()
    assert 1 in cut[int(named)]
    assert all(1 not in [len(part) for part in torch.arange(size).chunk(int(taken))] for size in sizes)


@given(st.integers(2, 300), st.integers(2, 64), st.integers(1, 64))
def test_no_part_of_one_image_is_missed_and_none_invented(trained, batch_size, parts):
    if parts > batch_size or batch_size > trained or trained % batch_size == 1:
        return  # refused elsewhere
    sizes = [len(batch) for batch in torch.arange(trained).split(batch_size)]
    alone = any(len(part) == 1 for size in sizes for part in torch.arange(size).chunk(parts))
    assert (part_of_one(trained, batch_size, parts) is not None) == alone
