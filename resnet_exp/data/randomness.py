"""Random numbers as a function of (seed, epoch, index), never drawn from a stream.

A run that is resumed after a kill, in whatever epoch, then sees the same images in the same order as one that was never
killed, and nothing that happens in between (a range test, another job of a sweep) can change them.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

# splitmix64's own constants.
_GAMMA, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

# The purpose of a key is part of its salt, so that no two purposes share a random number.
INIT, ORDER, VIEW, LAYERS, RANGE_TEST = 1, 2, 3, 4, 6


def mix(*values: int) -> int:
    """A 63-bit number, well mixed from all the values in their order.

    Source: splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 15).
    """
    state = 0
    for value in values:
        state = _splitmix(state ^ (value & _MASK))
    return state >> 1  # a torch scalar is an int64: the 64th bit would be its sign


def seed_streams(*values: int) -> None:
    """Seeds the streams of torch, numpy and Python by these values: layers of the user's may draw from any of them."""
    number = mix(*values)
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def keys(indices: Tensor, *salt: int) -> Tensor:
    """One random key per index, `[N], int64`, on the device of the indices; equal salt and index give equal keys."""
    return _splitmix_tensor(_splitmix_tensor(indices) ^ mix(*salt))


def below(keys: Tensor, stream: int, n: int) -> Tensor:
    """Integers 0 .. n-1 of the keys' shape, `int64`; another `stream` gives independent ones from the same keys.

    The bias of the remainder is under n / 2^53.
    """
    return (_splitmix_tensor(keys ^ mix(stream)) & ((1 << 53) - 1)) % n


def permutation(n: int, *salt: int, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0 .. n-1, `[n], int64`."""
    # By sorting keys, since `randperm` draws from a stream, and another one on each device.
    return torch.argsort(keys(torch.arange(n, device=device), *salt), stable=True)


def _splitmix(x: int) -> int:
    z = (x + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)


def _splitmix_tensor(x: Tensor) -> Tensor:
    """The same function on int64 tensors (torch has no uint64 arithmetic): products wrap, `_shift` fills with zeros."""
    z = x + _signed(_GAMMA)
    z = (z ^ _shift(z, 30)) * _signed(_M1)
    z = (z ^ _shift(z, 27)) * _signed(_M2)
    return z ^ _shift(z, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
