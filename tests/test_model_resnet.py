"""ResNet18 and 34 for small images: sizes known elsewhere, and torchvision's arithmetic with another stem."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from resnet_exp.models.resnet import ResNet

RESNET18, RESNET34 = [2, 2, 2, 2], [3, 4, 6, 3]


def network(blocks=RESNET18, width=4, num_classes=10, in_channels=3, image_size=32):
    torch.manual_seed(0)
    return ResNet(
        num_classes=num_classes, in_channels=in_channels, image_size=image_size, blocks=blocks, width=width
    )  # fmt: skip


def torchvisions(blocks):
    """Its network of basic blocks, with the stem for small images put in."""
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, blocks, num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize(("blocks", "parameters"), [(RESNET18, 11_173_962), (RESNET34, 21_282_122)])
def test_it_has_the_parameters_of_kuangliu_pytorch_cifar(blocks, parameters):
    with torch.device("meta"):
        model = network(blocks, width=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("blocks", [RESNET18, RESNET34])
def test_with_the_same_weights_it_computes_what_torchvisions_does(blocks):
    ours, theirs = network(blocks, width=64), torchvisions(blocks)
    names, values = ours.state_dict().keys(), theirs.state_dict().values()
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    torch.testing.assert_close(ours.train()(images), theirs.train()(images))


def test_the_stem_keeps_every_pixel_and_three_stages_halve_them():
    model = network(width=2)
    images, sides = model.stem(torch.randn(2, 3, 32, 32)), [32]
    assert images.shape == (2, 2, 32, 32)
    for stage in model.stages:
        images = stage(images)
        sides.append(images.shape[-1])
    assert sides == [32, 32, 16, 8, 4]
    assert images.shape[1] == 16


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("image_size", [8, 33, 50])
@pytest.mark.parametrize("blocks", [[1, 1, 1, 1], RESNET34])
def test_every_parameter_gets_a_finite_gradient_at_any_size(blocks, image_size, in_channels):
    model = network(blocks, 3, 7, in_channels, image_size)
    logits = model(torch.randn(4, in_channels, image_size, image_size))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 6])).backward()
    for name, parameter in model.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_no_layer_overwrites_what_another_gave():
    """Grad-CAM reads these activations later; an in-place change would raise their version."""
    model, versions = network(), []
    for module in model.modules():
        module.register_forward_hook(lambda _, __, output: versions.append(output))
    model(torch.randn(2, 3, 32, 32))
    assert len(versions) > 60
    assert {output._version for output in versions} == {0}


def test_it_can_be_traced_and_exported():
    model, images = network().eval(), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images), model(images))
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize(("setting", "message"), [
    ({"blocks": [2, 2, 2]}, "model.blocks=[2,2,2]: a list of 4"),
    ({"blocks": [2, 2, 2, 2, 2]}, "model.blocks=[2,2,2,2,2]: a list of 4"),
    ({"blocks": [2, 0, 2, 2]}, "model.blocks=[2,0,2,2]: a list of 4, each a whole number of at least 1"),
    ({"blocks": 18}, "model.blocks=18: a list of 4"),
    ({"width": 0}, "model.width=0: a whole number of at least 1"),
])  # fmt: skip
def test_a_wrong_setting_is_named(setting, message, refused):
    assert message in refused("model", "models.resnet.ResNet", **setting)
