"""The interval of an accuracy, held against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from resnet_exp.training.evaluate import wilson_interval


@given(st.integers(1, 20_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_it_is_scipys(counts):
    correct, count = counts
    theirs = binomtest(correct, count).proportion_ci(0.95, "wilson")
    assert wilson_interval(correct, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(1, 1000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_it_holds_the_accuracy_and_stays_between_none_and_all(counts):
    correct, count = counts
    low, high = wilson_interval(correct, count)
    assert 0 <= low <= correct / count <= high <= 1


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (1, 0), (3, 2), (-1, 2)])
def test_counts_that_cannot_be_are_refused(correct, count):
    with pytest.raises(ValueError, match="at least one image is needed"):
        wilson_interval(correct, count)
