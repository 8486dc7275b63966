"""The theoretical receptive field and stride of every layer of a network, through sums and concatenations.

The network is run once on one image, and each torch operation is followed as it is executed. So every network that runs
can be analysed, also one whose `forward` has branches, loops and functions at which a symbolic trace (torch.fx) fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from resnet_exp.report.network.field_rules import after
from resnet_exp.report.network.field_spread import Extent, NotUnderstoodError, Operation, Spread

_IMAGE_DIMS: tuple[frozenset[int], ...] = (frozenset(), frozenset(), frozenset({0}), frozenset({1}))  # of [B, C, H, W]


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that an output can depend on; or the name of the operation after which they are not known."""

    height: Extent | None = None
    width: Extent | None = None
    unknown: str | None = None

    @property
    def size(self) -> str:
        """In pixels: `88`, `7 x 1` (height x width), `whole image`, or `unknown`."""
        return self._both_sides(lambda extent: "whole image" if extent.size is None else str(extent.size))

    @property
    def stride(self) -> str:
        """In pixels, from one output to the next; empty if the outputs are not a map of the image."""
        return self._both_sides(lambda extent: str(extent.stride or ""))

    def _both_sides(self, as_text: Any) -> str:
        if self.height is None or self.width is None:
            return "unknown"
        height, width = as_text(self.height), as_text(self.width)
        return height if height == width else f"{height} x {width}"


def receptive_fields(model: nn.Module, image: Tensor) -> dict[str, list[ReceptiveField | None]]:
    """The receptive fields of every module's output, one for each call, in order.

    A container has that of its output. A module has None if it returns no tensor, or one that does not depend on the
    image. The model, its mode and the random state are not changed.

    Args:
        model: on any device.
        image: `[1, C, H, W]`, of the size that the network is used with; its values do not matter.

    Returns:
        By the module's name in `named_modules()`, in order of their first return; the model's own name is "".
    """
    found: dict[str, list[ReceptiveField | None]] = defaultdict(list)
    follow = _Follow(image)

    def record(name: str, output: Any) -> None:
        tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        found[name].append(None if tensor is None else follow.field(tensor))

    with in_evaluation(model), ExitStack() as hooks, torch.no_grad(), follow:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handle = module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
                hooks.callback(handle.remove)
        model(image)
    return dict(found)


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """A block with the model in eval mode and torch's attention in separate operations; restores both afterwards."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # the fast path is one operation without visible parts
        model.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training  # not train(), which would set the mode of children too


class _Follow(TorchDispatchMode):
    """For every tensor that depends on the image: on which pixels, or which operation was not understood."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        height, width = image.shape[-2:]
        self._image = (height, width)
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # weak: activations are freed as usual
        self._written: dict[int, tuple[Any, str]] = {}  # memory that a view wrote to; referenced, lest it be reused
        self._known[image] = Spread(_IMAGE_DIMS, (Extent(1, 0, 0), Extent(1, 0, 0)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        states = [(tensor, state) for tensor in tensors if (state := self._state(tensor)) is not None]
        output = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if states and outputs:
            state = self._after(func, _bound(func, args, kwargs), states, outputs[0].shape)
            if func._schema.is_mutable:  # an in-place operation
                self._taint(outputs[0], state, func)
            for tensor in outputs:
                self._known[tensor] = state
        return output

    def field(self, tensor: Tensor) -> ReceptiveField | None:
        """The receptive field of a tensor; None if it does not depend on the image."""
        state = self._state(tensor)
        if isinstance(state, Spread):
            height, width = (
                replace(extent, stride=extent.stride if _runs_along(state, side) else None)
                for side, extent in enumerate(state.sides)
            )
            return ReceptiveField(height, width)
        return None if state is None else ReceptiveField(unknown=state)

    def _state(self, tensor: Tensor) -> Spread | str | None:
        if tensor in self._known:
            return self._known[tensor]
        return self._written[key][1] if self._written and (key := _memory(tensor)) in self._written else None

    def _after(self, func: Any, given: dict[str, Any], states: list[Any], shape: torch.Size) -> Spread | str:
        name = func._schema.name.partition("::")[2]
        name = name if name.endswith("__") else name.removesuffix("_")  # `add_` has the rule of `add`
        for _, state in states:
            if isinstance(state, str):  # one input is not understood, so neither is the output
                return state
        try:
            return after(Operation(name, given, states, shape, self._image), torch.Tag.pointwise in func.tags)
        except NotUnderstoodError:
            return name

    def _taint(self, target: Tensor, state: Spread | str, func: Any) -> None:
        """Marks other views of the memory just written to as not understood, unless the part written is as before."""
        before = self._state(target)
        if isinstance(before, Spread) and isinstance(state, Spread) and before.sides == state.sides:
            return
        name = f"{func._schema.name.partition('::')[2]} into part of a tensor"
        memory = _memory(target)
        for other in list(self._known):
            if other is not target and _memory(other) == memory:
                self._known[other] = name
        self._written[memory] = (target.untyped_storage(), name)


def _runs_along(spread: Spread, side: int) -> bool:
    """Whether exactly one dimension of the tensor runs along this side of the image, and along no other."""
    return [along for along in spread.dims if side in along] == [frozenset({side})]


def _memory(tensor: Tensor) -> int:
    """A number that all views of the same memory share; it exists on the meta device too, where data_ptr() is 0."""
    return tensor.untyped_storage()._cdata


def _bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments by name, with the defaults of those that were not passed."""
    arguments = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    named = dict(zip((argument.name for argument in arguments), args, strict=False))
    return {**defaults, **named, **kwargs}
