"""The embedded digits: what comes out, and that it is the same for everyone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from resnet_exp.data import digits
from resnet_exp.data.digits import Digits
from resnet_exp.interfaces import DataSize, RunError


def test_both_splits_are_grey_uint8_of_the_size_asked_for():
    loaded = Digits(image_size=16).load(progress=None)
    assert loaded.train.images.shape == (1442, 16, 16, 1)
    assert loaded.test.images.shape == (355, 16, 16, 1)
    assert loaded.train.images.dtype == np.uint8 and loaded.train.labels.dtype == np.int64
    assert loaded.train.images.min() == 0 and loaded.train.images.max() == 255
    assert loaded.class_names == tuple("0123456789")


def test_at_their_own_size_the_digits_are_only_scaled():
    from sklearn.datasets import load_digits

    loaded = Digits(image_size=8).load(progress=None)
    np.testing.assert_array_equal(loaded.train.images[0, ..., 0], np.round(load_digits().images[0] * 255 / 16))


def test_the_split_is_fixed_stratified_and_leaves_nothing_out():
    loaded = Digits(image_size=8).load(progress=None)
    again = Digits(image_size=8).load(progress=None)
    np.testing.assert_array_equal(loaded.test.images, again.test.images)
    parts = np.bincount(loaded.test.labels) / np.bincount(np.r_[loaded.train.labels, loaded.test.labels])
    assert ((parts > 0.18) & (parts <= 0.2)).all()
    assert len(loaded.train) + len(loaded.test) == 1797


def test_every_fifth_image_of_a_class_is_test():
    is_test = digits._is_test(np.array([0, 1] * 10))
    assert list(np.flatnonzero(is_test)) == [8, 9, 18, 19]


def test_the_size_is_what_is_loaded():
    loaded = Digits(image_size=8).load(progress=None)
    assert Digits().size() == DataSize(num_train=len(loaded.train), num_classes=len(loaded.class_names))


def test_identity_names_the_size_and_imports_no_sklearn():
    program = (
        "import sys; from resnet_exp.data.digits import Digits; Digits(8).size(); print(Digits(8).identity()); "
        "sys.exit(bool({'sklearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == Digits(8).identity() != Digits(32).identity()


def test_other_digits_than_the_known_ones_are_refused(monkeypatch):
    monkeypatch.setattr(digits, "DIGITS_SHA256", "0" * 64)
    with pytest.raises(RunError, match="reinstall scikit-learn"):
        Digits().load(progress=None)


@pytest.mark.parametrize("image_size", [0, -3, 7, 4096, 32.0, "32", True, None])
def test_a_wrong_size_names_key_value_and_range(image_size, refused):
    message = refused("data", "data.digits.Digits", image_size=image_size)
    assert message.startswith("data.image_size=")
    assert "8 to 1024" in message
