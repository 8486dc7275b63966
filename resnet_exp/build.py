"""Plug-ins made from their config: the one place where a `_target_` is called, and only inside its group's package."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from resnet_exp.config import Config
from resnet_exp.interfaces import Augmentation, ConfigError, DatasetInfo, DataSource, OptimizerFactory, Scheduler

# Where each group's targets may live. Never torch.* or the like: that would let a config run anything.
PACKAGES = {
    "data": "resnet_exp.data",
    "model": "resnet_exp.models",
    "augmentation": "resnet_exp.augmentation",
    "optimizer": "resnet_exp.optimizers",
    "scheduler": "resnet_exp.schedulers",
}


def data_source(config: Config) -> DataSource:
    """The data set's loader; nothing is read yet."""
    return _make("data", config)


def scheduler(config: Config) -> Scheduler:
    """The schedule, its max_lr not yet found; checked against the number of epochs."""
    made = _make("scheduler", config)
    made.check(config.train.epochs)
    return made


def augmentation(config: Config) -> Augmentation:
    """The random views of training images."""
    return _make("augmentation", config)


def optimizer(config: Config) -> OptimizerFactory:
    """A factory of optimizers for a given model."""
    return _make("optimizer", config)


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
        return instantiate(
            settings, **arguments, _convert_="all", _execution_whitelist_=[f"{PACKAGES[group]}.*"]
        )
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(f"{group}: {_first_lines(error)}") from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
