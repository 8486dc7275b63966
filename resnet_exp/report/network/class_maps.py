"""Class activation maps: where in an image a layer's activations are evidence for a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from resnet_exp.config.schema import GradCamMethod

# By method: the class of pytorch-grad-cam, and the name that the method's paper gives it.
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
WITHOUT_CLASS = "eigencam"  # the one method whose maps do not depend on a class
_SIGNED = ("eigencam", "eigengradcam")
_EVEN = 1e-5  # a map that varies by less, relative to its largest value, counts as even: the rest is rounding


@dataclass(frozen=True)
class ClassMaps:
    """The maps of one layer, one for each image and its class."""

    values: np.ndarray  # [B, S, S], float32: each map scaled from its own least and largest value to 0..1
    largest: np.ndarray  # [B], float32: that largest value, in the method's unit; 0: no evidence for the class

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
        """The maps of these images alone."""
        return ClassMaps(self.values[images], self.largest[images])


def class_maps(
    model: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int], method: GradCamMethod
) -> ClassMaps:
    """The map of each image for its class, by pytorch-grad-cam, at the layer's own size.

    Args:
        model: from `layers.measurable_copy`.
        layer: one of its modules, which returns `[B, C, S, S]`.
        images: `[B, C, H, W], float32`, normalised.
        classes: one label for each image.
        method: each is named as in its paper; see NAMES.
    """
    raw = _raw(model, layer, images, classes, method)
    if method in _SIGNED:
        raw = _positive_peaks(raw)
    # As in the library, negative values, evidence against the class, are not shown.
    return _scaled(np.nan_to_num(np.maximum(raw, 0), posinf=0))


def _raw(
    model: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int], method: GradCamMethod
) -> np.ndarray:
    """The maps `[B, S, S]` before the library scales them and enlarges them to the size of the image."""
    # Importing the library takes 4 to 5 s.
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class RawMaps(getattr(pytorch_grad_cam, NAMES[method][0])):  # type: ignore[misc]
        def get_cam_image(self, *given: Any) -> np.ndarray:
            self.raw = super().get_cam_image(*given)
            return self.raw

    # The layer's output becomes a leaf, so that nothing before it is differentiated.
    start = layer.register_forward_hook(lambda _, __, output: output.detach().requires_grad_())
    cam = RawMaps(model=model, target_layers=[layer])
    # The library's hook has stored the output. The rest of the network gets a clone, since an in-place ReLU or += after
    # the layer would change what is stored, and the map would be wrong.
    shield = layer.register_forward_hook(lambda _, __, output: output.clone())
    try:
        cam(input_tensor=images, targets=[ClassifierOutputTarget(int(label)) for label in classes])
    finally:
        start.remove()
        shield.remove()
        cam.activations_and_grads.release()
    return cam.raw


def _positive_peaks(raw: np.ndarray) -> np.ndarray:
    """Maps whose largest absolute value is negative get the other sign: a principal component has none of its own.

    Source: Chung, Ying: Seg-Eigen-CAM (Applied Sciences 15, 2025), equation 13, as pytorch-grad-cam quotes it.
    """
    turned = np.abs(raw.min((1, 2))) > raw.max((1, 2))
    return np.where(turned[:, None, None], -raw, raw)


def _scaled(positive: np.ndarray) -> ClassMaps:
    least, largest = positive.min((1, 2), keepdims=True), positive.max((1, 2), keepdims=True)
    even = largest - least <= _EVEN * largest
    values = np.where(even, 0, (positive - least) / np.where(even, 1, largest - least))
    return ClassMaps(values.astype(np.float32), largest[:, 0, 0])
