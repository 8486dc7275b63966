"""Makes plug-ins from the config: the only place where a `_target_` is called, and only inside its group's package.

Nothing here imports torch by itself, so that settings that need no torch are refused without its 3 s.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from resnet_exp.config.config import PACKAGES, RUN_ARGUMENTS, Config
from resnet_exp.config.model_check import check_input_size
from resnet_exp.config.redact import redact, without_secrets
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.interfaces import (
    Augmentation,
    ConfigError,
    DatasetInfo,
    DataSource,
    Metric,
    OptimizerFactory,
    Scheduler,
    Tracker,
)


@dataclass(frozen=True)
class Plugins:
    """The plug-ins of a run, made and checked; no image is read and nothing is computed yet."""

    source: DataSource
    augmentation: Augmentation
    optimizer: OptimizerFactory
    scheduler: Scheduler
    tracker: Tracker
    in_channels: int  # 3, or 1 if the model takes grey images only


def check_schedule(config: Config) -> None:
    """Raises ConfigError if the settings of scheduler or optimizer contradict one another, or do not fit the epochs.

    Our own schedulers and optimizers are made without importing torch, so that such a mistake costs a second.
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
    """The plug-ins of a run, all but the model, which is made later because it needs the data.

    Raises:
        ConfigError: one does not take its settings, or the model does not take the images' size.
    """
    # Names before anything is made: importing modules is faster than trying the model on meta tensors.
    for group in PACKAGES:
        _check_names(group, config.plugins[group])
    source = _make("data", config)
    return Plugins(
        in_channels=_supported_channels(config, source),
        scheduler=_make("scheduler", config),
        source=source,
        augmentation=_make("augmentation", config),
        optimizer=_make("optimizer", config),
        tracker=tracker(config),
    )


def _supported_channels(config: Config, source: DataSource) -> int:
    """3, or 1 if the model does not take 3; whether the images are grey is only known once they are read."""
    num_classes = source.size().num_classes
    try:
        check_model(config, source.image_size, 3, num_classes)
    except ConfigError as refusal:  # a model for grey images only, such as LeNet
        try:
            check_model(config, source.image_size, 1, num_classes)
        except ConfigError:
            raise refusal from None
        return 1
    return 3


def check_model(config: Config, image_size: int, in_channels: int, num_classes: int) -> None:
    """Raises ConfigError unless the model returns logits of `num_classes` classes for images of this size."""

    def make(size: int) -> Any:
        settings, modules = config.plugins["model"], config.plugin_modules
        arguments = {"num_classes": num_classes, "in_channels": in_channels, "image_size": size}
        return _instantiate("model", settings, modules, **arguments)

    check_input_size(make, image_size, in_channels, num_classes)


def expected(plugins: Plugins) -> DatasetInfo:
    """What is known of the data before they are read; enough to make a model. Name and counts are empty."""
    classes = tuple(map(str, range(plugins.source.size().num_classes)))
    return DatasetInfo("", classes, plugins.source.image_size, plugins.in_channels, 0, 0, 0)


def source(config: Config) -> DataSource:
    """The data set of the config; no image is read yet."""
    return _make("data", config)


def scheduler(config: Config) -> Scheduler:
    """The learning-rate schedule."""
    return _make("scheduler", config)


def model(config: Config, info: DatasetInfo) -> Any:
    """A new model for these data, its initial weights from torch's global generator."""
    made = _make(
        "model", config, num_classes=info.num_classes, in_channels=info.in_channels, image_size=info.image_size
    )
    _give_sizes(made, info)
    return made


def _give_sizes(network: Any, info: DatasetInfo) -> None:
    """Gives lazy layers, such as `nn.LazyLinear`, their sizes and weights: a first pass does, an optimizer cannot."""
    import torch
    from torch.nn.modules.lazy import LazyModuleMixin

    if any(isinstance(module, LazyModuleMixin) for module in network.modules()):
        mode = network.training
        with torch.no_grad():
            network.eval()(torch.zeros(2, info.in_channels, info.image_size, info.image_size))
        network.train(mode)


def tracker(config: Config) -> Tracker:
    """The tracker; it opens nothing yet, and imports no torch unless the user's own does."""
    return tracker_of(config.plugins["tracker"], config.plugin_modules)


def tracker_of(settings: Mapping[str, Any], modules: Sequence[str]) -> Tracker:
    """The tracker of a checked section, for where there is no whole config.

    Raises:
        ConfigError: it is not there, does not take its settings, or is no tracker.
    """
    found = _check_names("tracker", settings)
    # Looked at before it is called: a function of our own tracking package would open a store.
    if not (inspect.isclass(found) and callable(getattr(found, "open", None))):
        raise ConfigError(
            f"tracker._target_={settings['_target_']}: no tracker, which is a class with open(run_dir, label)"
        )
    made: Tracker = _make_from("tracker", settings, modules)
    return made


def metrics(config: Config) -> tuple[Metric, ...]:
    """The user's own metrics, which `metrics=[MODULE.NAME]` names.

    Raises:
        ConfigError: one cannot be imported, or is no Metric.
    """
    found = tuple(_imported("metrics", name) for name in config.metrics)
    for name, metric in zip(config.metrics, found, strict=True):
        if not isinstance(metric, Metric):
            raise ConfigError(
                f"metrics={name}: a resnet_exp.interfaces.Metric is needed, not a {type(metric).__name__}"
            )
    return found


def figure(name: str) -> Callable[[Any], Any]:
    """The function `MODULE.FUNCTION` that `report.extra` names.

    Raises:
        ConfigError: the module cannot be imported, or has no such function of its own that takes a report's Subject.
    """
    draw: Callable[[Any], Any] = _imported("report.extra", name)
    module, _, function = name.rpartition(".")
    if not inspect.isfunction(draw) or draw.__module__ != module:
        raise ConfigError(f"report.extra={name}: {function} is no function that {module} itself defines")
    try:
        inspect.signature(draw).bind("subject")
    except TypeError as error:
        raise ConfigError(
            f"report.extra={name}: a function of one argument, the Subject, is needed ({error})"
        ) from error
    return draw


def _imported(key: str, name: str) -> Any:
    """What `MODULE.NAME` names; `config.typed` has refused modules that a config may not name."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the module, which may raise anything
        raise ConfigError(f"{key}={name}: it cannot be imported ({type(error).__name__}: {error})") from error


def _check_names(group: str, plugin: Mapping[str, Any]) -> Any:
    """The group's target, not called yet, if it can be imported and has an argument for every setting.

    Raises:
        ConfigError: it cannot, or has not.
    """
    settings = dict(plugin)
    target = settings.pop("_target_")
    module, _, name = target.rpartition(".")
    given = RUN_ARGUMENTS.get(group, ())
    try:
        found = getattr(importlib.import_module(module), name)
        signature = inspect.signature(found)
    except Exception as error:  # importing runs the module, which may raise anything
        raise ConfigError(
            f"{group}._target_={target}: there is no such plug-in, or it cannot be imported "
            f"({type(error).__name__}: {error})"
        ) from error
    # With **kwargs any name is taken; the plug-in itself must refuse.
    if any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in signature.parameters.values()):
        return found
    known = [argument for argument in signature.parameters if argument not in given]
    for key in settings:
        if key not in known:
            raise UnknownKey(f"{group}.{key}", [f"{group}.{one}" for one in known], f" of {target}")
    return found


def _make(group: str, config: Config, **arguments: Any) -> Any:
    """The group's plug-in; raises ConfigError as `_make_from`."""
    return _make_from(group, config.plugins[group], config.plugin_modules, **arguments)


def _make_from(group: str, settings: Mapping[str, Any], modules: Sequence[str], **arguments: Any) -> Any:
    """The plug-in of these settings.

    Raises:
        ConfigError: the target lies outside its group's package and the user's folders, or does not take these
            arguments.
    """
    try:
        return _instantiate(group, settings, modules, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # a value of a type that the plug-in did not expect
        said = without_secrets(dict(settings)) if group == "tracker" else settings
        shown = ", ".join(f"{key}={value}" for key, value in said.items() if key != "_target_")
        raise ConfigError(redact(f"{group}: {settings['_target_']} does not take {shown} ({error})")) from error


def _instantiate(group: str, settings: Mapping[str, Any], modules: Sequence[str], **arguments: Any) -> Any:
    """What the group's target returns; exceptions that it raises itself are passed on."""
    # One package and the user's own modules. With torch.* in it, 4 of 24 hostile targets that we tried would run.
    whitelist = [f"{package}.*" for package in (PACKAGES[group], *modules)]
    try:
        return instantiate(settings, **arguments, _convert_="all", _execution_whitelist_=whitelist)
    except InstantiationException as error:
        raise ConfigError(redact(f"{group}: {_first_lines(error)}")) from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
