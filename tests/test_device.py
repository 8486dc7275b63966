"""The device's switches: cuBLAS is asked to be deterministic before anything can have asked it otherwise."""

from __future__ import annotations

import os

import pytest
import torch

from resnet_exp.interfaces import ConfigError
from resnet_exp.training.device import start_runtime


@pytest.fixture(autouse=True)
def switches():
    """What `start_runtime` sets for the whole process is set back."""
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    workspace = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@pytest.fixture
def gpu(monkeypatch):
    """One GPU, as far as torch can be asked without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)


@pytest.mark.parametrize("first", [False, True])
def test_the_first_run_of_a_process_sets_what_a_deterministic_one_needs(first):
    """cuBLAS reads it once: a second run of a sweep, `train.deterministic=false,true`, could not set it any more."""
    start_runtime("cpu", "fp32", first)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for deterministic in (True, False):
        start_runtime("cpu", "fp32", deterministic)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.deterministic == deterministic != torch.backends.cudnn.benchmark


@pytest.mark.parametrize("workspace", [":4096:8", ":16:8"])
def test_a_users_own_setting_stays_if_it_is_deterministic(workspace, gpu):
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
    start_runtime("cuda", "fp32", True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == workspace


def test_a_users_own_setting_that_is_not_is_refused_where_it_matters(gpu):
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"
    start_runtime("cuda", "fp32", False)
    start_runtime("cpu", "fp32", True)
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, and it is :0:0; unset it"):
        start_runtime("cuda", "fp32", True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_deterministic_run_follows_another():
    for deterministic in (False, True):
        runtime = start_runtime("cuda", "fp32", deterministic)
        matrix = torch.ones(8, 8, device=runtime.device)
        assert torch.equal(matrix @ matrix, torch.full_like(matrix, 8.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_vgg_is_refused_if_it_must_be_deterministic(train_config):
    from resnet_exp.interfaces import DatasetInfo
    from resnet_exp.models.torchvision import TorchvisionModel
    from resnet_exp.optimizers.sgd import sgd
    from resnet_exp.training.trial import try_network

    def make():
        return TorchvisionModel(num_classes=2, in_channels=3, image_size=64, name="vgg11")

    info, train = DatasetInfo("", ("a", "b"), 64, 3, 0, 0, 0), train_config()
    try_network(make, sgd(), info, train, start_runtime("cuda", "fp32", False))
    with pytest.raises(ConfigError, match=r"adaptive_avg_pool2d_backward_cuda \(in .*avgpool\)"):
        try_network(make, sgd(), info, train, start_runtime("cuda", "fp32", True))
