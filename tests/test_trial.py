"""Odd networks are refused before a run starts, or saved and loaded as what they were."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from resnet_exp.interfaces import ConfigError, DatasetInfo
from resnet_exp.models.custom_resnet import CustomResNet
from resnet_exp.optimizers.adam import adam
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.weights import load_weights, weights_of
from resnet_exp.training.trial import try_network

INFO = DatasetInfo("", ("a", "b", "c", "d"), 8, 3, 0, 0, 0)


class Plain(nn.Module):
    """Logits from channel means; the subclasses each have an oddity."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def features(self, images):
        return self.conv(images).relu().mean((2, 3))

    def forward(self, images):
        return self.fc(self.features(images))


class Tied(Plain):
    """A weight and its layer under two names, and one layer under two."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.other.weight = self.fc.weight
        self.again = self.conv

    def forward(self, images):
        return self.other(self.fc(self.features(images)))


class ViewsAndEmpty(Plain):
    """Buffers that share memory, that are empty, that are none, and one that is not contiguous."""

    def __init__(self):
        super().__init__()
        whole = torch.randn(4, 4)
        self.register_buffer("whole", whole)
        self.register_buffer("column", whole[:, 1])
        self.register_buffer("turned", whole.T)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("also_empty", torch.zeros(0))
        self.register_buffer("nothing", None)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, images):
        return (super().forward(images) @ self.whole + self.column) @ self.turned * self.mask


class Complex(Plain):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def features(self, images):
        return torch.fft.ifft(torch.fft.fft(super().features(images))[:, :3] @ self.filter.T).abs()


class TensorState(Plain):
    """Extra state that is a tensor."""

    def __init__(self):
        super().__init__()
        self.shift = torch.randn(4)

    def forward(self, images):
        return super().forward(images) + self.shift

    def get_extra_state(self):
        return self.shift

    def set_extra_state(self, state):
        self.shift = state


class Constant(Plain):
    """A buffer that is not saved, and need not be: it is made the same each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.arange(1.0, 5.0), persistent=False)

    def forward(self, images):
        return super().forward(images) * self.scale


class PythonDropout(Plain):
    """Draws from the generators of Python and numpy."""

    def forward(self, images):
        keep = random.random() > 0.5 or np.random.rand() > 0.5
        return super().forward(images) * (2.0 if keep and self.training else 1.0)


class Normed(Plain):
    """Old and new ways of normalising weights, with buffers and parameters of their own."""

    def __init__(self):
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(self.fc)
        self.conv = nn.utils.parametrizations.spectral_norm(self.conv)


def unfused(model):  # the fused ones take real numbers alone
    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, foreach=False)


FINE = [Plain, Tied, ViewsAndEmpty, Complex, TensorState, Constant, PythonDropout, Normed]


def tried(make, cpu, train_config, optimizer=None, one_image=None, **settings):
    try_network(make, optimizer or sgd(), INFO, train_config(**settings), cpu, one_image)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("make", FINE)
def test_what_can_be_saved_is_loaded_as_what_it_was(make, channels_last, cpu, train_config, tmp_path):
    tried(make, cpu, train_config, unfused if make is Complex else None, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model, images = make().to(memory_format=layout).eval(), torch.randn(5, 3, 8, 8)
    save_file(weights_of(model), tmp_path / "model.safetensors")
    loaded = make().to(memory_format=layout).eval()
    assert not torch.equal(loaded(images), model(images))
    load_weights(loaded, load_file(tmp_path / "model.safetensors"))
    assert torch.equal(loaded(images), model(images))


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    saved = weights_of(Tied())
    assert set(saved) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias", "other.bias"}
    loaded = Tied()
    load_weights(loaded, saved)
    assert loaded.other.weight is loaded.fc.weight and torch.equal(loaded.fc.weight, saved["fc.weight"])


def test_a_file_that_has_both_names_is_read_too():
    """As other programs write them, and as resnet_exp wrote networks without ties."""
    model = Tied()
    load_weights(model, {name: value.clone() for name, value in Tied().state_dict().items()})


def test_an_optimizer_has_a_tied_parameter_once():
    for make in (sgd(), adam(), sgd(weight_decay=0.1, decay_norms_and_biases=False)):
        listed = [id(one) for group in make(Tied()).param_groups for one in group["params"]]
        assert len(listed) == len(set(listed)) == 5


def test_weights_of_an_ordinary_network_are_its_state():
    model = CustomResNet(num_classes=4, in_channels=3, image_size=8, width=4)
    state, saved = model.state_dict(), weights_of(model)
    assert list(saved) == list(state) and all(torch.equal(saved[name], value) for name, value in state.items())


class ExtraState(Plain):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Inside(Plain):
    def __init__(self):
        super().__init__()
        self.block = ExtraState()


class TiedByData(Plain):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.other.weight.data = self.fc.weight.data

    def forward(self, images):
        return self.other(super().forward(images))


class Double(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("phase", torch.zeros(4, dtype=torch.complex128))


class Sparse(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("graph", torch.eye(4).to_sparse())


class Expanded(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1).expand(4))

    def forward(self, images):
        return super().forward(images) * self.scale


class MadeInForward(Plain):
    """A layer that no optimizer ever sees."""

    def forward(self, images):
        if not hasattr(self, "late"):
            self.late = nn.Linear(4, 4)
        return self.late(super().forward(images))


class SetInForward(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", None)

    def forward(self, images):
        logits = super().forward(images)
        self.seen = logits.detach().mean(0)
        return logits


class Random(Plain):
    """A random tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.projection = torch.randn(4, 4)

    def forward(self, images):
        return super().forward(images) @ self.projection


class RandomBuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(4, 4), persistent=False)

    def forward(self, images):
        return super().forward(images) @ self.projection


class Running(Plain):
    """A running mean that is not saved, with which it is evaluated."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, images):
        logits = super().forward(images)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return logits - self.mean


class Counting(Plain):
    """Trains differently after its first steps, which it counts itself."""

    steps = 0

    def forward(self, images):
        logits = super().forward(images)
        if self.training:
            self.steps += 1
            logits = logits / self.steps
        return logits


class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class NotDeterministic(Plain):
    """`put_` has no deterministic implementation on any device."""

    def forward(self, images):
        logits = super().forward(images)
        return logits + torch.zeros(4).put_(torch.tensor([0]), logits.detach()[0, :1])


class Named(Plain):
    """Fails with the words with which torch fails on a GPU."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(7)

    def forward(self, images):
        raise RuntimeError(
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism ..."
        )


@pytest.mark.parametrize(("make", "words"), [
    (ExtraState, "the network keeps a dict in its state (get_extra_state), which model.safetensors cannot hold"),
    (Inside, "model: block keeps a dict in its state"),
    (TiedByData, "other.weight and fc.weight are two parameters in one memory"),
    (Double, "phase is of torch.complex128, which model.safetensors cannot hold"),
    (Sparse, "graph is a sparse tensor"),
    (Expanded, "each with a memory of its own (no expand)"),
    (MadeInForward, "must be there once it is made"),
    (SetInForward, "must be there once it is made"),
    (Random, "saved and loaded it gives other logits: it keeps something that is not saved"),
    (RandomBuffer, "saved and loaded it gives other logits"),
    (Running, "saved and loaded it gives other logits"),
    (Counting, "saved and loaded it gives other logits in train mode"),
    (Complex, "a training step fails (RuntimeError: `fused=True` requires all the params to be floating point"),
    (Frozen, "model: a training step fails (RuntimeError: element 0 of tensors does not require grad"),
    (Named, "train.deterministic=true: the model needs adaptive_avg_pool2d_backward_cuda (in pool), for which torch "
            "has no deterministic implementation on this device; set train.deterministic=false"),
])  # fmt: skip
def test_what_cannot_be_trained_saved_and_loaded_is_refused_with_the_reason(make, words, cpu, train_config):
    with pytest.raises(ConfigError, match=re.escape(words)):
        tried(make, cpu, train_config)


def test_torch_says_itself_that_an_operation_is_not_deterministic(cpu, train_config):
    tried(NotDeterministic, cpu, train_config)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(ConfigError, match=r"train\.deterministic=true: the model needs put_"):
            tried(NotDeterministic, cpu, train_config)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_lack_of_memory_is_no_fault_of_the_settings(cpu, train_config):
    class Large(Plain):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(RuntimeError, match="out of memory while training"):
        tried(Large, cpu, train_config)


class GroupNormed(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def features(self, images):
        return self.norm(self.conv(images)).mean((2, 3))


class InstanceNormed(GroupNormed):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(4)


class BatchNormed(GroupNormed):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)


class OwnBatchNorm(Plain):
    """Not one of torch's layers, of one value an image."""

    def features(self, images):
        features = super().features(images)
        return nn.functional.batch_norm(features, None, None, training=True) if self.training else features


@pytest.mark.parametrize(("make", "takes"), [
    (Plain, True), (GroupNormed, True), (InstanceNormed, True), (BatchNormed, False), (OwnBatchNorm, False),
])  # fmt: skip
def test_a_single_image_is_refused_for_networks_that_normalise_over_the_batch(make, takes, cpu, train_config):
    if takes:
        tried(make, cpu, train_config, one_image="a part of one image")
    else:
        with pytest.raises(ConfigError, match="a part of one image"):
            tried(make, cpu, train_config, one_image="a part of one image")
    tried(make, cpu, train_config)


def test_nothing_is_left_behind(cpu, train_config):
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    benchmark = torch.backends.cudnn.benchmark
    made = []
    tried(lambda: made.append(Tied()) or made[-1], cpu, train_config)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert torch.backends.cudnn.benchmark == benchmark and len(made) == 2


def test_parts_of_a_batch_are_not_those_of_the_trial(cpu, train_config):
    tried(BatchNormed, cpu, train_config, grad_accum_steps=16)
