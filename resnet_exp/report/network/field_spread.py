"""`Spread`: which pixels of the image each position of a tensor depends on, and how operations change that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class NotUnderstoodError(Exception):
    """An operation has no known effect on receptive fields, or one that is not a single interval for each position."""


@dataclass(frozen=True)
class Extent:
    """The pixels along one side of the image that position n depends on: low + n * stride to high + n * stride.

    They may be outside the image, in the padding. An infinite extent is the whole image, whatever its size.
    """

    stride: int | None  # pixels; None: no dimension of the tensor runs along this side of the image
    low: float
    high: float

    @property
    def size(self) -> int | None:
        """The number of pixels; None for the whole image."""
        return None if math.isinf(self.low) else int(self.high - self.low) + 1

    @property
    def step(self) -> int:
        return self.stride or 0

    def shifted(self, positions: int) -> Extent:
        """The extent of outputs whose position 0 is position `positions` here."""
        return replace(self, low=self.low + positions * self.step, high=self.high + positions * self.step)

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Extent:
        """The extent of the outputs of a convolution or pooling."""
        reach = dilation * (kernel - 1)
        # Kernel, stride and padding count positions of the input; `step` is their distance in pixels.
        return Extent(self.step * stride, self.low - self.step * padding, self.high + self.step * (reach - padding))


WHOLE = Extent(0, -math.inf, math.inf)


@dataclass(frozen=True)
class Spread:
    """Pixels that a tensor's positions depend on: for each dimension the image's sides it runs along; their extents.

    Side 0 is the height, side 1 the width. An image `[B, C, H, W]` has dims ({}, {}, {0}, {1}); flattened from the
    second on, ({}, {0, 1}).
    """

    dims: tuple[frozenset[int], ...]
    sides: tuple[Extent, Extent]

    def is_whole(self, along: frozenset[int]) -> bool:
        """Whether every position depends on the whole of all these sides."""
        return all(math.isinf(self.sides[side].low) for side in along)

    def with_side(self, side: int, extent: Extent) -> Spread:
        """The same with another extent of one side."""
        return replace(self, sides=(extent, self.sides[1]) if side == 0 else (self.sides[0], extent))

    def mixed(self, dims: Sequence[int]) -> Spread:
        """The spread of outputs that each depend on all positions along these dimensions, as in a softmax."""
        mixed = self
        for side in frozenset().union(*(self.dims[dim] for dim in dims)):
            mixed = mixed.with_side(side, replace(WHOLE, stride=self.sides[side].stride))
        return mixed

    def summed(self, dims: Sequence[int]) -> Spread:
        """The spread of sums over these dimensions, which keep one position."""
        gone = {dim % len(self.dims) for dim in dims}
        left = tuple(frozenset() if i in gone else along for i, along in enumerate(self.dims))
        return replace(self.mixed(dims), dims=left)

    def without(self, dims: Sequence[int]) -> Spread:
        """The same without these dimensions."""
        gone = {dim % len(self.dims) for dim in dims}
        return replace(self, dims=tuple(along for i, along in enumerate(self.dims) if i not in gone))


@dataclass(frozen=True)
class Operation:
    """One torch operation as it was executed."""

    name: str
    given: Mapping[str, Any]  # its arguments by name
    inputs: Sequence[tuple[Tensor, Spread]]  # its tensors that depend on the image
    shape: torch.Size  # of its output
    image: tuple[int, int]  # height and width

    @property
    def first(self) -> Spread:
        """The spread of its first tensor, the one that it works on.

        Raises:
            NotUnderstoodError: another argument depends on the image, such as computed weights.
        """
        tensor = next(value for value in self.given.values() if isinstance(value, Tensor))
        if len(self.inputs) != 1 or self.inputs[0][0] is not tensor:
            raise NotUnderstoodError
        return self.inputs[0][1]

    @property
    def first_shape(self) -> torch.Size:
        return self.inputs[0][0].shape


def hull(parts: Sequence[tuple[Sequence[int], Spread]], shape: Sequence[int], image: tuple[int, int]) -> Spread:
    """The spread of a tensor of this shape whose positions depend on all that its broadcast parts depend on there.

    Raises:
        NotUnderstoodError: the parts' strides differ, or a broadcast part does not depend on the whole image.
    """
    # Shapes are aligned at their last dimension, as torch broadcasts.
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
            # A part that has all of the map's positions along this side moves with them; another is broadcast.
            alongside = all(side in along[i] and size[i] == shape[i] for i in running)
            extents.append(spread.sides[side] if alongside else _for_every_position(spread.sides[side], image[side]))
        strides = {extent.step for extent in extents} - {0}
        if running and len(strides) > 1:
            raise NotUnderstoodError
        low, high = min(extent.low for extent in extents), max(extent.high for extent in extents)
        sides.append(Extent(max(strides, default=0), low, high))
    return Spread(joined, (sides[0], sides[1]))


def _for_every_position(extent: Extent, pixels: int) -> Extent:
    """The extent that all positions of a map share when one value is broadcast over it: known only for the whole."""
    if math.isinf(extent.low) or (extent.low <= 0 and extent.high >= pixels - 1):
        return WHOLE
    raise NotUnderstoodError


def each(value: Any, count: int) -> list[int]:
    """One number for each of `count` dimensions; a single one is for all."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * count if len(values) == 1 else values


def only(along: frozenset[int]) -> int:
    """The side of the image that a dimension runs along.

    Raises:
        NotUnderstoodError: it runs along none, or along both.
    """
    if len(along) != 1:
        raise NotUnderstoodError
    return next(iter(along))


Rule = Callable[[Operation], Spread]


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """The rule under each of these names of operations."""
    return dict.fromkeys(names.split(), rule)
