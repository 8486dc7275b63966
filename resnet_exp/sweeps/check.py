"""The checks of a sweep before anything is written: its sweeper, its settings, and values of stock sweepers."""

from __future__ import annotations

import importlib
import itertools
import re
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from resnet_exp.config.overrides import in_turn, parsed, sweep_overrides, values_of
from resnet_exp.config.plugin_folders import open_folders
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.plan import plugin_folders, settings, tracker_of
from resnet_exp.sweeps.planner import compose_job
from resnet_exp.sweeps.sweeper import PlanningSweeper

_OURS = r"resnet_exp\.sweeps\.[a-z]\w*\.[A-Z]\w*"
_MOST_VALUES = 100  # of a key that are tried: more would take longer than the first job


def find_sweeper(config: DictConfig) -> type[Sweeper]:
    """Returns the class of the sweeper that the config names, which Hydra can instantiate from here on.

    Hydra instantiates only classes that are registered with it, as those of installed packages are. Ours are registered
    here, and so are those of the user's folders: with `plugins=DIR` the user allows what is in DIR to run.

    Raises:
        ConfigError: it names something else.
    """
    target = str(config.hydra.sweeper._target_)
    modules = open_folders(plugin_folders(config))
    installed: Any = Plugins.instance().discover(Sweeper)
    known = {f"{one.__module__}.{one.__qualname__}": one for one in installed}
    if target in known:
        sweeper: type[Sweeper] = known[target]
        return sweeper
    if not re.fullmatch(_OURS, target) and target.rpartition(".")[0] not in modules:
        raise ConfigError(
            f"hydra.sweeper._target_={target}: a sweeper that is installed, or a class in "
            f"{' or '.join(['resnet_exp.sweeps', *modules])}, is needed; choose one with hydra/sweeper=..., or name "
            "the folder that holds yours with plugins=DIR"
        )
    sweeper = _imported(target)
    Plugins.instance().register(sweeper)
    return sweeper


def _imported(target: str) -> type[PlanningSweeper]:
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs it: whatever its author got wrong
        raise ConfigError(
            f"hydra.sweeper._target_={target}: there is no such sweeper, or it cannot be imported "
            f"({type(error).__name__}: {error})"
        ) from error
    is_sweeper = isinstance(found, type) and issubclass(found, PlanningSweeper) and found is not PlanningSweeper
    if not is_sweeper or found.__module__ != module:  # what a module only imported is not its own
        raise ConfigError(
            f"hydra.sweeper._target_={target}: a subclass of resnet_exp.sweeps.sweeper.PlanningSweeper is needed"
        )
    sweeper: type[PlanningSweeper] = found
    return sweeper


def check_sweep(config: DictConfig, sweeper: type[Sweeper]) -> None:
    """Raises ConfigError for settings that no job of this sweep could honour."""
    sweep = settings(config)
    if sweep.job is not None:
        raise ConfigError(f"sweep.job={sweep.job}: the sweep itself sets it for each of its jobs; leave it out")
    if sweep.pruner != "none" and not getattr(sweeper, "takes_pruner", False):
        raise ConfigError(f"sweep.pruner={sweep.pruner} would be ignored: it is for hydra/sweeper=study")
    if sweep.dry_run and not issubclass(sweeper, PlanningSweeper):
        raise ConfigError("sweep.dry_run=true needs hydra/sweeper=grid or study: others plan nothing that can be shown")
    if config.task not in ("train", "range_test"):
        raise ConfigError(f"task={config.task} cannot be swept over; task=train or task=range_test can")
    validation = VALIDATION.get(str(config.data.validation))  # a wrong value is refused with the job's config
    if config.task == "train" and validation is not None and validation.objective is None:
        raise ConfigError("data.validation=none leaves a sweep nothing to choose by; holdout is needed")
    direction = config.hydra.sweeper.get("direction")  # a text, or the stock Optuna sweeper's enum
    if config.task == "train" and getattr(direction, "name", direction) == "minimize":
        raise ConfigError(
            "hydra.sweeper.direction=minimize would choose the worst: the objective is an accuracy; set "
            "hydra.sweeper.direction=maximize"
        )
    tracker_of(config)


def check_values(config: DictConfig, loader: ConfigLoader) -> None:
    """Raises ConfigError where a swept value cannot work, for sweepers that plan no jobs themselves.

    Each value is tried beside the first ones of the other keys; those of an interval, which cannot be listed, are not.
    """
    texts = sweep_overrides(config.hydra.sweeper.get("params") or {}, list(config.hydra.overrides.task))
    variants: list[list[str]] = []
    for override in (parsed(text, loader) for text in texts):
        if not override.is_sweep_override():
            variants.append([str(override.input_line)])
        elif values := values_of(override):
            variants.append(
                [f"{override.get_key_element()}={value}" for value in itertools.islice(values, _MOST_VALUES)]
            )
    for _, job in in_turn([each for each in variants if each]):
        compose_job(config, loader, job)
