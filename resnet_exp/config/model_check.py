"""Checks whether a network takes images of a size before any data are read, and finds a size that it takes if not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from resnet_exp.interfaces import ConfigError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

# Sizes that are tried instead of one that a network does not take: common ones, and multiples of common patches.
_SIZES = (
    *(8, 12, 14, 16, 20, 24, 28, 32, 42, 48, 56, 64, 84, 96, 112, 128, 160, 192, 224, 256),
    *(288, 320, 384, 448, 512, 640, 768, 1024),
)
_IMAGES = 2  # BatchNorm needs more than one value a channel, and at its place an image may be down to one pixel
_MAX_LETTERS = 160  # of a network's own error in a message

Make = Callable[[int], "nn.Module"]


def check_input_size(make: Make, image_size: int, in_channels: int = 3, num_classes: int | None = None) -> None:
    """Raises ConfigError unless the network, in train mode, returns logits for images of this size.

    It is made and run on torch's meta device, without memory or arithmetic. A network that cannot be run there, because
    it reads a value, is made and run on the CPU. The state of torch's random generators is restored.

    Args:
        make: makes the network for a size.
        image_size: pixels of a side.
        in_channels: of the images.
        num_classes: logits per image that the network was made for; None: any number.

    Raises:
        ConfigError: it does not take the size (the message names one that it takes, if there is one), or it does not
            return a tensor of logits. A ConfigError that the network itself raises is passed on.
    """
    import torch

    def failure(size: int, device: str = "meta") -> Exception | None:
        return _failure(make, size, in_channels, num_classes, device)

    def takes(size: int) -> bool:
        try:
            return failure(size) is None
        except ConfigError:
            return False

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run's own network prints them again
        error = failure(image_size)
        if error is None:
            return
        other = _other_size(takes, image_size)
        if other is not None:
            raise ConfigError(
                f"data.image_size={image_size}: the model does not take images of this size ({_words(error)}); it "
                f"takes {other}: set data.image_size={other} where the data set has it (image_folder, digits), or "
                "choose another model"
            ) from error
        # It fails at every size: the meta device may be the cause.
        error = failure(image_size, "cpu")
    if error is not None:
        raise ConfigError(
            f"model: it fails on images of {image_size}x{image_size} pixels, and of every other size tried "
            f"({_words(error)})"
        ) from error


def _failure(make: Make, size: int, in_channels: int, num_classes: int | None, device: str) -> Exception | None:
    """The exception of the network, made and run on the device with images of this size; None if it takes them.

    Raises:
        ConfigError: the network raised one itself, or what it returns is not logits.
    """
    import torch

    on_meta = device == "meta"
    try:
        with _registered_on_meta() if on_meta else nullcontext():
            network = make(size).train()
        # The default device too, for tensors that the network creates in its forward.
        with torch.no_grad(), torch.device(device):
            output = network(torch.zeros(_IMAGES, in_channels, size, size))
    except ConfigError:
        raise
    except Exception as error:
        return error
    _check_output(output, num_classes)
    return None


@contextmanager
def _registered_on_meta() -> Iterator[None]:
    """A block in which parameters and buffers move to the meta device when a module registers them, uninitialised.

    `torch.device("meta")` would do for most networks, but not for those that read small tensors while they are made,
    such as a `torch.linspace(0, 0.1, depth).tolist()` or the widths of torchvision's regnet.
    """
    from torch.nn.modules.module import (
        register_module_buffer_registration_hook,
        register_module_parameter_registration_hook,
    )

    move: Callable[..., Any] = _moved  # torch's type of these hooks lacks that they may return a new value
    handles = [register_module_parameter_registration_hook(move), register_module_buffer_registration_hook(move)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moved(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
    from torch import nn
    from torch.nn.parameter import is_lazy

    if value is None or value.is_meta:
        return None  # torch then registers the value itself
    if is_lazy(value):  # of a lazy layer: it has no shape yet
        make: Any = type(value)
        return make(requires_grad=value.requires_grad, device="meta")
    moved = value.detach().to("meta")
    return nn.Parameter(moved, value.requires_grad) if isinstance(value, nn.Parameter) else moved


def _other_size(takes: Callable[[int], bool], image_size: int) -> int | None:
    """The next larger size that the network takes, else the next smaller one; None if it takes none of those tried.

    Between it and the last refused size the bound is found by bisection: it is the least possible size if the network
    takes all larger ones, as most do.
    """
    larger = [size for size in _SIZES if size > image_size]
    smaller = [size for size in reversed(_SIZES) if size < image_size]
    for sizes in (larger, smaller):
        refused = image_size
        for size in sizes:
            if takes(size):
                return _bound(takes, refused, size)
            refused = size
    return None


def _bound(takes: Callable[[int], bool], refused: int, taken: int) -> int:
    while abs(taken - refused) > 1:
        middle = (refused + taken) // 2
        if takes(middle):
            taken = middle
        else:
            refused = middle
    return taken


def _check_output(output: object, num_classes: int | None) -> None:
    from torch import Tensor

    if not isinstance(output, Tensor):
        raise ConfigError(f"model: its forward returns a {type(output).__name__}; a tensor of logits is needed")
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] != _IMAGES or num_classes not in (None, shape[1]):
        raise ConfigError(
            f"model: of {_IMAGES} images and {num_classes or 'any number of'} classes its forward returns "
            f"{list(shape)}; logits [{_IMAGES}, {num_classes or 'classes'}] are needed"
        )


def _words(error: Exception) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return first_line(error)[:_MAX_LETTERS]
