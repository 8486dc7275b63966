"""The device of a run, its precision, and torch's switches for speed and determinism."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resnet_exp.interfaces import ConfigError

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_WORKSPACES = (":4096:8", ":16:8")  # those with which cuBLAS is deterministic. Source: cuBLAS, reproducibility
# mallopt's parameters. Source: glibc, malloc/malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Runtime:
    """The device and the precision of a run."""

    device: torch.device
    precision: str  # fp32 | bf16 | fp16

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled: fp16's gradients would vanish below 6e-8."""
        return self.precision == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the network computes in the run's precision."""
        dtype = _PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


def first_gpu(count: int) -> int:
    """The index of the first of `count` GPUs."""
    return 0


def start_runtime(device: str, precision: str, deterministic: bool, gpu: Callable[[int], int] = first_gpu) -> Runtime:
    """The runtime of these settings; torch's switches are set for it.

    Args:
        device: auto, cpu or cuda.
        precision: auto, fp32, bf16 or fp16.
        deterministic: the same digits each time on CUDA too, slower.
        gpu: chooses one of so many GPUs; returns its index.

    Raises:
        ConfigError: device=cuda where torch sees no GPU, or a precision that the device lacks.
    """
    chosen = _device(device, gpu)
    if chosen.type == "cpu":
        _keep_freed_memory()
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    # Whatever this run asks for: cuBLAS reads it once a process, and a later run of a sweep may be deterministic.
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACES[0])
    if deterministic and chosen.type == "cuda" and workspace not in _WORKSPACES:
        raise ConfigError(
            f"train.deterministic=true needs the environment variable CUBLAS_WORKSPACE_CONFIG={_WORKSPACES[0]} or "
            f"{_WORKSPACES[1]}, and it is {workspace}; unset it"
        )
    torch.use_deterministic_algorithms(deterministic)
    # TF32 on CUDA, unless the digits must be the same each time; full float32 on the CPU.
    torch.set_float32_matmul_precision("high" if chosen.type == "cuda" and not deterministic else "highest")
    return Runtime(chosen, _precision(precision, chosen))


def _device(device: str, gpu: Callable[[int], int]) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda: torch sees no CUDA device on this machine; set device=auto or device=cpu, or install a "
            "driver that fits torch " + torch.__version__
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    chosen = torch.device("cuda", gpu(torch.cuda.device_count()))
    torch.cuda.set_device(chosen)
    return chosen


def _precision(precision: str, device: torch.device) -> str:
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise ConfigError("train.precision=fp16 needs a GPU; on the CPU take auto, fp32 or bf16")
        return precision
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _keep_freed_memory() -> None:
    """Lets glibc reuse large blocks instead of returning them to the kernel after each layer: 1.3x on the CPU."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
    except (OSError, AttributeError):
        pass  # another C library: slower, not wrong


@contextlib.contextmanager
def untouched_randomness() -> Iterator[None]:
    """A block that leaves no trace in the random generators: their states are restored at its end."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
