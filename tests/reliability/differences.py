"""`differences`: in what two runs, one of them disturbed, differ, bit for bit, but for times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_exp.run_dir.journal import metric_history

_CHECKPOINT = re.compile(r"epoch-\d+-step-\d+-[0-9a-f]{16}\.pt")
_TIMES = ("seconds", "command", "sittings")  # of result.json: what this process took, and what it ran on


def differences(run_dir: Path, other: Path, *, without: str = "") -> list[str]:
    """One line for each thing in which two finished runs differ; none if all that they computed is equal.

    Args:
        run_dir: of one.
        other: run directory of the other.
        without: what is not looked at, such as the checkpoint.
    """
    read: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
        "result": _result,
        "model": lambda root: _bytes(root, "model.safetensors"),
        "average": lambda root: _bytes(root, "model_ema.safetensors"),
        "checkpoint": checkpoint_leaves,
        "steps": lambda root: _bytes(root, "steps.csv"),
        "confusion": lambda root: _bytes(root, "confusion_matrix.json"),
        "range test": _range_test,
        "journal": _journal,
        "predictions": _predictions,
    }
    found = []
    for what, leaves_of in read.items():
        if what == without:
            continue
        mine, others = leaves_of(run_dir), leaves_of(other)
        for path in sorted(mine.keys() | others.keys()):
            if path not in mine or path not in others:
                found.append(f"{what} {path}: only in {run_dir if path in mine else other}")
            elif not _same(mine[path], others[path]):
                found.append(f"{what} {path}: {_shown(mine[path])} instead of {_shown(others[path])}")
    return found


def checkpoint_leaves(run_dir: Path) -> dict[str, Any]:
    """Every value of the last checkpoint's state by its path, without times."""
    state = torch.load(last_checkpoint(run_dir), map_location="cpu", weights_only=True)
    return {path: value for path, value in leaves(state) if "perf/" not in path and "seconds" not in path}


def last_checkpoint(run_dir: Path) -> Path:
    """The file of the run's last checkpoint; others may lie beside it."""
    return max(path for path in (run_dir / "checkpoints").glob("*.pt") if _CHECKPOINT.fullmatch(path.name))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts, lists and tuples that is none of these, by its path; empty ones too."""
    if isinstance(value, (dict, list, tuple)) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def _result(root: Path) -> dict[str, Any]:
    result = json.loads((root / "result.json").read_text())
    return {path: value for path, value in leaves(result) if path.split("/")[1] not in _TIMES and "/perf/" not in path}


def _range_test(root: Path) -> dict[str, Any]:
    path = root / "range_test.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return {path: value for path, value in leaves(found) if path.split("/")[1:] != ["remembered"]}


def _journal(root: Path) -> dict[str, Any]:
    history = metric_history(root / "journal.jsonl")
    return {
        f"{name} at {step}": value
        for name, points in history.items()
        for step, value, _ in points
        if not name.startswith("perf/")
    }


def _predictions(root: Path) -> dict[str, Any]:
    path = root / "predictions.npz"
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _bytes(root: Path, name: str) -> dict[str, bytes]:
    return {name: (root / name).read_bytes()} if (root / name).exists() else {}


def _same(one: Any, other: Any) -> bool:
    """Whether both are the same, to the bit; NaN is NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _raw(one) == _raw(other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _shown(value: Any) -> str:
    text = f"{tuple(value.shape)} values" if hasattr(value, "shape") and getattr(value, "ndim", 0) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
