"""The split of the training images: stratified, disjoint, the same for one seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_exp.data.split import digest, split
from resnet_exp.interfaces import ConfigError, LabelledImages


def numbered(labels):
    """Images of one pixel that hold their own number, so that each can be told from the others."""
    return LabelledImages(np.arange(len(labels), dtype=np.int64).reshape(-1, 1, 1, 1), np.asarray(labels))


def balanced(count, num_classes=10):
    return numbered(np.arange(count) % num_classes)


def numbers(images):
    return set(images.images.ravel().tolist())


@given(
    sizes=st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda sizes: sum(sizes) > 2),
    part=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=100, deadline=None)
def test_each_class_gives_its_share_to_within_one_image(sizes, part, seed):
    train = numbered(np.repeat(np.arange(len(sizes)), sizes))
    count = 1 + int(part * (len(train) - 1))
    kept, held = split(train, "holdout", count, None, seed, len(sizes))
    assert len(held) == count
    share = np.array(sizes) * count / len(train)
    assert np.abs(np.bincount(held.labels, minlength=len(sizes)) - share).max() < 1
    assert numbers(kept) | numbers(held) == numbers(train)
    assert not numbers(kept) & numbers(held)


def test_many_rare_classes_do_not_take_the_share_of_a_common_one():
    train = numbered(np.concatenate([np.zeros(900, np.int64), np.repeat(np.arange(1, 101), 3)]))
    _, held = split(train, "holdout", 204, None, 0, 101)
    assert abs(int((held.labels == 0).sum()) - 153) <= 1


def test_the_labels_stay_with_their_images():
    train = balanced(100)
    for part in split(train, "holdout", 30, None, 0, 10):
        assert (part.images.ravel() % 10 == part.labels).all()


def test_one_seed_makes_one_split_and_another_seed_another():
    first, again, other = (split(balanced(1000), "holdout", 100, None, seed, 10)[1] for seed in (0, 0, 1))
    assert numbers(first) == numbers(again)
    assert len(numbers(first) & numbers(other)) < 30  # 10 are expected of two random ones


@pytest.mark.parametrize(("images", "held_out"), [
    (60_000, 5_000), (50_000, 5_000), (49_999, 5_000), (1_442, 144), (30, 10),
])  # fmt: skip
def test_what_is_held_out_by_default(images, held_out):
    """5,000 of 50,000 and more, a tenth of smaller sets, and at least an image of each class."""
    kept, held = split(balanced(images), "holdout", None, None, 0, 10)
    assert (len(kept), len(held)) == (images - held_out, held_out)


@pytest.mark.parametrize("validation", ["none", "test"])
def test_nothing_is_held_out_where_nothing_is_asked_for(validation):
    kept, held = split(balanced(100), validation, None, None, 0, 10)
    assert held is None
    assert len(kept) == 100


def test_limit_train_takes_of_each_class_its_share_and_holds_out_of_that():
    kept, held = split(balanced(1000), "holdout", None, 200, 0, 10)
    assert (len(kept), len(held)) == (180, 20)
    assert set(np.bincount(kept.labels)) == {18}
    assert numbers(kept) | numbers(held) == numbers(split(balanced(1000), "none", None, 200, 0, 10)[0])


@pytest.mark.parametrize(("holdout", "limit", "message"), [
    (100, None, r"data\.holdout=100: fewer than the 100 training images"),
    (None, 101, r"data\.limit_train=101: a whole number up to the 100 training images"),
    (50, 50, r"data\.holdout=50: fewer than the 50 training images"),
    (None, 10, r"data\.holdout=10: fewer than the 10 training images"),
])  # fmt: skip
def test_more_than_there_is_cannot_be_had(holdout, limit, message):
    with pytest.raises(ConfigError, match=message):
        split(balanced(100), "holdout", holdout, limit, 0, 10)


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
