"""Random numbers as a function: the same wherever they are asked for, uniform, and independent of one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from resnet_exp.data import randomness
from resnet_exp.data.randomness import below, keys, mix, permutation

KEYS = keys(torch.arange(60_000), 0, randomness.VIEW, 1)


def assert_uniform(cells):
    """The chi-square test at 1 in 1,000; the data are fixed, so that it cannot fail by chance."""
    counts = np.bincount(np.asarray(cells[0]), minlength=cells[1])
    expected = counts.sum() / cells[1]
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, cells[1] - 1)


def test_splitmix64_gives_the_published_sequence():
    # Source: the reference implementation's output for seed 1234567 (rosettacode.org/wiki/Pseudo-random_numbers).
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + step * randomness._GAMMA) % 2**64 for step in range(4)]
    assert [randomness._splitmix(state) for state in states] == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_tensor_form_agrees_with_the_python_form_bit_for_bit(values):
    tensor = torch.tensor([randomness._signed(value) for value in values])
    mixed = randomness._splitmix_tensor(tensor).tolist()
    assert [value % 2**64 for value in mixed] == [randomness._splitmix(value) for value in values]


def test_mix_depends_on_every_value_and_on_their_order():
    numbers = {mix(1, 2, 3), mix(1, 3, 2), mix(0, 2, 3), mix(1, 2), mix(1, 2, 4), mix(1, 2, 3, 0), mix(-1, 2, 3)}
    assert len(numbers) == 7
    assert all(0 <= number < 2**63 for number in numbers)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_an_index_has_one_key_however_the_indices_are_divided(chunk):
    indices = permutation(200, 3)
    pieces = torch.cat([keys(piece, 5, 6) for piece in indices.split(chunk)])
    assert torch.equal(pieces, keys(torch.arange(200), 5, 6)[indices])


def test_another_salt_gives_other_keys():
    salts = [(0, randomness.VIEW, 1), (0, randomness.VIEW, 2), (0, randomness.ORDER, 1), (1, randomness.VIEW, 1)]
    drawn = torch.cat([keys(torch.arange(1000), *salt) for salt in salts])
    assert len(drawn.unique()) == 4000


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_a_permutation_holds_every_number_once(n):
    order = permutation(n, 0, randomness.ORDER, 1)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, permutation(n, 0, randomness.ORDER, 1))


def test_each_epoch_has_an_order_of_its_own_with_every_image_anywhere():
    first, second = (permutation(1000, 0, randomness.ORDER, epoch) for epoch in (1, 2))
    assert (first == second).sum() < 10  # one is expected of two random orders
    places = torch.tensor([permutation(8, seed).tolist().index(0) for seed in range(4000)])
    assert_uniform((places, 8))


@pytest.mark.parametrize("n", [2, 9, 32, 100])
def test_numbers_below_n_are_uniform(n):
    drawn = below(KEYS, 0, n)
    assert drawn.dtype == torch.int64
    assert_uniform((drawn, n))


@pytest.mark.parametrize("other", [
    below(KEYS, 1, 9),
    below(keys(torch.arange(60_000), 0, randomness.VIEW, 2), 0, 9),
    below(keys(torch.arange(60_000), 1, randomness.VIEW, 1), 0, 9),
    below(KEYS, 0, 9).roll(1),
], ids=["stream", "epoch", "seed", "index"])  # fmt: skip
def test_another_stream_epoch_seed_or_index_draws_independently(other):
    assert_uniform((below(KEYS, 0, 9) * 9 + other, 81))


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    permutation(10, 1)
    below(keys(torch.arange(10), 1), 0, 5)
    assert torch.equal(before, torch.get_rng_state())
