"""The custom ResNet of the reference notebooks, at any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnet_exp.config.ranges import Count
from resnet_exp.interfaces import ConfigError


class CustomResNet(nn.Sequential):
    """A residual network of eight 3x3 convolutions; width 64 on 32x32 RGB and 10 classes has 6,573,120 parameters.

    Args:
        num_classes: logits per image.
        in_channels: 1 for grey, 3 for colour images.
        image_size: pixels of a side, a multiple of 8: three poolings halve it, a last one reduces it to one pixel.
        width: channels after the first convolution; the later ones have 2, 4 and 8 times as many.

    Raises:
        ConfigError: an image size that is not a multiple of 8.

    Source: the reference notebooks, after D. Page's ResNet9 (davidcpage/cifar10-fast). The softmax that the notebooks
    mention belongs to the loss and to predictions: the model itself returns logits.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: Count = 64) -> None:
        if image_size < 8 or image_size % 8:
            raise ConfigError(f"data.image_size={image_size}: custom_resnet needs a multiple of 8, such as 32")
        w = width
        super().__init__(
            _conv_bn(in_channels, w),
            _conv_bn(w, 2 * w, pool=True),
            _Residual(2 * w),
            _conv_bn(2 * w, 4 * w, pool=True),
            _conv_bn(4 * w, 8 * w, pool=True),
            _Residual(8 * w),
            nn.MaxPool2d(image_size // 8),
            nn.Flatten(),
            nn.Linear(8 * w, num_classes, bias=False),  # without bias: the references' 6,573,120 parameters
        )


def _conv_bn(in_channels: int, out_channels: int, pool: bool = False) -> nn.Sequential:
    """Conv, MaxPool2 if `pool`, BN, ReLU."""
    # The pooling comes before BN, as in the reference; davidcpage's network pools after the ReLU. No in-place ReLU:
    # Grad-CAM's maps of a layer that feeds one are wrong.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    """x plus two Conv-BN-ReLU of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv_bn(channels, channels), _conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x))
