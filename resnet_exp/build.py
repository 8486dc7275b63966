"""Plug-ins made from their config: the one place where a `_target_` is called, and only inside its group's package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from resnet_exp.config import Config
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

# Where each group's targets may live. Never torch.* or the like: that would let a config run anything.
PACKAGES = {
    "data": "resnet_exp.data",
    "model": "resnet_exp.models",
    "augmentation": "resnet_exp.augmentation",
    "optimizer": "resnet_exp.optimizers",
    "scheduler": "resnet_exp.schedulers",
}


@dataclass(frozen=True)
class Plugins:
    """What the config names, made and checked; nothing is read or computed yet."""

    source: DataSource
    augmentation: Augmentation
    optimizer: OptimizerFactory
    scheduler: Scheduler


def plugins(config: Config) -> Plugins:
    """The plug-ins of a run, the cheapest to refuse first.

    Raises:
        ConfigError: one does not take its settings.
    """
    scheduler = _make("scheduler", config)
    scheduler.check(config.train.epochs)
    return Plugins(
        scheduler=scheduler,
        source=_make("data", config),
        augmentation=_make("augmentation", config),
        optimizer=_make("optimizer", config),
    )


def tracker(config: Config, paths: RunPaths) -> Tracker:
    """The mirror of the run's journal."""
    if config.tracker.kind == "none":
        return NullTracker()
    experiment = config.tracker.experiment or "resnet_exp"
    return MlflowTracker(paths, uri=config.tracker.store, experiment=experiment, run_name=paths.root.name)


def model(config: Config, info: DatasetInfo) -> Any:
    """A fresh network for these data, with initial weights from torch's global generator."""
    return _make(
        "model", config, num_classes=info.num_classes, in_channels=info.in_channels, image_size=info.image_size
    )


def _make(group: str, config: Config, **arguments: Any) -> Any:
    """The group's plug-in.

    Raises:
        ConfigError: the target lies outside its group's package, or does not take these arguments.
    """
    settings = config.plugins[group]
    try:
        return instantiate(settings, **arguments, _convert_="all", _execution_whitelist_=[f"{PACKAGES[group]}.*"])
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(f"{group}: {_first_lines(error)}") from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
