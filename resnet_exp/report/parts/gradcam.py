"""The part with class activation maps: what the network looked at in misclassified test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnet_exp.config.schema import GradCamMethod
from resnet_exp.report.drawing import as_rgb, save
from resnet_exp.report.heat_maps import as_rows
from resnet_exp.report.network.class_maps import NAMES, WITHOUT_CLASS, ClassMaps, class_maps
from resnet_exp.report.network.layers import map_layers, measurable_copy
from resnet_exp.report.parts.gradcam_figure import Group, gradcam_figure
from resnet_exp.report.section import Figure, Gap, Section
from resnet_exp.report.subject import Subject
from resnet_exp.run_dir.files import write_json

_ROWS = 12  # images in one picture
_BATCH = 16  # images whose maps are computed at once; twice as many pass, one for each of two classes
_TITLES = {"true": "true class", "predicted": "predicted class", "any": "what stands out"}
_SCALE = "evidence, relative within each map"


def draw_gradcam(subject: Subject) -> Section:
    """The part with maps of the most confident misclassified test images, for the true and for the predicted class.

    Raises:
        Gap: no test image is misclassified, or no layer has maps.
        ConfigError: `report.gradcam_layers` names a module that the network lacks.
    """
    method = subject.settings.gradcam_method
    indices = subject.predictions.wrong[: subject.settings.gradcam]
    if not len(indices):
        raise Gap("no test image is misclassified")
    groups = _groups(subject, indices)
    data = subject.folder / "gradcam.json"
    write_json(data, _as_json(subject, indices, groups))
    figures = []
    for start in range(0, len(indices), _ROWS):
        rows = slice(start, start + _ROWS)
        path = subject.folder / ("gradcam.png" if start == 0 else f"gradcam_{start // _ROWS + 1}.png")
        image = save(_drawn(subject, indices[rows], [group.part(rows) for group in groups]), path)
        figures.append(Figure(image, _alt_text(subject, indices[rows], groups), _caption(method), data, wide=True))
    return Section("What the network looked at", figures=tuple(figures))


def _groups(subject: Subject, indices: np.ndarray) -> list[Group]:
    """The maps of these test images at each layer, for the true and the predicted class; of Eigen-CAM for neither."""
    if subject.model is None or subject.test is None:
        raise Gap("the network or the test images are missing")
    method, on_test = subject.settings.gradcam_method, subject.predictions
    classes = {key: labels[indices] for key, labels in (("true", on_test.labels), ("predicted", on_test.predicted))}
    if method == WITHOUT_CLASS:
        classes = {"any": classes["true"]}  # any class gives the same map
    with measurable_copy(subject.model) as model:
        first = _images(subject, indices[:_BATCH])
        layers = map_layers(model, first, subject.settings.gradcam_layers)
        maps = {name: _maps(subject, model, layer, indices, list(classes.values())) for name, layer in layers.items()}
    return [
        Group(key, _TITLES[key], {name: found[place] for name, found in maps.items()})
        for place, key in enumerate(classes)
    ]


def _maps(
    subject: Subject, model: nn.Module, layer: nn.Module, indices: np.ndarray, classes: Sequence[np.ndarray]
) -> list[ClassMaps]:
    """One layer's maps of these images for each of the lists of classes, which pass in one batch."""
    method, parts = subject.settings.gradcam_method, []
    for start in range(0, len(indices), _BATCH):
        rows = slice(start, start + _BATCH)
        images = _images(subject, indices[rows])
        labels = np.concatenate([one[rows] for one in classes])
        together = images.repeat(len(classes), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        parts.append(class_maps(model, layer, together, labels.tolist(), method))
    return [_joined(parts, place, len(classes)) for place in range(len(classes))]


def _images(subject: Subject, indices: np.ndarray) -> Tensor:
    assert subject.test is not None
    return subject.test.batch(torch.from_numpy(indices).to(subject.test.store), None).images


def _joined(parts: Sequence[ClassMaps], place: int, of: int) -> ClassMaps:
    """The maps of all batches for one of the `of` lists of classes that passed together."""
    own = [part.part(slice(place * (len(part) // of), (place + 1) * (len(part) // of))) for part in parts]
    return ClassMaps(*(np.concatenate([getattr(one, field) for one in own]) for field in ("values", "largest")))


def _drawn(subject: Subject, indices: np.ndarray, groups: Sequence[Group]) -> Any:
    pixels = as_rgb(subject.test_images(indices))
    labels = [
        (f"test image {index}", f"is {true}", f"taken for {predicted}", f"with {confidence:.1%}")
        for index, true, predicted, confidence in subject.predictions.details(indices, subject.drawn_names)
    ]
    title = f"{NAMES[subject.settings.gradcam_method][1]}: what the network looked at where it was wrong"
    return gradcam_figure(title, pixels, labels, groups, _SCALE)


def _as_json(subject: Subject, indices: np.ndarray, groups: Sequence[Group]) -> dict[str, Any]:
    """The figures' data for a JSON file: the largest value of each map, and the map in thousandths of it."""
    predicted_images = subject.predictions.details(indices, subject.info.class_names)
    return {
        "method": subject.settings.gradcam_method,
        "layers": [{"name": name, "side": maps.side} for name, maps in groups[0].maps.items()],
        "images": [
            {
                "index": index,
                "true": true,
                "predicted": predicted,
                "confidence": round(confidence, 4),
                "maps": {
                    group.key: [
                        {"largest": float(f"{maps.largest[row]:.3g}"), "thousandths": as_rows(maps.values[row])}
                        for maps in group.maps.values()
                    ]
                    for group in groups
                },
            }
            for row, (index, true, predicted, confidence) in enumerate(predicted_images)
        ],
    }


def _alt_text(subject: Subject, indices: np.ndarray, groups: Sequence[Group]) -> str:
    layers = ", ".join(f"{name} ({maps.side}x{maps.side})" for name, maps in groups[0].maps.items())
    which = " and ".join(f"the {group.key} class" for group in groups)
    images = "; ".join(
        f"test image {index}, {true} taken for {predicted} with {confidence:.1%}"
        for index, true, predicted, confidence in subject.predictions.details(indices, subject.info.class_names)
    )
    return f"{NAMES[subject.settings.gradcam_method][1]} heat maps for {which}, at the layers {layers}: {images}."


def _caption(method: GradCamMethod) -> str:
    if method == WITHOUT_CLASS:
        what = (
            "Bright is where a layer's activations differ most from the rest of the image, along their first principal "
            "component. Eigen-CAM knows no class: the maps show what stands out to the layer, not the evidence for a "
            "class."
        )
    else:
        what = (
            "Bright is where a layer's activations are evidence for a class: on the left for the true one, on the "
            "right for the predicted one."
        )
    return (
        f"{what} Brightness is relative within a map, so two maps do not show which class had more evidence. "
        "'none': no evidence for the class anywhere; 'even': equal evidence everywhere. Early layers show edges and "
        "textures, the last ones regions. The most confident mistakes come first."
    )
