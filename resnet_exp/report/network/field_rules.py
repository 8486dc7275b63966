"""The rules of receptive fields, by the name of a torch operation: from its arguments to the `Spread` of its output.

Counted are all pixels that a position can depend on, however weakly, through convolutions, poolings, sums and products.
Not counted are the mean and deviation that a normalisation takes from a whole map, as is usual for receptive fields.

Source: Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks (Distill 2019), the recurrences
of "Solving for receptive field size" and "Computing receptive field region in input image", here for each side alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from resnet_exp.report.network.field_shapes import SHAPE_RULES
from resnet_exp.report.network.field_spread import NotUnderstoodError, Operation, Rule, Spread, each, hull, named, only


def _slide(op: Operation, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Spread:
    """The spread after a window that slides over the last dimensions."""
    spread, count = op.first, len(kernel)
    steps = zip(each(stride, count), each(padding, count), each(dilation, count), strict=True)
    for along, size, (step, pad, dilate) in zip(spread.dims[-count:], kernel, steps, strict=True):
        if spread.is_whole(along) and len(along) != 1:  # already everything, and no single side to update
            continue
        side = only(along)
        spread = spread.with_side(side, spread.sides[side].window(size, step, pad, dilate))
    return spread


def _convolution(op: Operation) -> Spread:
    # A transposed one has a fractional stride; image sides along batch or channels come from an earlier reshape.
    if op.given["transposed"] or any(op.first.dims[:2]):
        raise NotUnderstoodError
    return _slide(op, op.given["weight"].shape[2:], op.given["stride"], op.given["padding"], op.given["dilation"])


def _pool(op: Operation) -> Spread:
    count = 2 if "2d" in op.name else 1
    kernel = each(op.given["kernel_size"], count)  # the stride is empty where it equals the kernel
    return _slide(op, kernel, op.given["stride"] or kernel, op.given["padding"], op.given.get("dilation", 1))


def _adaptive_pool(op: Operation) -> Spread:
    """The spread after windows of equal size; an output size of 1 is one window over all."""
    sizes = list(op.given["output_size"])
    spread = op.first.summed([i - len(sizes) for i, size in enumerate(sizes) if size == 1])
    for dim in range(-len(sizes), 0):
        before, after = op.first_shape[dim], sizes[dim]
        if spread.is_whole(spread.dims[dim]):
            continue
        if before % after:  # torch's windows then differ in size
            raise NotUnderstoodError
        side, window = only(spread.dims[dim]), before // after
        spread = spread.with_side(side, spread.sides[side].window(window, window, 0, 1))
    return spread


def _pad(op: Operation) -> Spread:
    spread, pads = op.first, op.given.get("pad") or op.given["padding"]
    # torch lists the pads of the last dimension first, each as (before, after).
    for dim, before in zip(range(-1, -len(pads), -1), pads[::2], strict=False):
        if any(pads[-2 * dim - 2 : -2 * dim]) and not spread.is_whole(spread.dims[dim]):
            side = only(spread.dims[dim])
            spread = spread.with_side(side, spread.sides[side].shifted(-before))
    return spread


def _reduce(op: Operation) -> Spread:
    given = op.given.get("dim")
    count = len(op.first.dims)
    dims = range(count) if given is None or given == [] else each(given, 1)
    summed = op.first.summed(dims)
    return summed if len(op.shape) == count else summed.without(dims)


def _mix(op: Operation) -> Spread:
    return op.first.mixed([op.given["dim"]])


def _join(op: Operation) -> Spread:
    return hull([(tensor.shape, spread) for tensor, spread in op.inputs], op.shape, op.image)


def _cat(op: Operation) -> Spread:
    dim = op.given["dim"] % len(op.shape)
    parts = []
    for tensor, spread in op.inputs:
        if len(spread.dims[dim]) == 1 and not spread.is_whole(spread.dims[dim]):
            raise NotUnderstoodError  # rows of one map after those of another: no common stride
        parts.append(([*tensor.shape[:dim], op.shape[dim], *tensor.shape[dim + 1 :]], spread))
    return hull(parts, op.shape, op.image)


def _stack(op: Operation) -> Spread:
    dim = op.given["dim"] % len(op.shape)
    opened = [
        ([*t.shape[:dim], 1, *t.shape[dim:]], replace(s, dims=(*s.dims[:dim], frozenset(), *s.dims[dim:])))
        for t, s in op.inputs
    ]
    return hull(opened, op.shape, op.image)


def _copy(op: Operation) -> Spread:
    return hull([(t.shape, s) for t, s in op.inputs if t is op.given["src"]], op.shape, op.image)


def _product(op: Operation) -> Spread:
    """The spread of a matrix product: sums over the first's last dimension and the second's last but one."""
    left, right = [value for key, value in op.given.items() if isinstance(value, Tensor) and key != "bias"][-2:]
    spreads = {id(tensor): spread for tensor, spread in op.inputs}
    parts = []
    if id(left) in spreads:
        parts.append(([*left.shape[:-1], 1], spreads[id(left)].summed([-1])))
    if id(right) in spreads:
        parts.append(([*right.shape[:-2], 1, right.shape[-1]], spreads[id(right)].summed([-2])))
    if len(parts) == 2:  # queries times keys: the softmax that follows mixes all of them
        parts = [(size, spread.mixed(range(len(spread.dims)))) for size, spread in parts]
    return hull(parts, op.shape, op.image)


def _attention(op: Operation) -> Spread:
    """The spread of attention: every query depends on all keys."""
    return hull([(tensor.shape, spread.mixed([-2])) for tensor, spread in op.inputs], op.shape, op.image)


def _keep(op: Operation) -> Spread:
    return op.first


RULES: dict[str, Rule] = {
    **SHAPE_RULES,
    **named(_convolution, "convolution"),
    **named(_pool, "max_pool2d_with_indices avg_pool2d max_pool1d_with_indices avg_pool1d max_pool2d"),
    **named(_adaptive_pool, "_adaptive_avg_pool2d adaptive_max_pool2d"),
    **named(_pad, "constant_pad_nd reflection_pad2d replication_pad2d"),
    **named(_reduce, "mean sum amax amin max min logsumexp var std linalg_vector_norm"),
    **named(_mix, "_softmax _log_softmax _safe_softmax"),
    **named(_cat, "cat"),
    **named(_stack, "stack"),
    **named(_copy, "copy"),
    **named(_product, "mm addmm bmm baddbmm"),
    **named(_attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
                         "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"),
    **named(_keep, "native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_with_update "
                    "_native_batch_norm_legit _native_batch_norm_legit_no_training native_layer_norm "
                    "native_group_norm _fused_rms_norm native_dropout native_channel_shuffle detach alias "
                    "contiguous _to_copy"),
    **named(_join, "expand hardswish hardsigmoid hardtanh"),  # torch does not tag the last three as pointwise
}  # fmt: skip


def after(op: Operation, pointwise: bool) -> Spread:
    """The spread of an operation's output.

    Raises:
        NotUnderstoodError: it has no rule, or its rule does not hold here.
    """
    # Operations that torch tags as pointwise need no rule of their own.
    rule = RULES.get(op.name, _join if pointwise else None)
    if rule is None:
        raise NotUnderstoodError
    return rule(op)
