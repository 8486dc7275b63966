"""The size of the images is checked against the network before data are read, and a size that works is found."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from torch import nn

from resnet_exp.config.model_check import check_input_size
from resnet_exp.interfaces import ConfigError
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.models.torchvision import TorchvisionModel


class Network(nn.Module):
    """Logits of two classes, of images of the sizes that `takes` admits; else an error of two lines."""

    def __init__(self, takes=lambda size: True):
        super().__init__()
        self.takes, self.fc = takes, nn.Linear(3, 2)

    def forward(self, images):
        if not self.takes(images.shape[-1]):
            raise RuntimeError(f"no, not {images.shape[-1]}\nand much more")
        return self.fc(images.mean((2, 3)))


def refusal(make, image_size, **settings):
    with pytest.raises(ConfigError) as caught:
        check_input_size(make, image_size, **settings)
    return str(caught.value)


def classifier(name, in_channels=3):
    return lambda size: TorchvisionModel(num_classes=2, in_channels=in_channels, image_size=size, name=name)


@pytest.mark.parametrize(("takes", "asked", "named"), [
    (lambda size: size >= 75, 32, 75),
    (lambda size: size >= 33, 32, 33),
    (lambda size: size >= 1024, 8, 1024),
    (lambda size: size % 16 == 0, 40, 48),
    (lambda size: size % 14 == 0, 32, 42),
    (lambda size: size % 224 == 0, 225, 448),
    (lambda size: size == 28, 32, 28),
    (lambda size: size <= 100, 224, 100),
    (lambda size: size < 32, 1024, 31),
])  # fmt: skip
def test_a_size_that_is_not_taken_is_refused_with_one_that_is(takes, asked, named):
    message = refusal(lambda size: Network(takes), asked)
    assert message.startswith(f"data.image_size={asked}: the model does not take images of this size (no, not {asked})")
    assert f"set data.image_size={named} " in message
    check_input_size(lambda size: Network(takes), named)


def test_an_error_while_the_network_is_made_counts_as_one_of_its_forward():
    def make(size):
        if size % 16:
            raise ValueError  # without a word
        return Network()

    assert "(ValueError); it takes 48: " in refusal(make, 33)


@pytest.mark.parametrize(("name", "asked", "named"), [
    ("inception_v3", 32, 75), ("alexnet", 32, 63), ("vgg16_bn", 16, 32), ("vit_b_16", 40, 48), ("maxvit_t", 32, 221),
])  # fmt: skip
def test_networks_of_torchvision_tell_their_least_size(name, asked, named):
    """Sizes below were found by running each on the CPU."""
    assert f"it takes {named}: " in refusal(classifier(name), asked)


def test_a_size_that_is_taken_is_told_by_returning():
    for in_channels in (1, 3, 4):
        check_input_size(classifier("vgg16_bn", in_channels), 32, in_channels, 2)


def test_a_size_that_no_network_takes_shows_the_networks_own_first_line():
    message = refusal(lambda size: Network(lambda size: False), 32)
    assert message == "model: it fails on images of 32x32 pixels, and of every other size tried (no, not 32)"


def test_a_refusal_of_the_networks_own_is_passed_on():
    def make(size):
        return CustomResNet(num_classes=2, in_channels=3, image_size=size)

    assert refusal(make, 33) == "data.image_size=33: custom_resnet needs a multiple of 8, such as 32"


def test_one_at_another_size_only_means_that_this_is_not_taken():
    def make(size):
        if size % 8:
            raise ConfigError("a multiple of 8 is needed")
        return Network(lambda size: size >= 50)

    assert "it takes 56: " in refusal(make, 32)


@pytest.mark.parametrize(("output", "words"), [
    (lambda x: (x.mean((2, 3)), x), "its forward returns a tuple; a tensor of logits is needed"),
    (lambda x: x, "returns [2, 3, 16, 16]; logits [2, 3] are needed"),
    (lambda x: x.mean((1, 2, 3)), "returns [2]; logits [2, 3] are needed"),
    (lambda x: x.mean((2, 3))[:1], "returns [1, 3]; logits [2, 3] are needed"),
    (lambda x: x.mean((2, 3)).repeat(1, 4), "of 2 images and 3 classes its forward returns [2, 12]"),
])  # fmt: skip
def test_an_output_that_is_no_logits_is_refused(output, words):
    class Odd(nn.Module):
        def forward(self, images):
            return output(images)

    assert words in refusal(lambda size: Odd(), 16, num_classes=3)


class Reading(Network):
    """Asks for a value, which no tensor of the meta device has."""

    def forward(self, images):
        assert images.mean().isfinite().item()
        return super().forward(images)


def test_a_network_that_cannot_run_without_values_is_run_with_them():
    check_input_size(lambda size: Reading(), 16)
    message = refusal(lambda size: Reading(lambda size: size > 20), 16)
    assert message.startswith("model: it fails on images of 16x16 pixels")
    assert message.endswith("(no, not 16)")


class Reader(Network):
    """Reads a small tensor while it is made, as networks with stochastic depth do; notes where it is run."""

    seen: list[str]

    def __init__(self):
        super().__init__()
        self.rates = torch.linspace(0, 0.1, 4).tolist()
        self.register_buffer("nothing", None)
        self.register_buffer("mean", torch.tensor([0.5, 0.5, 0.5])[:, None, None])
        self.seen = []

    def forward(self, images):
        self.seen.append((images.device.type, self.training, torch.is_grad_enabled()))
        return super().forward(images - self.mean + torch.zeros(()))


def test_it_runs_on_the_meta_device_in_train_mode_without_gradients():
    network = []
    check_input_size(lambda size: network.append(Reader()) or network[-1], 16)
    assert network[0].seen == [("meta", True, False)]
    assert {value.device.type for value in network[0].state_dict().values()} == {"meta"}


@pytest.mark.parametrize("make", [
    classifier("vit_b_32"), classifier("mobilenet_v3_small"), classifier("inception_v3"), lambda size: Reading(),
    lambda size: Network(lambda size: False),
], ids=["draws while made", "dropout", "refused", "really run", "really refused"])  # fmt: skip
def test_it_leaves_nothing_behind(make):
    torch.manual_seed(3)
    before, grad = torch.get_rng_state(), torch.is_grad_enabled()
    with contextlib.suppress(ConfigError):
        check_input_size(make, 32)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled() == grad
    layer = nn.BatchNorm2d(3)
    assert {value.device.type for value in layer.state_dict().values()} == {"cpu"}
    assert torch.empty(1).device.type == "cpu"


def test_what_a_network_warns_of_is_left_to_the_run():
    def make(size):
        warnings.warn("initial weights will change", stacklevel=2)
        return Network()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_input_size(make, 16)


# Lazy layers


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(2)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).flatten(1))


def test_lazy_layers_are_tried_on_the_meta_device_too():
    made = []
    check_input_size(lambda size: made.append(Lazy()) or made[-1], 16, 3, 2)
    assert len(made) == 1 and {value.device.type for value in made[0].state_dict().values()} == {"meta"}
    assert "it takes 3: " in refusal(lambda size: Lazy(), 2)
