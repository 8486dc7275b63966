"""The environment of a run: what its result may depend on besides the config, as environment.json has it."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import resnet_exp
from resnet_exp.training.device import Runtime

_PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn"),
    *("hydra-core", "omegaconf", "optuna", "grad-cam"),
)


def environment_of(runtime: Runtime, plugin_folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The versions of packages, the runtime, and the state of the code, that of the user's plug-ins included."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": runtime.device_name,
        "precision": runtime.precision,
        "cuda": torch.version.cuda if runtime.device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if runtime.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cpu": _cpu() if runtime.device.type == "cpu" else None,
        **code_state(*plugin_folders),
    }


@functools.cache
def code_state(*plugin_folders: Path) -> dict[str, Any]:
    """The package's version and a digest of all modules; in a git checkout its commit, and whether files were changed.

    Cached, as of the first call: a process runs the code that it imported, not what is edited while it runs.
    """
    here = Path(resnet_exp.__file__).resolve().parent
    # An installed package may lie within another project's checkout, whose commit says nothing about this code.
    ours = _git(here, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(here, "rev-parse", "HEAD") if ours else None
    dirty = bool(_git(here, "status", "--porcelain", "--", ".", "../conf")) if commit else None
    return {
        "version": _version("resnet_exp"),
        "code_digest": _digest(here, *plugin_folders),
        "code": {
            "resnet_exp": _digest(here),
            **{
                f"{folder.name}/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                for folder in plugin_folders
                for path in sorted(folder.rglob("*.py"))
            },
        },
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _digest(*folders: Path) -> str:
    hashed = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            hashed.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def _cpu() -> str:
    """The processor's name, and the instructions that torch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


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
