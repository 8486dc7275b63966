"""What makes two runs, or two range tests, the same: a hash of all that determines their result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from resnet_exp.config.config import Config
from resnet_exp.run_dir.digest import digest_of

# Raised when the same config would give another result.
SIGNATURE_VERSION = 1
# What of the environment a range test's curves depend on.
_CURVES_DEPEND_ON = ("device", "precision", "threads", "cuda", "cudnn", "code_digest")
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn")


def signature(config: Config, data_identity: str, precision: str) -> str:
    """Twelve hex digits that are equal where two configs must give the same result on the same kind of device.

    The data stand in it by their identity, `train.precision` by what it comes to on this device. What does not touch
    the result does not: paths, tracker, device, name, how often checkpoints are written.
    """
    train = {key: value for key, value in asdict(config.train).items() if key != "checkpoint_interval"}
    groups = ["model", "augmentation", "optimizer", "scheduler"]
    if config.task == "range_test":  # what comes after it
        train.pop("epochs")
        groups.remove("scheduler")
    determines = {
        "version": SIGNATURE_VERSION,
        "task": config.task,
        "seed": str(config.seed),
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": asdict(config.range_test) if config.needs_range_test else None,
        "train": {**train, "precision": precision},
        **{group: config.plugins[group] for group in groups},
    }
    if not config.needs_range_test:  # then nothing is multiplied by it
        determines["scheduler"] = {k: v for k, v in config.plugins["scheduler"].items() if k != "find_factor"}
    return digest_of(_plain(determines))


def evaluation_signature(config: Config, data_identity: str, checkpoint_digest: str, precision: str) -> str:
    """Twelve hex digits that are equal where one network is measured on the same images in the same precision."""
    determines = {
        "version": SIGNATURE_VERSION,
        "task": config.task,
        "data": data_identity,
        "checkpoint": checkpoint_digest,
        "precision": precision,
    }
    return digest_of(_plain(determines))


def range_test_signature(config: Config, data_identity: str, environment: dict[str, Any]) -> str:
    """Twelve hex digits that are equal where two range tests must read the same curves, to the last digit.

    Of the environment, `runtime.environment`, counts what the curves depend on: device, precision, code, versions.
    """
    train = {key: value for key, value in asdict(config.train).items() if key not in ("epochs", "checkpoint_interval")}
    determines = {
        "version": SIGNATURE_VERSION,
        "seed": str(config.seed),
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": asdict(config.range_test),
        "train": train,
        "environment": {fact: environment[fact] for fact in _CURVES_DEPEND_ON},
        "packages": {name: environment["packages"][name] for name in _PACKAGES},
        **{group: config.plugins[group] for group in ("model", "augmentation", "optimizer")},
    }
    return digest_of(_plain(determines))


def _plain(value: Any) -> Any:
    """The value with whole numbers as floats: `max_lr=1` and `max_lr=1.0` are one setting."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
