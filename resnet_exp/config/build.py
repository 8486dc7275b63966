"""Plug-ins made from their config: the one place where a `_target_` is called, and only inside its group's package.

Nothing here imports torch by itself: what needs no torch can be refused without it.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from resnet_exp.config.config import GIVEN, PACKAGES, Config
from resnet_exp.config.model_check import check_input_size
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.interfaces import (
    Augmentation,
    ConfigError,
    DatasetInfo,
    DataSource,
    OptimizerFactory,
    Scheduler,
)


@dataclass(frozen=True)
class Plugins:
    """What the config names, made and checked; nothing is read or computed yet."""

    source: DataSource
    augmentation: Augmentation
    optimizer: OptimizerFactory
    scheduler: Scheduler
    in_channels: int  # of the images that the model is known to take


def check_schedule(config: Config) -> None:
    """Raises ConfigError where the scheduler's or the optimizer's settings do not go together, or with the epochs.

    Ours are made without importing torch: such a mistake costs a second.
    """
    if config.task == "train":
        _make("scheduler", config).check(config.train.epochs)
    _make("optimizer", config)
    settings = config.plugins["optimizer"]
    betas = settings.get("betas")
    momentum = betas[0] if isinstance(betas, (list, tuple)) and betas else settings.get("momentum")
    if config.plugins["scheduler"].get("cycle_momentum") and momentum == 0:
        raise ConfigError(
            "scheduler.cycle_momentum=true needs a momentum to cycle, and the optimizer has none: set "
            "optimizer.momentum (or betas) above 0, or scheduler.cycle_momentum=false"
        )


def plugins(config: Config) -> Plugins:
    """The plug-ins of a run, the cheapest to refuse first. The model, which needs the data, is made later.

    Raises:
        ConfigError: one does not take its settings, or the model does not take the images' size.
    """
    for group in PACKAGES:
        _check_names(group, config)
    source = _make("data", config)
    return Plugins(
        in_channels=_taken_channels(config, source),
        scheduler=_make("scheduler", config),
        source=source,
        augmentation=_make("augmentation", config),
        optimizer=_make("optimizer", config),
    )


def _taken_channels(config: Config, source: DataSource) -> int:
    """3 or 1, whichever the model takes; whether the images are grey is known when they are read."""
    num_classes = source.size().num_classes
    try:
        check_model(config, source.image_size, 3, num_classes)
    except ConfigError as refusal:
        try:
            check_model(config, source.image_size, 1, num_classes)
        except ConfigError:
            raise refusal from None
        return 1
    return 3


def check_model(config: Config, image_size: int, in_channels: int, num_classes: int) -> None:
    """Raises ConfigError unless the model makes logits for so many classes of such images."""

    def make(size: int) -> Any:
        return _called("model", config, num_classes=num_classes, in_channels=in_channels, image_size=size)

    check_input_size(make, image_size, in_channels, num_classes)


def expected(plugins: Plugins) -> DatasetInfo:
    """What the data will be, as far as it is known before they are read: enough to make a model."""
    classes = tuple(map(str, range(plugins.source.size().num_classes)))
    return DatasetInfo("", classes, plugins.source.image_size, plugins.in_channels, 0, 0, 0)


def source(config: Config) -> DataSource:
    """The data set; nothing of it is read yet."""
    return _make("data", config)


def scheduler(config: Config) -> Scheduler:
    """The learning-rate schedule."""
    return _make("scheduler", config)


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
    given = GIVEN.get(group, ())
    try:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
    except Exception as error:  # importing it runs it: whatever its author got wrong
        raise ConfigError(
            f"{group}._target_={target}: there is no such plug-in, or it cannot be imported "
            f"({type(error).__name__}: {error})"
        ) from error
    if any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in signature.parameters.values()):
        return
    known = [argument for argument in signature.parameters if argument not in given]
    for key in settings:
        if key not in known:
            raise UnknownKey(f"{group}.{key}", [f"{group}.{one}" for one in known], f" of {target}")


def _make(group: str, config: Config, **arguments: Any) -> Any:
    """The group's plug-in.

    Raises:
        ConfigError: the target lies outside its group's package and the user's folders, or does not take these
            arguments.
    """
    try:
        return _called(group, config, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # a value of a kind that the plug-in did not expect
        settings = config.plugins[group]
        shown = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "_target_")
        raise ConfigError(f"{group}: {settings['_target_']} does not take {shown} ({error})") from error


def _called(group: str, config: Config, **arguments: Any) -> Any:
    """What the group's target returns; its own errors pass."""
    whitelist = [f"{package}.*" for package in (PACKAGES[group], *config.plugin_modules)]
    try:
        return instantiate(config.plugins[group], **arguments, _convert_="all", _execution_whitelist_=whitelist)
    except InstantiationException as error:
        raise ConfigError(f"{group}: {_first_lines(error)}") from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
