"""torchvision's classification models by name, for images of any size and any number of channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from resnet_exp.config.suggest import closest
from resnet_exp.interfaces import ConfigError

_COLOURS = 3  # channels that every model of torchvision is made for
# Builders that would add auxiliary outputs, and warn unless `init_weights` says how to initialise.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


class TorchvisionModel(nn.Module):
    """A torchvision model with random weights, which returns logits only.

    Auxiliary classifiers (googlenet, inception_v3) are not built: the loop has one loss, and they would get no
    gradient. The first convolution takes `in_channels`: for grey images its weights are summed over colours, so that
    at first the network computes what torchvision's own would on the grey image repeated three times. vit_* and
    maxvit_* are built for `image_size`; the others take any size that they do not reduce to nothing. No module works in
    place, since Grad-CAM reads activations; in-place function calls remain in a few networks (densenet, googlenet,
    inception_v3: ReLU; resnet and others: `+=`).

    Args:
        num_classes: logits per image.
        in_channels: 1 for grey, 3 for colour images, or any other number.
        image_size: pixels of a side.
        name: one of `torchvision.models.list_models()`.
        kwargs: further arguments of torchvision's builder of this network, such as `dropout`.

    Raises:
        ConfigError: a name that torchvision does not have, or kwargs that its builder does not take or that the run
            sets itself.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        name: str = "resnet18",
        kwargs: dict = {},  # noqa: B006 never changed
    ) -> None:
        super().__init__()
        _check_name(name)
        fixed = {"num_classes": num_classes, **_fixed(name, image_size)}
        _check_kwargs(kwargs, [*fixed, "weights", "progress"])
        if name in _WITH_AUXILIARY:
            fixed["init_weights"] = True  # torchvision's own default; without it a FutureWarning is printed
        try:
            self.network = torchvision.models.get_model(name, **{**fixed, **kwargs})
        except TypeError as error:
            raise ConfigError(f"model.kwargs={kwargs}: {name} does not take them ({error})") from error
        if in_channels != _COLOURS:
            _take_channels(self.network, in_channels)
        # Done after building: the builders have no argument for it.
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return self.network(images)


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = closest(name, known)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"model.name={name}: torchvision has no such classification network; {hint}")


def _check_kwargs(kwargs: dict[str, Any], reserved: Iterable[str]) -> None:
    for key in reserved:
        if key in kwargs:
            why = "weights are random here, none are downloaded" if key == "weights" else "the run sets it"
            raise ConfigError(f"model.kwargs.{key}={kwargs[key]}: {why}; leave it out")


def _fixed(name: str, image_size: int) -> dict[str, Any]:
    """The arguments that the builder of this network needs and that the user may not set."""
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    return {"aux_logits": False} if name in _WITH_AUXILIARY else {}


def _take_channels(network: nn.Module, in_channels: int) -> None:
    """Replaces the weights of the first convolution by ones for `in_channels` channels.

    For one channel they are summed over the colours. For other numbers each channel gets the weights of a colour in
    turn, scaled so that the sum over all channels keeps its size.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    weight = first.weight.detach()
    if in_channels == 1:
        weight = weight.sum(1, keepdim=True)
    else:
        colours = torch.arange(in_channels, device=weight.device) % _COLOURS
        weight = weight[:, colours] * (_COLOURS / in_channels)
    first.in_channels, first.weight = in_channels, nn.Parameter(weight)
