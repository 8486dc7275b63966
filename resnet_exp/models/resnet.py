"""ResNet18 and ResNet34 for small images: the first convolution has stride 1."""

from __future__ import annotations

from torch import Tensor, nn

from resnet_exp.config.ranges import Count


class ResNet(nn.Module):
    """A residual network of basic blocks; [2,2,2,2] at width 64 on RGB and 10 classes has 11,173,962 parameters.

    Args:
        num_classes: logits per image.
        in_channels: 1 for grey, 3 for colour images.
        image_size: pixels of a side, 8 or more; any is taken, since a global average pooling ends the network.
        blocks: basic blocks of each of the four stages; [2,2,2,2] is ResNet18, [3,4,6,3] ResNet34.
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.

    The initial weights are torch's defaults, as in the notebooks' networks: with a BatchNorm after each convolution
    their scale does not matter.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning (2016), table 1 and section 3.3, shortcuts of option B. The stem
    for small images, one 3x3 convolution instead of 7x7 with stride 2 and a pooling, is that of section 4.2 there.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        blocks: tuple[Count, Count, Count, Count] = (2, 2, 2, 2),
        width: Count = 64,
    ) -> None:
        super().__init__()
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        strides = [1, 2, 2, 2]  # the first stage has the resolution of the stem
        self.stem = nn.Sequential(_conv3x3(in_channels, width), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(*map(_stage, channels[:-1], channels[1:], blocks, strides))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return self.classifier(self.pool(self.stages(self.stem(images))))


class _BasicBlock(nn.Module):
    """The ReLU of x plus Conv-BN-ReLU-Conv-BN of x; not in place, since Grad-CAM would read wrong activations."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv3x3(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            _conv3x3(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.branch(x))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Basic blocks one after another; the first changes the channels and, with stride 2, halves the sides."""
    first = _BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(_BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 projection where the block changes the shape (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),  # no bias: the BatchNorm after it has one
        nn.BatchNorm2d(out_channels),
    )


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
