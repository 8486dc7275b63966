"""Class activation maps: at which places a layer's activations speak for a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from resnet_exp.config.schema import GradCamMethod

# pytorch-grad-cam's class of each method, and how its paper writes it.
NAMES: dict[GradCamMethod, tuple[str, str]] = {
    "gradcam": ("GradCAM", "Grad-CAM"),
    "gradcam++": ("GradCAMPlusPlus", "Grad-CAM++"),
    "xgradcam": ("XGradCAM", "XGrad-CAM"),
    "hirescam": ("HiResCAM", "HiResCAM"),
    "layercam": ("LayerCAM", "LayerCAM"),
    "eigencam": ("EigenCAM", "Eigen-CAM"),
    "eigengradcam": ("EigenGradCAM", "Eigen-Grad-CAM"),
}
assert set(NAMES) == set(get_args(GradCamMethod))
WITHOUT_CLASS = "eigencam"  # the one that knows no class
_SIGNED = ("eigencam", "eigengradcam")
_LEVEL = 1e-5  # of its largest value: a map that varies less is even, all else would be rounding


@dataclass(frozen=True)
class ClassMaps:
    """What one layer's activations say about each image and its class."""

    values: np.ndarray  # [B, S, S], float32: each map from its own least to its own largest value, 0..1
    largest: np.ndarray  # [B], float32: that largest value, in the method's own unit; 0: nothing speaks for the class

    def __len__(self) -> int:
        return len(self.values)

    @property
    def side(self) -> int:
        return self.values.shape[1]

    @property
    def even(self) -> np.ndarray:
        """Whether a map is the same everywhere, `[B], bool`; its values are then 0."""
        return self.values.max((1, 2)) == 0

    def part(self, images: slice) -> ClassMaps:
        """Those of some images."""
        return ClassMaps(self.values[images], self.largest[images])


def class_maps(
    model: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int], method: GradCamMethod
) -> ClassMaps:
    """The maps of each image for its class, by pytorch-grad-cam, at the layer's own size.

    Args:
        model: as `layers.measured` gives it.
        layer: one of its modules, which returns `[B, C, S, S]`.
        images: `[B, C, H, W], float32`, normalised.
        classes: one label for each image.
        method: of the paper that it is named after.
    """
    raw = _raw(model, layer, images, classes, method)
    if method in _SIGNED:
        raw = _positive_peaks(raw)
    return _scaled(np.nan_to_num(np.maximum(raw, 0), posinf=0))


def _raw(
    model: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int], method: GradCamMethod
) -> np.ndarray:
    """The maps `[B, S, S]` before the library scales them and makes them as large as the image."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Kept(getattr(pytorch_grad_cam, NAMES[method][0])):  # type: ignore[misc]
        def get_cam_image(self, *given: Any) -> np.ndarray:
            self.raw = super().get_cam_image(*given)
            return self.raw

    # The gradients begin at the layer: nothing before it need be differentiated.
    begin = layer.register_forward_hook(lambda _, __, output: output.detach().requires_grad_())
    cam = Kept(model=model, target_layers=[layer])
    # The library has kept the output itself: what changes it in place afterwards must change another.
    shield = layer.register_forward_hook(lambda _, __, output: output.clone())
    try:
        cam(input_tensor=images, targets=[ClassifierOutputTarget(int(label)) for label in classes])
    finally:
        begin.remove()
        shield.remove()
        cam.activations_and_grads.release()
    return cam.raw


def _positive_peaks(raw: np.ndarray) -> np.ndarray:
    """Maps turned over where their largest value is negative: a principal component has no sign of its own.

    Source: Chung, Ying: Seg-Eigen-CAM (Applied Sciences 15, 2025), equation 13, as pytorch-grad-cam quotes it.
    """
    turned = np.abs(raw.min((1, 2))) > raw.max((1, 2))
    return np.where(turned[:, None, None], -raw, raw)


def _scaled(positive: np.ndarray) -> ClassMaps:
    least, largest = positive.min((1, 2), keepdims=True), positive.max((1, 2), keepdims=True)
    even = largest - least <= _LEVEL * largest
    values = np.where(even, 0, (positive - least) / np.where(even, 1, largest - least))
    return ClassMaps(values.astype(np.float32), largest[:, 0, 0])
