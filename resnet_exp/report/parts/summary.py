"""The summary part: each layer's output shape, parameters, multiply-adds, receptive field and stride."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure as Canvas
from torch import nn

from resnet_exp.report.drawing import BLUE, GREY, VERMILLION, save
from resnet_exp.report.network.layers import measurable_copy
from resnet_exp.report.network.receptive_field import ReceptiveField, receptive_fields
from resnet_exp.report.section import Figure, Section, Table
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_csv, write_durably

_MAX_ROWS = 60  # of the page's table; the files have all layers
_COLUMNS = ("layer", "kind", "output shape", "parameters", "multiply-adds", "receptive field", "stride")


@dataclass(frozen=True)
class Layer:
    """One module of the network, including the modules inside it."""

    name: str
    depth: int  # 0: the network itself
    kind: str
    output_shape: str
    parameters: int
    mult_adds: int  # for one image
    field: ReceptiveField | None

    @property
    def row(self) -> tuple[str, str, str, int, int, str, str]:
        """The row of the table, in the order of `_COLUMNS`."""
        size, stride = (self.field.size, self.field.stride) if self.field else ("", "")
        return self.name, self.kind, self.output_shape, self.parameters, self.mult_adds, size, stride


def draw_summary(subject: Subject) -> Section:
    """The part with a table of the layers, the totals and a figure of receptive fields; writes summary.txt and .csv."""
    assert subject.model is not None
    info = subject.info
    image = torch.zeros(1, info.in_channels, info.image_size, info.image_size, device=subject.runtime.device)
    layers, totals, text = summarised(subject.model, image)
    data = write_csv(subject.folder / "summary.csv", _COLUMNS, (layer.row for layer in layers))
    write_durably(subject.folder / "summary.txt", text.encode())
    shown = _down_to_a_page(layers)
    left_out = (
        "" if len(shown) == len(layers) else f" {len(layers) - len(shown):,} layers inside these are in the files only."
    )
    tables = (
        Table(("total", "value"), tuple(totals.items()), "For one image; sizes in MB (10^6 bytes), float32."),
        Table(_COLUMNS, tuple(layer.row for layer in shown), f"Receptive field and stride in pixels.{left_out}", data),
    )
    return Section("Layers and receptive fields", "", _figures(layers, info.image_size, subject.folder), tables)


def summarised(model: nn.Module, image: torch.Tensor) -> tuple[list[Layer], dict[str, str | int], str]:
    """All modules in order, the totals by name, and both as text; the model is not changed.

    Args:
        model: any network.
        image: `[1, C, H, W], float32`, on its device.
    """
    import torchinfo

    # On a copy, since torchinfo runs the network with hooks of its own.
    with measurable_copy(model) as copy, torch.no_grad():
        fields = receptive_fields(copy, image)
        names = {id(module): name for name, module in copy.named_modules()}
        # depth=100: all levels; the page's table is cut by `_down_to_a_page`.
        found = torchinfo.summary(copy, input_data=image, depth=100, verbose=0)
        layers = [
            _layer(each, names[id(each.module)], fields) for each in found.summary_list if id(each.module) in names
        ]
    to_mb = torchinfo.ModelStatistics.to_megabytes
    sizes = (found.total_input, found.total_output_bytes, found.total_param_bytes)
    totals: dict[str, str | int] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "multiply-adds": found.total_mult_adds,
        "input size": f"{to_mb(sizes[0]):.2f} MB",
        "forward and backward pass size": f"{to_mb(sizes[1]):.2f} MB",
        "parameters size": f"{to_mb(sizes[2]):.2f} MB",
        "estimated total size": f"{to_mb(sum(sizes)):.2f} MB",
    }
    return layers, totals, _text(layers, totals)


def _layer(each: Any, name: str, fields: dict[str, list[ReceptiveField | None]]) -> Layer:
    # torchinfo counts the arithmetic of leaf layers only; a container has the sum of those inside it.
    within = [each] if each.is_leaf_layer else [child for child in each.children if child.is_leaf_layer]
    return Layer(
        name=name or "the network",
        depth=each.depth,
        kind=each.class_name,
        output_shape="x".join(map(str, each.output_size[1:])),
        parameters=max(each.num_params, 0),
        mult_adds=sum(layer.macs for layer in within),
        field=next((field for field in fields.get(name, []) if field is not None), None),
    )


def _text(layers: list[Layer], totals: dict[str, str | int]) -> str:
    """A table in plain text, the layers indented by their depth, the totals below."""
    rows = [(f"{'  ' * layer.depth}{layer.name}", *(_shown(value) for value in layer.row[1:])) for layer in layers]
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (_COLUMNS, *rows)
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    below = [f"{name}: {_shown(value)}" for name, value in totals.items()]
    return "\n".join([lines[0], rule, *lines[1:], rule, *below]) + "\n"


def _shown(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _down_to_a_page(layers: list[Layer]) -> list[Layer]:
    """The layers down to the greatest depth at which they fit on a page."""
    for depth in range(max(layer.depth for layer in layers), 0, -1):
        shown = [layer for layer in layers if layer.depth <= depth]
        if len(shown) <= _MAX_ROWS:
            return shown
    return [layer for layer in layers if layer.depth <= 1][:_MAX_ROWS]


def _figures(layers: list[Layer], image_size: int, folder: Path) -> tuple[Figure, ...]:
    """The figure of each convolution's and pooling's receptive field, in order; none if fewer than two are known."""
    known = [(layer, side) for layer in layers if (side := _side(layer)) is not None]
    if len(known) < 2:
        return ()
    names, sides = [layer.name for layer, _ in known], [side for _, side in known]
    rows = ((number, layer.name, layer.kind, side) for number, (layer, side) in enumerate(known, 1))
    data = write_csv(folder / "receptive_field.csv", ("number", "layer", "kind", "receptive_field"), rows)
    whole = next((name for name, side in zip(names, sides, strict=True) if side >= image_size), None)
    reach = "no layer's covers the image" if whole is None else f"from {whole} on it covers the image"
    image = save(_curve(names, sides, image_size, reach), folder / "receptive_field.png", svg=True)
    some = ", ".join(map(str, sides[:12])) + (", ..." if len(sides) > 12 else "")
    alt = f"Receptive field of {len(sides)} layers, {some} pixels; {reach}."
    caption = "The theoretical receptive field: the side of the square of all pixels that an output can depend on."
    return (Figure(image, alt, caption, data, wide=True),)


def _side(layer: Layer) -> int | None:
    """The larger side of a convolution's or a pooling's receptive field, in pixels, where it is known and bounded."""
    if not re.search("Conv|Pool", layer.kind) or layer.field is None or not layer.field.size[0].isdigit():
        return None
    return max(int(side) for side in layer.field.size.split(" x ") if side.isdigit())


def _curve(names: list[str], sides: list[int], image_size: int, reach: str) -> Canvas:
    canvas = Canvas(figsize=(10.5, 3.9))
    axes = canvas.subplots()
    places = range(1, len(sides) + 1)
    axes.step(places, sides, where="mid", color=BLUE, lw=2, marker="o" if len(sides) < 60 else "", ms=5)
    axes.axhline(image_size, color=VERMILLION, lw=1.3, ls=(0, (4, 2)), label=f"the image, {image_size} pixels")
    axes.set_title(f"{sides[-1]} pixels at the end; {reach}", loc="left", fontsize=10)
    axes.set_xlabel("convolutions and poolings, in order")
    axes.set_ylabel("receptive field (pixels)")
    if len(sides) <= 24:
        axes.set_xticks(places, names, rotation=35, ha="right", fontsize=8.5)
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, labelcolor=GREY)
    canvas.tight_layout()
    return canvas
