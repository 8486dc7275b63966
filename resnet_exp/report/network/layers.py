"""Finds the layers whose outputs are maps of the image, and makes a copy of a network that may be analysed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_exp.config.suggest import closest
from resnet_exp.interfaces import ConfigError
from resnet_exp.report.section import Gap
from resnet_exp.training.device import untouched_randomness

_MAX_LAYERS = 4  # the deepest ones
_IMAGES = 2  # that pass through the network to find them
_MAX_LISTED = 12  # modules, or shapes, in a message
# Their outputs are their inputs, or averages of them: as layers they would show nothing new.
_PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool2d)


@contextmanager
def measurable_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the network in float32 and eval mode, its parameters without gradients; other gradients are computed.

    They are computed whatever the caller has switched off (inference mode, no_grad), and without autocast. The network
    itself is not changed: mode, gradients, hooks, weights; nor are the random generators.
    """
    # Float32, since Grad-CAM raises on bf16; a copy, since it leaves a model in eval mode with `.grad` set.
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with (
        untouched_randomness(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield copy.deepcopy(model).float().eval().requires_grad_(False)


def spatial_layers(model: nn.Module, images: Tensor, most: int = _MAX_LAYERS) -> dict[str, nn.Module]:
    """The layers at which a class activation map makes sense, by name, in the order in which they run.

    Their output is `[B, C, S, S]` with S > 1. For each S it is the last one to return, as a whole block: the outermost
    module that changes S once at most; modules inside it are not considered. Modules that run several times in a pass
    are left out, because they have several outputs.

    Args:
        model: in eval mode.
        images: `[B, C, H, W]` on its device; the first two are passed through it.
        most: layers; if there are more sizes, the deepest are taken.

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
    """The layers of these names, or without names those of `spatial_layers`.

    Raises:
        ConfigError: no module has such a name.
        Gap: the output of a layer is not a map of the image.
    """
    if names is None:
        return spatial_layers(model, images)
    layers, calls = named_layers(model, names), _calls(model, images)
    for name in names:
        call = calls.get(name)
        if call is None or call.times != 1:
            raise Gap(f"{_setting(names)}: {name} is run {call.times if call else 0} times in a pass, not once")
        if not _is_map(call):
            raise Gap(
                f"{_setting(names)}: {name} returns no maps of the image, [B, C, S, S] with S > 1, but {call.kind}"
            )
    return layers


def named_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names, in this order.

    Raises:
        ConfigError: the network has no module of such a name.
    """
    check_layers(model, names)
    modules = dict(model.named_modules())
    return {name: modules[name] for name in names}


def check_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Raises ConfigError unless the network has modules of these names; it may be on the meta device.

    Raises:
        ConfigError: it lacks one; the message names modules that it has.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"{_setting(names)}: the network has no module {name}; {_hint(name, known)}")


def _setting(names: Sequence[str]) -> str:
    return f"report.gradcam_layers=[{','.join(names)}]"


def _hint(name: str, known: Sequence[str]) -> str:
    """The nearest known name, also by its last part alone (`conv2` for `layer4.conv2`); else the outermost names."""
    near = closest(name, known)
    if near is None:
        last_parts = {one.rpartition(".")[2]: one for one in reversed(known)}
        near = last_parts.get(closest(name, last_parts) or "")
    if near is not None:
        return f"did you mean {near}?"
    levels = [[one for one in known if one.count(".") == depth] for depth in range(3)]
    outer = next((level for level in levels if len(level) > 1), known)[:_MAX_LISTED]
    return f"it has {', '.join(outer) or 'none'}" + (", ..." if len(outer) < len(known) else "")


@dataclass
class _Call:
    """The last run of one module in a pass."""

    name: str
    module: nn.Module
    kind: str  # the shape of its output, as text
    entered: int | None  # S of its input, None if that is not [B, C, S, S]
    side: int | None  # S of its output
    place: int  # in the order in which modules return
    times: int  # how often it ran


def _calls(model: nn.Module, images: Tensor) -> dict[str, _Call]:
    """The run of each module inside the network, by name."""
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
    """Yields the blocks inside a module that return maps."""
    for child_name, child in module.named_children():
        inner = f"{name}.{child_name}" if name else child_name
        call = calls.get(inner)
        if call is None or not _is_block(call, calls):
            yield from _blocks(child, inner, calls)
        elif _is_map(call) and call.times == 1 and not isinstance(child, _PASS_THROUGH):
            yield call


def _is_block(call: _Call, calls: dict[str, _Call]) -> bool:
    """Whether it returns maps and no module inside it has an S between that of its input and that of its output."""
    if call.side is None:
        return False
    inside = (other.side for name, other in calls.items() if name.startswith(f"{call.name}."))
    return not any(side is not None and call.side < side < (call.entered or 0) for side in inside)


def _is_map(call: _Call) -> bool:
    """Whether it returns maps of more than one pixel, and not enlarged ones, as a decoder does."""
    return call.side is not None and 1 < call.side <= (call.entered or call.side)


def _side(value: Any) -> int | None:
    """S of a tensor `[B, C, S, S]`, None for all else, such as the `[B, H, W, C]` of some transformers."""
    square = isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == value.shape[3]
    return int(value.shape[2]) if square else None


def _shape(value: Any) -> str:
    return str(["B", *value.shape[1:]]).replace("'", "") if isinstance(value, Tensor) else type(value).__name__


def _shapes(calls: dict[str, _Call]) -> str:
    seen = list(dict.fromkeys(call.kind for call in calls.values()))
    return "they return " + ", ".join(seen[:_MAX_LISTED]) + (", ..." if len(seen) > _MAX_LISTED else "")
