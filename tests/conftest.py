"""What the tests share: one thread, a tiny set of images that can be learnt, and a tiny learner on it."""

from __future__ import annotations

import os

# Before torch is imported anywhere: the tests' tensors are too small to share, and one thread always adds up alike.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"  # a test that asks for two threads does not let them spin

import numpy as np
import pytest

from resnet_exp.config.schema import TrainConfig
from resnet_exp.interfaces import LabelledImages, Schedule


def pytest_collection_modifyitems(items):
    needing = [item for item in items if item.get_closest_marker("cuda")]
    if needing and not _has_cuda():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def _has_cuda():
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests(monkeypatch):
    """What one test has struck out of a config is not filled in by another."""
    monkeypatch.setenv("RESNET_EXP_SECRETS", "{}")


@pytest.fixture(scope="session")
def learnable():
    """48 noisy images `[48, 16, 16, 3], uint8` of four colours, which are the classes: a few steps learn them."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 4
    colours = np.array([[170, 90, 90], [90, 170, 90], [90, 90, 170], [130, 130, 130]])
    images = colours[labels][:, None, None, :] + rng.normal(0, 25, (48, 16, 16, 3))
    return LabelledImages(images.clip(0, 255).astype(np.uint8), labels)


@pytest.fixture
def cpu():
    """The CPU in fp32, without the switches that `runtime.start` sets for the whole process."""
    import torch

    from resnet_exp.training.device import Runtime

    return Runtime(torch.device("cpu"), "fp32")


@pytest.fixture
def fp16(monkeypatch):
    """A runtime that scales the loss as fp16 does, and computes in fp32: the CPU has no fp16 to train in."""
    import contextlib

    import torch

    from resnet_exp.training.device import Runtime

    monkeypatch.setattr(Runtime, "autocast", lambda self: contextlib.nullcontext())
    return Runtime(torch.device("cpu"), "fp16")


@pytest.fixture
def train_config():
    """Makes the settings of the loop, plain ones but for those given."""

    def make(**settings):
        plain = {
            "epochs": 1, "batch_size": 16, "precision": "fp32", "channels_last": True, "label_smoothing": 0.0,
            "clip_grad_norm": None, "grad_accum_steps": 1, "deterministic": False, "checkpoint_interval": 0.0,
        }  # fmt: skip
        return TrainConfig(**{**plain, **settings})

    return make


@pytest.fixture
def bank(learnable):
    """The learnable images on the CPU, padded by 4."""
    import torch

    from resnet_exp.data.bank import ImageBank, Normalisation

    return ImageBank(learnable, Normalisation.of(learnable.images), torch.device("cpu"), padding=4)


@pytest.fixture
def tiny_learner(cpu, train_config):
    """Makes a learner: a custom ResNet of width 4, or the network given, the same each time for one seed."""
    import torch

    from resnet_exp.models.custom_resnet import CustomResNet
    from resnet_exp.optimizers.sgd import sgd
    from resnet_exp.training.learner import Learner

    def make(lrs=(0.03,) * 100, *, model=None, optimizer=None, runtime=cpu, seed=0, momenta=None, width=4, **settings):
        schedule = lrs if isinstance(lrs, Schedule) else Schedule(tuple(lrs), momenta, max(lrs), min(lrs))
        if model is None:
            torch.manual_seed(seed)
            model = CustomResNet(num_classes=4, in_channels=3, image_size=16, width=width)
        return Learner(model, optimizer or sgd(), schedule, train_config(**settings), runtime, seed)

    return make


@pytest.fixture
def refused():
    """Makes the message about a plug-in's wrong setting, as the user reads it before anything is imported."""
    from resnet_exp.config.plugin_args import checked_settings
    from resnet_exp.interfaces import ConfigError

    def make(group, target, **settings):
        with pytest.raises(ConfigError) as caught:
            checked_settings(group, f"resnet_exp.{target}", settings, ("num_classes", "in_channels", "image_size")
                           if group == "model" else ())  # fmt: skip
        return str(caught.value)

    return make
