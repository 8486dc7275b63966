"""Where the positions of a tensor look in the image: the receptive field as it passes through a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class NotUnderstoodError(Exception):
    """An operation whose effect on receptive fields is not known, or not one interval for each position."""


@dataclass(frozen=True)
class Extent:
    """Along one side of the image, the pixels seen: by position n, those from low + n * stride to high + n * stride.

    They may lie outside the image, in the padding. An infinite extent is the whole image, whatever its size.
    """

    stride: int | None  # None: no side of the tensor's runs along this side of the image
    low: float
    high: float

    @property
    def size(self) -> int | None:
        """Pixels seen; None for the whole image."""
        return None if math.isinf(self.low) else int(self.high - self.low) + 1

    @property
    def step(self) -> int:
        return self.stride or 0

    def shifted(self, positions: int) -> Extent:
        """That of outputs whose position 0 is this one's `positions`."""
        return replace(self, low=self.low + positions * self.step, high=self.high + positions * self.step)

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Extent:
        """That of a convolution or pooling of this one."""
        reach = dilation * (kernel - 1)
        return Extent(self.step * stride, self.low - self.step * padding, self.high + self.step * (reach - padding))


WHOLE = Extent(0, -math.inf, math.inf)


@dataclass(frozen=True)
class Spread:
    """Where a tensor's positions look: for each of its dimensions the image's sides it runs along, and their extents.

    Side 0 is the height, side 1 the width. An image `[B, C, H, W]` has dims ({}, {}, {0}, {1}); flattened from the
    second on, ({}, {0, 1}).
    """

    dims: tuple[frozenset[int], ...]
    sides: tuple[Extent, Extent]

    def is_whole(self, along: frozenset[int]) -> bool:
        """Whether the positions see the whole of all these sides."""
        return all(math.isinf(self.sides[side].low) for side in along)

    def with_side(self, side: int, extent: Extent) -> Spread:
        """The same but for the extent of one side."""
        return replace(self, sides=(extent, self.sides[1]) if side == 0 else (self.sides[0], extent))

    def mixed(self, dims: Sequence[int]) -> Spread:
        """That of outputs, each of all positions along these dimensions, which stay."""
        mixed = self
        for side in frozenset().union(*(self.dims[dim] for dim in dims)):
            mixed = mixed.with_side(side, replace(WHOLE, stride=self.sides[side].stride))
        return mixed

    def summed(self, dims: Sequence[int]) -> Spread:
        """The same for outputs that have one position along these dimensions."""
        gone = {dim % len(self.dims) for dim in dims}
        left = tuple(frozenset() if i in gone else along for i, along in enumerate(self.dims))
        return replace(self.mixed(dims), dims=left)

    def without(self, dims: Sequence[int]) -> Spread:
        """The same without these dimensions."""
        gone = {dim % len(self.dims) for dim in dims}
        return replace(self, dims=tuple(along for i, along in enumerate(self.dims) if i not in gone))


@dataclass(frozen=True)
class Operation:
    """One operation as it ran."""

    name: str
    given: Mapping[str, Any]  # its arguments by name
    inputs: Sequence[tuple[Tensor, Spread]]  # those of its tensors that depend on the image
    shape: torch.Size  # of its output
    image: tuple[int, int]  # height and width

    @property
    def first(self) -> Spread:
        """The spread of its first tensor, the one it works on.

        Raises:
            NotUnderstoodError: the image enters elsewhere, as in weights that are computed.
        """
        tensor = next(value for value in self.given.values() if isinstance(value, Tensor))
        if len(self.inputs) != 1 or self.inputs[0][0] is not tensor:
            raise NotUnderstoodError
        return self.inputs[0][1]

    @property
    def first_shape(self) -> torch.Size:
        return self.inputs[0][0].shape


def hull(parts: Sequence[tuple[Sequence[int], Spread]], shape: Sequence[int], image: tuple[int, int]) -> Spread:
    """The spread of a tensor of this shape, each position of which sees what those of its broadcast parts do.

    Raises:
        NotUnderstoodError: the parts' positions do not run alongside.
    """
    aligned = [((1,) * (len(shape) - len(size)) + tuple(size), spread) for size, spread in parts]
    dims: list[tuple[frozenset[int], ...]] = [
        (frozenset(),) * (len(shape) - len(spread.dims)) + spread.dims for _, spread in parts
    ]
    joined = tuple(frozenset().union(*along) for along in zip(*dims, strict=True))
    sides = []
    for side in (0, 1):
        running = [i for i, along in enumerate(joined) if side in along and shape[i] > 1]
        extents = []
        for (size, spread), along in zip(aligned, dims, strict=True):
            alongside = all(side in along[i] and size[i] == shape[i] for i in running)
            extents.append(spread.sides[side] if alongside else _anywhere(spread.sides[side], image[side]))
        strides = {extent.step for extent in extents} - {0}
        if running and len(strides) > 1:
            raise NotUnderstoodError
        low, high = min(extent.low for extent in extents), max(extent.high for extent in extents)
        sides.append(Extent(max(strides, default=0), low, high))
    return Spread(joined, (sides[0], sides[1]))


def _anywhere(extent: Extent, pixels: int) -> Extent:
    """What one position sees, as every position of another map will: an interval that moves with none of them."""
    if math.isinf(extent.low) or (extent.low <= 0 and extent.high >= pixels - 1):
        return WHOLE
    raise NotUnderstoodError


def each(value: Any, count: int) -> list[int]:
    """One number for each of so many dimensions; one that stands alone is for all."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * count if len(values) == 1 else values


def only(along: frozenset[int]) -> int:
    """The one side of the image that a dimension runs along.

    Raises:
        NotUnderstoodError: it runs along none, or both.
    """
    if len(along) != 1:
        raise NotUnderstoodError
    return next(iter(along))


Rule = Callable[[Operation], Spread]


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """The rule by each of these operations' names."""
    return dict.fromkeys(names.split(), rule)
