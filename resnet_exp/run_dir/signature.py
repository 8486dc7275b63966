"""Signatures of runs and range tests: a hash of all that determines the result, equal for equal ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from resnet_exp.config.config import Config
from resnet_exp.run_dir.digest import digest_of

# Raise it when a change of the code makes the same config give another result.
SIGNATURE_VERSION = 1
# The facts of the environment that a range test's curves depend on.
_CURVES_DEPEND_ON = ("device", "precision", "threads", "cuda", "cudnn", "code_digest")
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn")


def signature(config: Config, data_identity: str, precision: str) -> str:
    """Twelve hex digits, equal if two configs must give the same result on the same kind of device."""
    return digest_of(_plain(determining(config, data_identity, precision)))


def determining(config: Config, data_identity: str, precision: str) -> dict[str, Any]:
    """All settings that the result of a run depends on, by group.

    Of the data their identity enters, of `train.precision` the one that `auto` becomes on this device. What does not
    change the result does not enter: paths, tracker, device, name, how often checkpoints are written.
    """
    train = {key: value for key, value in asdict(config.train).items() if key != "checkpoint_interval"}
    if train["ema"] is None or config.task == "range_test":  # runs of before it was a key keep their signatures
        train.pop("ema")
    groups = ["model", "augmentation", "optimizer", "scheduler"]
    if config.task == "range_test":  # it ends before these have an effect
        train.pop("epochs")
        groups.remove("scheduler")
    determines = {
        "version": SIGNATURE_VERSION,
        "task": config.task,
        "seed": str(config.seed),  # as text, since `_plain` makes floats, which merge seeds above 2^53
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": _range_test(config) if config.needs_range_test else None,
        "train": {**train, "precision": precision},
        **{group: config.plugins[group] for group in groups},
        **_extra_metrics(config),
    }
    if not config.needs_range_test:  # find_factor multiplies the LR of a range test, and there is none
        determines["scheduler"] = {k: v for k, v in config.plugins["scheduler"].items() if k != "find_factor"}
    return determines


def evaluation_signature(config: Config, data_identity: str, checkpoint_digest: str, precision: str) -> str:
    """Twelve hex digits, equal if the same trained network is measured on the same images in the same precision."""
    determines = {
        "version": SIGNATURE_VERSION,
        "task": config.task,
        "data": data_identity,
        "checkpoint": checkpoint_digest,
        "precision": precision,
        **_extra_metrics(config),
    }
    return digest_of(_plain(determines))


def _range_test(config: Config) -> dict[str, Any]:
    """The settings of the range test; its first rule is not named, so that signatures of before stay."""
    settings = asdict(config.range_test)
    return {key: value for key, value in settings.items() if (key, value) != ("rule", "minimum")}


def _extra_metrics(config: Config) -> dict[str, Any]:
    """The user's own metrics, where there are any: a run without one is not the run that measures it."""
    return {"metrics": sorted(config.metrics)} if config.metrics and config.task != "range_test" else {}


def range_test_signature(config: Config, data_identity: str, environment: dict[str, Any]) -> str:
    """Twelve hex digits, equal if two range tests must record the same curves, to the last digit.

    A run may differ in its last digits between devices and versions; a cached range test may not. So here facts of the
    environment (`runs.environment`) enter too: device, precision, threads, code, versions.
    """
    # Without the schedule, the epochs and the EMA: jobs of a sweep over these share one range test.
    without = ("epochs", "checkpoint_interval", "ema")
    train = {key: value for key, value in asdict(config.train).items() if key not in without}
    determines = {
        "version": SIGNATURE_VERSION,
        "seed": str(config.seed),
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": _range_test(config),
        "train": train,
        "environment": {fact: environment[fact] for fact in _CURVES_DEPEND_ON},
        "packages": {name: environment["packages"][name] for name in _PACKAGES},
        **{group: config.plugins[group] for group in ("model", "augmentation", "optimizer")},
    }
    return digest_of(_plain(determines))


def _plain(value: Any) -> Any:
    """The value with whole numbers as floats, since `max_lr=1` and `max_lr=1.0` are one setting."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
