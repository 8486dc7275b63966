"""Out of memory is told in words, with what makes it smaller; no other error is taken for it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from resnet_exp.data.bank import Batch
from resnet_exp.data.memory import is_out_of_memory, memory_told
from resnet_exp.data.prepare import prepare
from resnet_exp.interfaces import RunError, Schedule
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.report.section import Section, drawn
from resnet_exp.training.learner import Learner, infer

ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore lines")
FOUND = [
    ON_A_GPU,
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: out of memory"),
    MemoryError("Unable to allocate 3.64 TiB for an array"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FOUND, ids=str)
def test_a_lack_of_memory_is_told_with_a_way_out(error):
    with pytest.raises(RunError) as caught, memory_told("training", "take less"):
        raise error
    said = str(error).splitlines()[0] if str(error) else "MemoryError"
    assert str(caught.value) == f"out of memory while training ({said}); take less"


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), RunError("out of memory"),
])  # fmt: skip
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, memory_told("training", "take less"):
        raise error
    assert caught.value is error


def test_torch_and_numpy_say_it_so():
    """Without a limit on the process: so much no machine has."""
    for ask in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert is_out_of_memory(caught.value), caught.value


class Greedy(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.fc, self.error, self.held = nn.Linear(3, 2), error, None

    def forward(self, images):
        activations = images + 1
        self.held = weakref.ref(activations)
        raise self.error


def failing(cpu, train_config, error=ON_A_GPU):
    model, batch = Greedy(error), Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    learner = Learner(model, sgd(), Schedule((0.1,), None, 0.1, 0.1), train_config(batch_size=512), cpu, 0)
    return model, batch, learner


def test_training_names_the_batch_size_and_its_parts(cpu, train_config):
    _, batch, learner = failing(cpu, train_config)
    with pytest.raises(RunError, match=r"training at train\.batch_size=512 \(CUDA out of memory.*train\.grad_accum_st"):
        learner.train([batch], 0, lambda n=1: None)


def test_a_measurement_names_the_batch_size(cpu, train_config):
    model, batch, _ = failing(cpu, train_config)
    with pytest.raises(RunError, match=r"measuring the network .*take a smaller train\.batch_size$"):
        infer(model, [batch], cpu)


def test_images_that_do_not_fit_name_their_number_and_size(cpu):
    class Source:
        def load(self, progress):
            raise MemoryError("Unable to allocate 3.64 TiB for an array")

    settings = {"seed": 0, "padding": 0, "batch_size": 4, "device": cpu.device, "progress": None}
    with pytest.raises(RunError, match=r"reading the images .*data\.limit_train.*data\.image_size"):
        prepare(Source(), "mine", None, **settings)


def test_a_section_of_the_report_says_it_in_a_line():
    def draw():
        raise ON_A_GPU

    said = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."
    assert drawn("Grad-CAM", draw) == Section("Grad-CAM", gap=said, is_broken=True)


def test_what_a_job_used_is_free_once_its_error_has_been_replaced(cpu, train_config):
    """As a sweep does with the error of a job: the next one gets the memory."""
    model, batch, learner = failing(cpu, train_config, RuntimeError("CUDA error: out of memory"))
    reason = None
    try:
        learner.train([batch], 0, lambda n=1: None)
    except RunError as error:
        reason = str(error)
    held = model.held
    model.error = None  # the test's own hold on the traceback
    gc.collect()
    assert reason is not None and held() is None


@pytest.mark.parametrize("error", FOUND[:1] + FOUND[-2:], ids=str)
def test_where_no_stage_tells_more_the_run_itself_does_and_is_marked_as_failed(tmp_path, monkeypatch, error):
    """Such as while its checkpoint is put together."""
    from hydra import compose, initialize_config_dir

    from resnet_exp.config.conf import CONF
    from resnet_exp.config.config import typed
    from resnet_exp.run_dir.journal import last_status
    from resnet_exp.runs.run import run

    def save(*arguments):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "save", save)
    tiny = [
        *("experiment=quickstart", "train.epochs=2", "scheduler.peak_epoch=1", "data.limit_train=300"),
        *("model.width=4", "scheduler.max_lr=0.05", "report=none", "tracker=none"),
    ]
    with initialize_config_dir(str(CONF)):
        config = typed(compose("config", overrides=tiny), tiny)
    with pytest.raises(RunError, match=r"out of memory while working on the run .* take a smaller model"):
        run(config, "the command")
    (journal,) = (tmp_path / "outputs").glob("*/journal.jsonl")
    assert last_status(journal) == "FAILED"
