"""The layers of a network whose outputs are maps of the image, and a copy of it on which gradients can be measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.config.suggest import nearest
from resnet_exp.interfaces import ConfigError
from resnet_exp.report.section import Gap
from resnet_exp.training.device import untouched_randomness

_MOST = 4  # the deepest layers that are shown
_IMAGES = 2  # that pass through the network to find them
_NAMED = 12  # modules, or shapes, that a message lists
# They hand on the maps that they get, or averages of them.
_HANDING_ON = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool2d)


@contextmanager
def measured(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the network, float32, in eval mode, without gradients of its own; inside, gradients are computed.

    So they are whatever the caller has switched off, and in float32. The network itself stays as it was: mode,
    gradients, hooks, weights; so do all random generators.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with (
        untouched_randomness(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield copy.deepcopy(model).float().eval().requires_grad_(False)


def spatial_layers(model: nn.Module, images: Tensor, most: int = _MOST) -> dict[str, nn.Module]:
    """The layers at which a class activation map makes sense, by name, in the order in which they are run.

    They are those whose output is `[B, C, S, S]` with S > 1: for each S the last to return, as a whole block. A block
    is the outermost module that makes at most one step from one S to the next; what is inside it is its own affair.
    Those that are run several times in a pass are left out: they have no one output.

    Args:
        model: in eval mode.
        images: `[B, C, H, W]` on its device; the first two are passed through it.
        most: of more sizes, so many deepest are taken.

    Raises:
        Gap: no layer has such an output.
    """
    calls = _calls(model, images)
    last = {call.side: call for call in sorted(_blocks(model, "", calls), key=lambda call: call.place)}
    found = sorted(last.values(), key=lambda call: call.place)[-most:]
    if not found:
        raise Gap(f"no layer of the network returns maps of the image, [B, C, S, S] with S > 1; {_shapes(calls)}")
    return {call.name: call.module for call in found}


def map_layers(model: nn.Module, images: Tensor, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers that are named, or those of `spatial_layers` where none are.

    Raises:
        ConfigError: a name that no module has.
        Gap: a layer's output is no map of the image.
    """
    if names is None:
        return spatial_layers(model, images)
    layers, calls = named_layers(model, names), _calls(model, images)
    for name in names:
        call = calls.get(name)
        if call is None or call.times != 1:
            raise Gap(f"{_given(names)}: {name} is run {call.times if call else 0} times in a pass, not once")
        if not _is_map(call):
            raise Gap(f"{_given(names)}: {name} returns no maps of the image, [B, C, S, S] with S > 1, but {call.kind}")
    return layers


def named_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names, in this order; ConfigError where the network does not have one."""
    check_layers(model, names)
    modules = dict(model.named_modules())
    return {name: modules[name] for name in names}


def check_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Returns if the network has modules of these names; nothing is computed, so that it may be on the meta device.

    Raises:
        ConfigError: it lacks one; the message names what it has.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"{_given(names)}: the network has no module {name}; {_hint(name, known)}")


def _given(names: Sequence[str]) -> str:
    return f"report.gradcam_layers=[{','.join(names)}]"


def _hint(name: str, known: Sequence[str]) -> str:
    """The known name that was meant, perhaps without what it lies in; else the outermost ones."""
    near = nearest(name, known)
    if near is None:
        last_parts = {one.rpartition(".")[2]: one for one in reversed(known)}
        near = last_parts.get(nearest(name, last_parts) or "")
    if near is not None:
        return f"did you mean {near}?"
    levels = [[one for one in known if one.count(".") == depth] for depth in range(3)]
    outer = next((level for level in levels if len(level) > 1), known)[:_NAMED]
    return f"it has {', '.join(outer) or 'none'}" + (", ..." if len(outer) < len(known) else "")


@dataclass
class _Call:
    """One module's last run in a pass."""

    name: str
    module: nn.Module
    kind: str  # the shape that it returned
    entered: int | None  # the side of the maps that it got, None where it got others
    side: int | None  # of those that it returned
    place: int  # in the order in which modules return
    times: int  # that it was run


def _calls(model: nn.Module, images: Tensor) -> dict[str, _Call]:
    """What each module within the network returns, by name."""
    calls: dict[str, _Call] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            times = calls[name].times + 1 if name in calls else 1
            entered = _side(inputs[0]) if inputs else None
            calls[name] = _Call(name, module, _shape(output), entered, _side(output), _place(calls), times)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images[:_IMAGES])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _place(calls: dict[str, _Call]) -> int:
    return sum(call.times for call in calls.values())


def _blocks(module: nn.Module, name: str, calls: dict[str, _Call]) -> Iterator[_Call]:
    """The blocks within a module that return maps."""
    for child_name, child in module.named_children():
        inner = f"{name}.{child_name}" if name else child_name
        call = calls.get(inner)
        if call is None or not _is_block(call, calls):
            yield from _blocks(child, inner, calls)
        elif _is_map(call) and call.times == 1 and not isinstance(child, _HANDING_ON):
            yield call


def _is_block(call: _Call, calls: dict[str, _Call]) -> bool:
    """Whether it returns maps, and has none inside that are smaller than those it got and larger than its own."""
    if call.side is None:
        return False
    inside = (other.side for name, other in calls.items() if name.startswith(f"{call.name}."))
    return not any(side is not None and call.side < side < (call.entered or 0) for side in inside)


def _is_map(call: _Call) -> bool:
    """Whether it returns maps larger than a pixel that are no enlargement of those it got."""
    return call.side is not None and 1 < call.side <= (call.entered or call.side)


def _side(value: Any) -> int | None:
    """S of a tensor `[B, C, S, S]`, None of all else: `[B, H, W, C]`, as transformers have it, is no such."""
    square = isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == value.shape[3]
    return int(value.shape[2]) if square else None


def _shape(value: Any) -> str:
    return str(["B", *value.shape[1:]]).replace("'", "") if isinstance(value, Tensor) else type(value).__name__


def _shapes(calls: dict[str, _Call]) -> str:
    seen = list(dict.fromkeys(call.kind for call in calls.values()))
    return "they return " + ", ".join(seen[:_NAMED]) + (", ..." if len(seen) > _NAMED else "")
