"""torchvision's classifiers: each is built, for any channels, and gives logits alone; what cannot be set is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import nn

from resnet_exp.config.model_check import check_input_size
from resnet_exp.interfaces import ConfigError
from resnet_exp.models.torchvision import TorchvisionModel

NAMES = torchvision.models.list_models(module=torchvision.models)
# The least size, of those that do not take 32.
SIZES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 221, "vit_h_14": 42}
# One of each family; the rest take ten seconds together.
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg16_bn", "vit_b_16", "wide_resnet50_2"),
)


def network(name="resnet18", num_classes=10, in_channels=3, image_size=32, kwargs=None):
    torch.manual_seed(0)
    return TorchvisionModel(
        num_classes=num_classes, in_channels=in_channels, image_size=image_size, name=name, kwargs=kwargs or {}
    )  # fmt: skip


def torchvisions(name, **kwargs):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, **kwargs)


@pytest.mark.parametrize(
    "name", [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_network_gives_logits_in_train_mode(name):
    made = []

    def make(image_size):
        made.append(network(name, 7, 1, image_size))
        return made[-1]

    check_input_size(make, SIZES.get(name, 32), in_channels=1, num_classes=7)
    (model,) = made  # at the first size, and without weights in memory
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not [layer for layer in model.modules() if getattr(layer, "inplace", False)]


def test_every_family_is_tested():
    """A network that a later torchvision adds is tested with the slow ones."""
    assert set(FAMILIES) <= set(NAMES)


@pytest.mark.parametrize(("name", "parameters"), [
    ("resnet18", 11_689_512),
    ("vgg16_bn", 138_365_992),
    ("mobilenet_v3_small", 2_542_856),
    ("vit_b_16", 86_567_656),
    ("maxvit_t", 30_919_624),
    ("googlenet", 6_624_904),  # less the auxiliary classifiers, as its page counts them
    ("inception_v3", 27_161_264 - 3_326_696),  # less its auxiliary classifier, which the page counts
])  # fmt: skip
def test_it_has_the_parameters_that_torchvisions_pages_say(name, parameters):
    with torch.device("meta"):
        model = network(name, num_classes=1000, image_size=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 75)])
def test_without_auxiliary_heads_every_parameter_learns(name, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torchvision warns where initial weights are not asked for
        model = network(name, image_size=size)
    logits = model.train()(torch.randn(2, 3, size, size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 10)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "swin_t"])
def test_on_grey_images_it_begins_as_torchvisions_on_the_image_three_times(name):
    ours, theirs = network(name, in_channels=1).eval(), torchvisions(name, num_classes=10).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_channels", [2, 4, 6])
def test_for_other_channels_the_colours_are_taken_in_turn(in_channels):
    ours, theirs = network(in_channels=in_channels).eval(), torchvisions("resnet18", num_classes=10).eval()
    (first, *_), (colours, *_) = (list(model.parameters()) for model in (ours, theirs))
    for channel in range(in_channels):
        torch.testing.assert_close(first[:, channel], colours[:, channel % 3] * 3 / in_channels)
    assert ours(torch.randn(2, in_channels, 32, 32)).shape == (2, 10)


def test_three_channels_are_torchvisions_own_network():
    ours, theirs = network(), torchvisions("resnet18", num_classes=10)
    assert {key.removeprefix("network."): value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.train()(images), theirs.train()(images))


def test_a_vision_transformer_is_built_for_the_size_of_the_images():
    with torch.device("meta"):
        tokens = network("vit_b_16", image_size=32).network.encoder.pos_embedding.shape[1]
    assert tokens == 1 + (32 // 16) ** 2


def test_kwargs_reach_torchvisions_builder():
    with torch.device("meta"):
        model = network("vgg11", kwargs={"dropout": 0.125})
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.125}


@pytest.mark.parametrize(("name", "message"), [
    ("vgg16bn", r"model\.name=vgg16bn: .*; did you mean vgg16_bn\?"),
    ("ResNet18", r"model\.name=ResNet18: .*; did you mean resnet18\?"),
    ("lenet_for_digits", r"model\.name=lenet_for_digits: .*; known are alexnet, convnext_base, "),
    ("fcn_resnet50", r"model\.name=fcn_resnet50: torchvision has no such classification network"),  # of segmentation
])  # fmt: skip
def test_a_name_that_is_not_there_is_told_with_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        network(name)


@pytest.mark.parametrize(("name", "kwargs", "message"), [
    ("resnet18", {"weights": "DEFAULT"}, r"model\.kwargs\.weights=DEFAULT: weights are random here, none are download"),
    ("resnet18", {"progress": False}, r"model\.kwargs\.progress=False: the run sets it; leave it out"),
    ("resnet18", {"num_classes": 5}, r"model\.kwargs\.num_classes=5: the run sets it"),
    ("vit_b_16", {"image_size": 64}, r"model\.kwargs\.image_size=64: the run sets it"),
    ("maxvit_t", {"input_size": [64, 64]}, r"model\.kwargs\.input_size=\[64, 64\]: the run sets it"),
    ("googlenet", {"aux_logits": True}, r"model\.kwargs\.aux_logits=True: the run sets it"),
    ("vgg11", {"dropuot": 0.1}, r"model\.kwargs=.*vgg11 does not take them .*unexpected keyword argument 'dropuot'"),
])  # fmt: skip
def test_what_is_not_the_users_to_set_is_refused(name, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        network(name, kwargs=kwargs)


def test_it_comes_back_from_its_state_dict():
    model, other = network("mobilenet_v3_small", in_channels=1).eval(), network("mobilenet_v3_small", in_channels=1)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.eval().load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(model(images), other(images))
