"""C3: memory that is not enough, of the device or of the host, in each stage of a run."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from resnet_exp.run_dir.journal import last_status

from ..points import calling
from ..trials import TINY, Row, differences, reference, run_directory, start

_ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory: you tried"),
    MemoryError("Unable to allocate 3.64 TiB for an array"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)
_FIND = ("scheduler.max_lr=find", "range_test.repeats=1", "range_test.num_steps=60", "model.width=8")
# The function that has not enough, the first calls that come before the run itself, and what must be named.
_POINTS = (
    ("resnet_exp.config.build.model", 1, "choose a smaller model", ()),  # the trial of the network
    ("resnet_exp.config.build.model", 3, "choose a smaller model", ()),
    ("resnet_exp.data.digits.Digits.load", 1, "data.limit_train", ()),
    ("resnet_exp.data.bank.ImageBank.__init__", 1, "data.limit_train", ()),
    ("resnet_exp.training.learner.Learner._backward", 1, "train.batch_size", ()),  # the trial of the network
    ("resnet_exp.training.learner.Learner._backward", 9, "train.batch_size", ()),
    ("resnet_exp.training.learner.Learner._backward", 6, "train.batch_size", _FIND),
    ("resnet_exp.training.learner.Learner._step", 8, "train.batch_size", ()),
    ("resnet_exp.training.learner.Learner.check", 2, "smaller model", ()),
    ("resnet_exp.training.learner._infer", 7, "train.batch_size", ()),
    ("resnet_exp.training.train._Best.offer", 2, "smaller model", ()),
    ("torch.save", 2, "smaller model", ()),
    ("resnet_exp.runs.outputs.save_predictions", 1, "smaller model", ()),
    ("resnet_exp.run_dir.weights._alone", 90, "smaller model", ()),
)


def _trial(number: int, folder: Path) -> None:
    """It is told in a line, with what to change; the run is marked as failed, and goes on once there is enough."""
    target, call, named, options = _POINTS[number % len(_POINTS)]
    error = random.Random(number).choice(_ERRORS)
    arguments = (*TINY, "train.checkpoint_interval=0", *options)

    def lack() -> None:
        raise error

    command = start(*arguments, before=calling(target, call, lack))
    assert command.wait() == 1, f"exit code {command.returncode}:\n{command.output}"
    told = [line for line in command.output.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "out of memory while" in told[0] and named in told[0], command.output
    assert "Traceback" not in command.output, command.output
    journals = list(folder.glob("outputs/*/journal.jsonl"))
    assert all(last_status(path) == "FAILED" for path in journals), "not marked as failed"
    again = start(*arguments)
    assert again.wait() == 0, again.output
    found = differences(run_directory(folder), reference(*arguments))
    assert not found, found


ROWS = (
    Row(
        "C3",
        "memory is not enough, of the device or of the host (simulated): in making the model, reading and storing "
        "images, trial, range test, step, check, measurement, best weights, checkpoint, predictions, saving the model",
        "one line says what to change, exit code 1, FAILED; once there is enough, the run goes on as one left alone",
        full=2 * len(_POINTS),
        ci=6,
        trial=_trial,
    ),
)
