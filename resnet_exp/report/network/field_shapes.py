"""The rules of operations that reshape, permute or cut a tensor and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from resnet_exp.report.network.field_spread import NotUnderstoodError, Operation, Rule, Spread, each, named, only


def _permute(op: Operation) -> Spread:
    return replace(op.first, dims=tuple(op.first.dims[dim] for dim in op.given["dims"]))


def _transpose(op: Operation) -> Spread:
    dims = list(op.first.dims)
    a, b = op.given.get("dim0", 0), op.given.get("dim1", -1)
    dims[a], dims[b] = dims[b], dims[a]
    return replace(op.first, dims=tuple(dims))


def _unsqueeze(op: Operation) -> Spread:
    dim = op.given["dim"] % len(op.shape)
    return replace(op.first, dims=(*op.first.dims[:dim], frozenset(), *op.first.dims[dim:]))


def _squeeze(op: Operation) -> Spread:
    size = op.first_shape
    dims = range(len(size)) if op.given.get("dim") is None else each(op.given["dim"], 1)
    return op.first.without([dim for dim in dims if size[dim] == 1])


def _view(op: Operation) -> Spread:
    """The spread after a reshape: a dimension that keeps its size keeps its sides; a joined one has those of all."""
    spread, old, new = op.first, list(op.first_shape), list(op.shape)
    dims: list[frozenset[int]] = []
    i = j = 0
    while j < len(new):
        if i < len(old) and old[i] == new[j]:
            dims.append(spread.dims[i])
            i, j = i + 1, j + 1
        elif new[j] == 1:
            dims.append(frozenset())
            j += 1
        elif old[i] == 1:
            i += 1
        else:
            i_end, j_end = _equal_products(old, new, i, j)
            along = frozenset().union(*(spread.dims[k] for k in range(i, i_end) if old[k] > 1))
            if j_end - j > 1 and not spread.is_whole(along):
                raise NotUnderstoodError  # the map is cut into pieces, as swin does for its windows
            dims.extend([along] * (j_end - j))
            i, j = i_end, j_end
    return replace(spread, dims=tuple(dims))


def _equal_products(old: Sequence[int], new: Sequence[int], i: int, j: int) -> tuple[int, int]:
    """The ends of the shortest runs of dimensions from i and from j with equal numbers of elements."""
    i_end, j_end = i + 1, j + 1
    while (a := math.prod(old[i:i_end])) != (b := math.prod(new[j:j_end])):
        i_end, j_end = (i_end + 1, j_end) if a < b else (i_end, j_end + 1)
    return i_end, j_end


def _slice(op: Operation) -> Spread:
    dim, size = op.given["dim"], op.first_shape[op.given["dim"]]
    start, _, step = slice(op.given["start"], None, op.given["step"]).indices(size)
    spread, along = op.first, op.first.dims[dim]
    # What is cut off at the end does not change where the other positions are.
    if (start, step) == (0, 1) or spread.is_whole(along):
        return spread
    side = only(along)
    moved = spread.sides[side].shifted(start)
    return spread.with_side(side, replace(moved, stride=moved.step * step))


def _take(op: Operation) -> Spread:
    """The spread of a part of a tensor, or of one position, along a dimension where all depend on the same pixels."""
    if not op.first.is_whole(op.first.dims[dim := op.given["dim"]]):
        raise NotUnderstoodError
    return op.first.without([dim]) if len(op.shape) < len(op.first.dims) else op.first


def _restride(op: Operation) -> Spread:
    """The spread after another layout in memory; known only if all positions depend on the whole image."""
    if len(op.shape) != len(op.first.dims) or not all(map(op.first.is_whole, op.first.dims)):
        raise NotUnderstoodError
    return op.first


SHAPE_RULES: dict[str, Rule] = {
    **named(_permute, "permute"),
    **named(_transpose, "transpose t"),
    **named(_unsqueeze, "unsqueeze"),
    **named(_squeeze, "squeeze"),
    **named(_view, "view _unsafe_view"),
    **named(_slice, "slice"),
    **named(_take, "select split split_with_sizes unbind"),
    **named(_restride, "as_strided"),  # how an average over a whole channels_last map ends
}
