"""Refuses settings that would be ignored: whatever a user sets has an effect or is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_exp.config.overrides import is_within, key_of
from resnet_exp.interfaces import ConfigError

# The keys that the tasks after a training read; a group's name includes all keys below it.
_READ_BY = {
    "evaluate": (
        *(
            "task",
            "checkpoint",
            "data",
            "model",
            "device",
            "report",
            "tracker",
            "name",
            "output_dir",
            "rerun",
            "plugins",
            "metrics",
        ),
        *("train.batch_size", "train.precision", "train.channels_last", "train.deterministic"),
    ),
    "report": ("task", "run_dir", "report", "device", "tracker", "plugins", "data.root", "data.cache"),
    "predict": (
        *("task", "checkpoint", "images", "predictions", "device", "plugins"),
        *("train.batch_size", "train.precision", "train.channels_last", "train.deterministic"),
    ),
}
_SPLIT = ("data.validation", "data.holdout", "data.limit_train")
_PARTS_OF_A_TRAINING = ("report.curves", "report.schedule", "report.range_test", "report.augmentation")
_ONLY_FOR = {
    "checkpoint": ("evaluate", "predict"),
    "images": ("predict",),
    "predictions": ("predict",),
    "run_dir": ("report",),
}
_Plugins = Mapping[str, Mapping[str, Any]]


def refuse_unused(task: str, overrides: Sequence[str], plugins: _Plugins, report: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting on the command line that would have no effect.

    Args:
        task: the task that will run.
        overrides: those of the command line, `key=value`.
        plugins: the settings of each group's plug-in.
        report: the settings of the report.
    """
    for override in overrides:
        reason = _reason(key_of(override), task, plugins) or _reason_of_the_report(key_of(override), task, report)
        if reason:
            raise ConfigError(f"{override} would be ignored: {reason}")


def _reason(key: str, task: str, plugins: _Plugins) -> str | None:
    """Why the key has no effect, and what to do; None if it has an effect."""
    if task in _READ_BY:
        if key in _SPLIT or not is_within(key, *_READ_BY[task], "experiment", "hydra"):
            return f"task={task} does not read it; leave it out"
        return None
    if key in _ONLY_FOR:
        return f"task={task} does not read it; it is for task={' or '.join(_ONLY_FOR[key])}"
    return _reason_of_a_training(key, task, plugins)


def _reason_of_the_report(key: str, task: str, report: Mapping[str, Any]) -> str | None:
    if task == "evaluate" and key in _PARTS_OF_A_TRAINING:
        return "task=evaluate trains nothing that could be drawn; leave it out"
    if key in ("report.gradcam_method", "report.gradcam_layers") and not report["gradcam"]:
        return "report.gradcam=0 draws no class activation maps; set it to a number of images or leave this out"
    return None


def _reason_of_a_training(key: str, task: str, plugins: _Plugins) -> str | None:
    scheduler = plugins["scheduler"]
    max_lr = scheduler.get("max_lr")
    if task == "range_test":
        if key == "scheduler.max_lr" and max_lr != "find":
            return "task=range_test finds it; leave it out"
        return None  # a training's command may be repeated with task=range_test: its other keys are for the training
    if max_lr != "find" and (is_within(key, "range_test") or key == "scheduler.find_factor"):
        return f"scheduler.max_lr={max_lr} is given, so no range test runs; set scheduler.max_lr=find or leave it out"
    if max_lr != "find" and scheduler.get("cycle_momentum") and _sets_momentum(key, plugins["optimizer"]):
        return "scheduler.cycle_momentum=true moves the momentum from 0.95 to 0.85 and back; leave one of them out"
    return None  # with max_lr=find the range test uses the momentum that is set


def _sets_momentum(key: str, optimizer: Mapping[str, Any]) -> bool:
    """Whether the key sets a momentum; of `betas` that is the first, unless it is the default 0.9."""
    if key != "optimizer.betas":
        return key == "optimizer.momentum"
    # Both betas are set by one key: [0.9, 0.99] is how a user changes the second alone.
    betas = optimizer.get("betas")
    return isinstance(betas, (list, tuple)) and betas[:1] != type(betas)([0.9])
