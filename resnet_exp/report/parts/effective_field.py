"""The part on effective receptive fields: how strongly each pixel changes the middle unit of a layer's maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnet_exp.report.drawing import save
from resnet_exp.report.heat_maps import as_rows
from resnet_exp.report.network.layers import measurable_copy, spatial_layers
from resnet_exp.report.network.receptive_field import ReceptiveField, receptive_fields
from resnet_exp.report.parts.effective_field_figure import Panel, effective_field_figure
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_json

_SHARE = 1 - 0.9545  # of the largest strength: pixels above it belong to the effective field; see effective_fields
_LAYERS = 6  # at most, the deepest
_BATCH = 16  # images at once: for the gradients all their activations are in memory


@dataclass(frozen=True)
class EffectiveField:
    """How much each pixel changes the unit in the middle of a layer's maps."""

    strength: np.ndarray  # [H, W], float64: the absolute gradient, summed over channels, its mean over images
    side: int  # of the layer's maps

    @property
    def middle(self) -> int:
        """The unit's index along each side; of an even number of units, the second of the two in the middle."""
        return self.side // 2

    @property
    def relative(self) -> np.ndarray:
        """The strength as a share of the largest, `[H, W], float32`, 0..1; all zeros if no pixel changes the unit."""
        return (self.strength / (self.strength.max() or 1)).astype(np.float32)

    @property
    def size(self) -> float:
        """The side, in pixels, of a square with the area of all pixels above 4.55 % of the largest strength."""
        return math.sqrt(np.count_nonzero(self.relative > _SHARE))


def draw_effective_field(subject: Subject) -> Section:
    """The part with the effective receptive fields of the trained network as heat maps, one a layer, with their sizes.

    Raises:
        Gap: no layer has maps, or the network or the test images are missing.
    """
    if subject.model is None or subject.test is None:
        raise Gap("the network or the test images are missing")
    test = subject.test
    count = min(subject.settings.receptive_field, len(test))
    # Evenly over the whole test set, whose order may be that of its classes.
    chosen = torch.linspace(0, len(test) - 1, count, dtype=torch.float64).round().long().to(test.store)
    with measurable_copy(subject.model) as model:
        images = test.batch(chosen[:_BATCH], None).images
        layers = spatial_layers(model, images, _LAYERS)
        fields = effective_fields(model, layers, (test.batch(part, None).images for part in chosen.split(_BATCH)))
        theory = {name: found[-1] for name, found in receptive_fields(model, images[:1]).items()}
    return _section(subject, fields, {name: theory.get(name) for name in fields}, count)


def effective_fields(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, EffectiveField]:
    """The effective receptive field of each layer, by the layer's name.

    It is the gradient of the unit in the middle of the layer's maps, summed over the maps' channels, with respect to
    each pixel: the absolute value, summed over the image's channels, averaged over images.

    Source: Luo, Li, Urtasun, Zemel: Understanding the Effective Receptive Field in Deep Convolutional Neural Networks
    (2016), section 3: a gradient of 1 at the centre of the output, propagated back, and averaged; and the size, the
    square root of the number of pixels above 1 - 95.45 % of the centre. Unlike there, inputs are test images; the
    absolute value is taken before the mean, so that signs do not cancel; and the largest value takes the place of that
    of the centre, because in maps smaller than the image the centre is not one pixel.

    Args:
        model: from `layers.measurable_copy`.
        layers: some of its modules, each returning `[B, C, S, S]`.
        batches: images `[B, C, H, W], float32`, normalised.
    """
    total: dict[str, np.ndarray] = {}
    sides: dict[str, int] = {}
    seen = 0
    for images in batches:
        images = images.detach().requires_grad_()
        with _outputs(layers) as outputs:
            model(images)
        for name, output in outputs.items():
            sides[name] = output.shape[-1]
            unit = output[:, :, sides[name] // 2, sides[name] // 2].sum()
            (gradient,) = torch.autograd.grad(unit, images, retain_graph=True)
            strength = gradient.abs().sum((0, 1)).double().cpu().numpy()
            total[name] = total[name] + strength if name in total else strength
        seen += len(images)
    return {name: EffectiveField(total[name] / seen, sides[name]) for name in layers}


@contextmanager
def _outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """A block that collects the layers' outputs, by name, when the network runs in it."""
    outputs: dict[str, Tensor] = {}

    def store(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs[name] = output
            return output.clone()  # later in-place operations change the clone, not the stored output

        return hook

    handles = [layer.register_forward_hook(store(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _section(
    subject: Subject, fields: dict[str, EffectiveField], theory: dict[str, ReceptiveField | None], count: int
) -> Section:
    panels = [_panel(name, field, theory[name]) for name, field in fields.items()]
    data = subject.folder / "effective_receptive_field.json"
    write_json(data, _as_json(fields, theory, count))
    image = save(effective_field_figure(panels), subject.folder / "effective_receptive_field.png")
    sizes = ", ".join(f"{field.size:.1f} at {name}" for name, field in fields.items())
    alt = f"Heat maps of the effective receptive fields; their sizes in pixels are {sizes}."
    images = "1 test image" if count == 1 else f"{count} test images"
    caption = (
        "How strongly each pixel changes the unit in the middle of a layer's maps: the mean absolute gradient over "
        f"{images}, relative to the largest. Dashed: the theoretical receptive field, all pixels that can change "
        "the unit, cut to the image. The effective size is the side of a square with the area of all pixels above "
        "4.55 % of the largest gradient (Luo et al., 2016). If the number of units is even, the unit is the one "
        "below and to the right of the middle."
    )
    return Section("Effective receptive field", figures=(Figure(image, alt, caption, data, wide=True),))


def _panel(name: str, field: EffectiveField, theory: ReceptiveField | None) -> Panel:
    square = None
    if theory is not None and theory.height is not None and theory.width is not None:
        extents = (theory.height, theory.width)
        ends = [(extent.low + field.middle * extent.step, extent.high + field.middle * extent.step)
                for extent in extents]  # fmt: skip
        square = (ends[0], ends[1])
    text = f"effective {field.size:.1f} px" + (f"\ntheoretical {theory.size}" if square and theory else "")
    return Panel(name, f"{field.side}x{field.side}", field.relative, text, square)


def _as_json(fields: dict[str, EffectiveField], theory: dict[str, ReceptiveField | None], count: int) -> dict[str, Any]:
    """The figure's data for a JSON file: each heat map in rows of thousandths of its largest value."""
    return {
        "images": count,
        "threshold": round(_SHARE, 4),
        "layers": [
            {
                "name": name,
                "side": field.side,
                "effective_size": round(field.size, 2),
                "theoretical_size": known.size if (known := theory[name]) is not None else None,
                "thousandths": as_rows(field.relative),
            }
            for name, field in fields.items()
        ],
    }
