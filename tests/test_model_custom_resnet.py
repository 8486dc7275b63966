"""The custom ResNet: its size, order, arithmetic and receptive fields are those of the references."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_exp.interfaces import ConfigError
from resnet_exp.models.custom_resnet import CustomResNet

REFERENCE_FIELDS = [3, 5, 6, 10, 14, 18, 20, 28, 32, 48, 64, 88]


def network(width=2, num_classes=10, in_channels=3, image_size=32):
    torch.manual_seed(0)
    return CustomResNet(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)


def leaves(model):
    return [module for module in model.modules() if not list(module.children())]


def outputs(model, kinds, images):
    """What each module of these kinds gives, in the order of the computation."""
    found = []
    for module in leaves(model):
        if isinstance(module, kinds):
            module.register_forward_hook(lambda module, _, output: found.append((module, output)))
    model(images)
    return found


def test_width_64_has_the_references_6_573_120_parameters():
    with torch.device("meta"):
        model = network(width=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_573_120
    assert all(module.bias is None for module in leaves(model) if isinstance(module, (nn.Conv2d, nn.Linear)))


def test_an_image_takes_379_million_multiply_adds():
    with torch.device("meta"):
        model = network(width=64)
        made = outputs(model, (nn.Conv2d, nn.Linear), torch.empty(1, 3, 32, 32))
    total = sum(module.weight[0].numel() * output.numel() for module, output in made)
    assert round(total / 1e6, 2) == 379.26


def test_the_layers_stand_in_the_references_order_with_pooling_before_normalisation():
    conv, pooled = "Conv2d BatchNorm2d ReLU", "Conv2d MaxPool2d BatchNorm2d ReLU"
    expected = [conv, pooled, conv, conv, pooled, pooled, conv, conv, "MaxPool2d Flatten Linear"]
    model = network(width=64)
    assert [type(module).__name__ for module in leaves(model)] == " ".join(expected).split()
    convolutions = [module for module in leaves(model) if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [64, 128, 128, 128, 256, 512, 512, 512]
    assert {module.kernel_size for module in convolutions} == {(3, 3)}


def test_a_residual_block_adds_its_input():
    model = network().eval()
    residual = model[2]
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(residual(x) - x, residual.branch(x))
    for parameter in residual.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(residual(x), x)


def test_each_layer_sees_what_the_reference_says():
    """The footprint of the gradient of one pixel of each layer's output, in a network that lets every path through."""
    model = network(width=1).double().eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1 / max(parameter[0].numel(), 1))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):  # a maximum has one source; the mean of the same window has them all
                setattr(module, name, nn.AvgPool2d(child.kernel_size))
    images = torch.ones(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    fields = []
    for _, output in outputs(nn.Sequential(*list(model)[:-2]), (nn.Conv2d, nn.AvgPool2d), images):
        middle = output.shape[-1] // 2
        (gradient,) = torch.autograd.grad(output[0, 0, middle, middle], images, retain_graph=True)
        seen = gradient[0].abs().sum(0) > 0
        rows, columns = (int(seen.any(dim).sum()) for dim in (1, 0))
        assert rows == columns
        fields.append(rows)
    assert fields == REFERENCE_FIELDS


def test_it_returns_logits_not_probabilities():
    model = network()
    logits = model(torch.randn(16, 3, 32, 32))
    assert logits.shape == (16, 10)
    assert bool((logits < 0).any())
    # Twice the last layer's weights give twice the output: nothing follows it.
    with torch.no_grad():
        doubled = model.train()(torch.ones(16, 3, 32, 32))
        model[-1].weight.mul_(2)
        torch.testing.assert_close(model(torch.ones(16, 3, 32, 32)), 2 * doubled)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 100])
@pytest.mark.parametrize("image_size", [8, 40])
def test_every_parameter_gets_a_finite_gradient(in_channels, num_classes, image_size):
    model = network(3, num_classes, in_channels, image_size)
    logits = model(torch.randn(4, in_channels, image_size, image_size))
    assert logits.shape == (4, num_classes)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    for name, parameter in model.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_no_layer_overwrites_what_another_gave():
    """Grad-CAM reads these activations later; an in-place change would raise their version."""
    made = outputs(network(), (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d), torch.randn(2, 3, 32, 32))
    assert len(made) == 28
    assert {output._version for _, output in made} == {0}


@pytest.mark.parametrize("image_size", [0, 4, 30, 33])
def test_a_size_that_cannot_be_halved_three_times_is_refused(image_size):
    with pytest.raises(ConfigError, match=rf"data\.image_size={image_size}: custom_resnet needs a multiple of 8"):
        network(image_size=image_size)


@pytest.mark.parametrize("width", [0, -1, 1.5, "64", True])
def test_a_width_that_is_no_whole_number_is_refused(width, refused):
    message = refused("model", "models.custom_resnet.CustomResNet", width=width)
    assert message == f"model.width={str(width).lower()}: a whole number of at least 1 is needed"
