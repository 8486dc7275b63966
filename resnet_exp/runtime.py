"""Where and how a run computes: device, precision, determinism; and a snapshot of the environment."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_exp.interfaces import ConfigError

_PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn"),
    *("hydra-core", "omegaconf", "optuna", "mlflow", "grad-cam"),
)
_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
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
        """fp16's gradients vanish below 6e-8; they are computed from a scaled loss."""
        return self.precision == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the network computes in the run's precision."""
        dtype = _PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


def first_gpu(count: int) -> int:
    """The first of `count` GPUs."""
    return 0


def start(device: str, precision: str, deterministic: bool, gpu: Callable[[int], int] = first_gpu) -> Runtime:
    """The runtime asked for, with torch's switches set.

    Args:
        device: auto, cpu or cuda.
        precision: auto, fp32, bf16 or fp16.
        deterministic: the same digits each time on CUDA too, slower.
        gpu: which of so many GPUs is taken.

    Raises:
        ConfigError: a GPU is asked for where torch sees none, or a precision that the device lacks.
    """
    chosen = _device(device, gpu)
    if chosen.type == "cpu":
        _keep_freed_memory()
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # TF32 on CUDA; nothing less than float32 on the CPU.
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
    """A block after which every random generator stands where it stood before."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def environment(runtime: Runtime, plugin_folders: Sequence[Path] = ()) -> dict[str, Any]:
    """What a result may depend on beside its config: versions, machine, code, that of the user's plug-ins too."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": runtime.device_name,
        "precision": runtime.precision,
        "cuda": torch.version.cuda if runtime.device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if runtime.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        **code_state(*plugin_folders),
    }


@functools.cache
def code_state(*plugin_folders: Path) -> dict[str, Any]:
    """The package's version, a digest of all modules; in a git checkout its commit, and whether that was changed.

    As it was when the process first asked: what is edited while runs go on is not what they run.
    """
    here = Path(__file__).resolve().parent
    # An installed package may lie within somebody's own checkout, whose commit says nothing of this code.
    ours = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git(here, "rev-parse", "HEAD") if ours else None
    dirty = bool(_git(here, "status", "--porcelain", "--", ".", "../conf")) if commit else None
    return {
        "version": _version("resnet_exp"),
        "code_digest": _digest(here, *plugin_folders),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _digest(*folders: Path) -> str:
    hashed = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            hashed.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
