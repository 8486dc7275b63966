"""The classification networks of torchvision, by name, for images of any size and any number of channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from resnet_exp.config.suggest import nearest
from resnet_exp.interfaces import ConfigError

_COLOURS = 3  # channels that every network of torchvision is made for
# Builders that would add auxiliary outputs, and warn unless told how to draw their first weights.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


class TorchvisionModel(nn.Module):
    """A network of torchvision with random weights, which returns logits alone.

    Auxiliary classifiers (googlenet, inception_v3) are not built: the loop has one loss, and they would get no
    gradient. The first convolution takes `in_channels`: for grey images its weights are summed over colours, so that
    the network begins as torchvision's own would on the grey image given three times. vit_* and maxvit_* are built for
    `image_size`; the others take what comes. No module works in place, since Grad-CAM reads activations; calls of
    functions in place remain in a few networks (densenet, googlenet, inception_v3: ReLU; resnet and others: `+=`).

    Args:
        num_classes: logits per image.
        in_channels: 1 for grey, 3 for colour images, or any other number.
        image_size: pixels of a side.
        name: as `torchvision.models.list_models()` has it.
        kwargs: what torchvision's builder of this network takes beside, such as `dropout`.

    Raises:
        ConfigError: a name that torchvision does not have, or kwargs that its builder does not take or that are not
            the user's to set.
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
        given = {"num_classes": num_classes, **_fixed(name, image_size)}
        _check_kwargs(kwargs, [*given, "weights", "progress"])
        if name in _WITH_AUXILIARY:
            given["init_weights"] = True  # torchvision's default, without its warning
        try:
            self.network = torchvision.models.get_model(name, **{**given, **kwargs})
        except TypeError as error:
            raise ConfigError(f"model.kwargs={kwargs}: {name} does not take them ({error})") from error
        if in_channels != _COLOURS:
            _take_channels(self.network, in_channels)
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return self.network(images)


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"model.name={name}: torchvision has no such classification network; {hint}")


def _check_kwargs(kwargs: dict[str, Any], ours: Iterable[str]) -> None:
    for key in ours:
        if key in kwargs:
            why = "weights are random here, none are downloaded" if key == "weights" else "the run sets it"
            raise ConfigError(f"model.kwargs.{key}={kwargs[key]}: {why}; leave it out")


def _fixed(name: str, image_size: int) -> dict[str, Any]:
    """What a network of this name must be told, and is not the user's choice."""
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    return {"aux_logits": False} if name in _WITH_AUXILIARY else {}


def _take_channels(network: nn.Module, in_channels: int) -> None:
    """Makes the first convolution one for images of so many channels.

    For one channel its weights are summed over colours. For others each channel has the weights of a colour in turn,
    scaled so that the sum over all is as large as before.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    weight = first.weight.detach()
    if in_channels == 1:
        weight = weight.sum(1, keepdim=True)
    else:
        colours = torch.arange(in_channels, device=weight.device) % _COLOURS
        weight = weight[:, colours] * (_COLOURS / in_channels)
    first.in_channels, first.weight = in_channels, nn.Parameter(weight)
