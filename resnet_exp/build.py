"""Plug-ins made from their config: the one place where a `_target_` is called, and only inside its group's package."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from resnet_exp.config import PACKAGES, Config
from resnet_exp.interfaces import (
    Augmentation,
    ConfigError,
    DatasetInfo,
    DataSource,
    OptimizerFactory,
    RunPaths,
    Scheduler,
    Tracker,
)
from resnet_exp.tracking.mlflow import MlflowTracker
from resnet_exp.tracking.null import NullTracker

# What the run tells a plug-in beside its settings.
_GIVEN = {"model": ("num_classes", "in_channels", "image_size")}


@dataclass(frozen=True)
class Plugins:
    """What the config names, made and checked; nothing is read or computed yet."""

    source: DataSource
    augmentation: Augmentation
    optimizer: OptimizerFactory
    scheduler: Scheduler


def plugins(config: Config) -> Plugins:
    """The plug-ins of a run, the cheapest to refuse first. The model, which needs the data, is made later.

    Raises:
        ConfigError: one does not take its settings.
    """
    for group in PACKAGES:
        _check_names(group, config)
    scheduler = _make("scheduler", config)
    scheduler.check(config.train.epochs)
    source = _make("data", config)
    with torch.device("meta"):  # no memory, no arithmetic: only to hear whether it takes its settings
        _make("model", config, num_classes=2, in_channels=3, image_size=source.image_size)
    return Plugins(
        scheduler=scheduler,
        source=source,
        augmentation=_make("augmentation", config),
        optimizer=_make("optimizer", config),
    )


def tracker(config: Config, paths: RunPaths) -> Tracker:
    """The mirror of the run's journal."""
    if config.tracker.kind == "none":
        return NullTracker()
    settings = config.tracker
    return MlflowTracker(paths, uri=settings.store, experiment=settings.experiment, run_name=paths.root.name)


def model(config: Config, info: DatasetInfo) -> Any:
    """A fresh network for these data, with initial weights from torch's global generator."""
    return _make(
        "model", config, num_classes=info.num_classes, in_channels=info.in_channels, image_size=info.image_size
    )


def _check_names(group: str, config: Config) -> None:
    """Raises ConfigError unless the group's target is there and has arguments of the settings' names, and no other."""
    settings = dict(config.plugins[group])
    target = settings.pop("_target_")
    module, _, name = target.rpartition(".")
    given = _GIVEN.get(group, ())
    try:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{group}._target_={target}: there is no such plug-in ({error})") from error
    known = [argument for argument in signature.parameters if argument not in given]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"{group}.{unknown[0]} is no key of {target}; known are {', '.join(known) or 'none'}")


def _make(group: str, config: Config, **arguments: Any) -> Any:
    """The group's plug-in.

    Raises:
        ConfigError: the target lies outside its group's package, or does not take these arguments.
    """
    settings = config.plugins[group]
    try:
        return instantiate(settings, **arguments, _convert_="all", _execution_whitelist_=[f"{PACKAGES[group]}.*"])
    except InstantiationException as error:
        raise ConfigError(f"{group}: {_first_lines(error)}") from error
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # a value of a kind that the plug-in did not expect
        shown = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "_target_")
        raise ConfigError(f"{group}: {settings['_target_']} does not take {shown} ({error})") from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
