"""The checks of a sweep before anything is written: its sweeper, its settings, and values of stock sweepers."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config.overrides import in_turn, is_within, key_of, name_of, sweep_overrides, texts_of, values_of
from resnet_exp.config.plugin_folders import open_folders
from resnet_exp.interfaces import ConfigError, first_line
from resnet_exp.sweeps.objective import Objective, check_task, direction_of
from resnet_exp.sweeps.plan import plugin_folders, settings, space_of, tracker_of
from resnet_exp.sweeps.planner import compose_job
from resnet_exp.sweeps.stock import check_stock
from resnet_exp.sweeps.sweeper import PlanningSweeper

_OURS = r"resnet_exp\.sweeps\.[a-z]\w*\.[A-Z]\w*"
_MOST_VALUES = 100  # of a key that are tried: more would take longer than the first job
# Settings of Hydra's for the folders of jobs, which have their run directories in output_dir instead.
_IGNORED = {
    "hydra.sweep.subdir": "a job writes to its run directory, in output_dir; leave it out, or set output_dir",
    "hydra.job.num": "the sweep numbers its jobs itself; leave it out",
    "hydra.job.id": "the sweep numbers its jobs itself; leave it out",
}


def find_sweeper(config: DictConfig) -> type[Sweeper]:
    """Returns the class of the sweeper that the config names, which Hydra can instantiate from here on.

    Hydra instantiates only classes that are registered with it, as those of installed packages are. Ours are registered
    here, and so are those of the user's folders: with `plugins=DIR` the user allows what is in DIR to run.

    Raises:
        ConfigError: it names something else.
    """
    target = _target_of(config, "sweeper")
    modules = open_folders(plugin_folders(config))
    if installed := _installed(Sweeper).get(target):
        return installed
    if not re.fullmatch(_OURS, target) and target.rpartition(".")[0] not in modules:
        raise ConfigError(
            f"hydra.sweeper._target_={target}: a sweeper that is installed, or a class in "
            f"{' or '.join(['resnet_exp.sweeps', *modules])}, is needed; choose one with hydra/sweeper=..., or name "
            "the folder that holds yours with plugins=DIR"
        )
    sweeper = _imported(target)
    Plugins.instance().register(sweeper)
    return sweeper


def _target_of(config: DictConfig, group: str) -> str:
    section = config.hydra[group]
    if not isinstance(section, DictConfig) or "_target_" not in section:
        raise ConfigError(f"hydra.{group}={section}: choose one with hydra/{group}=...")
    return str(section._target_)


def _installed(kind: Any) -> dict[str, type[Any]]:
    """The classes of this kind that Hydra finds in installed packages, by their dotted names."""
    found: Any = Plugins.instance().discover(kind)
    return {f"{one.__module__}.{one.__qualname__}": one for one in found}


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
    check_task(config.task)
    direction_of(config)
    _check_params(config)
    _check_arguments(config, "sweeper", sweeper)
    _check_keys_of_the_whole(config)
    _check_seeds(config, takes_seed=getattr(sweeper, "takes_seed", False))
    _refuse_ignored(config)
    _check_folder(config)
    tracker_of(config)


def check_launcher_settings(config: DictConfig) -> None:
    """Raises ConfigError for a launcher that is not installed, and for settings that it does not have."""
    target = _target_of(config, "launcher")
    launcher = _installed(Launcher).get(target)
    if launcher is None:
        raise ConfigError(f"hydra.launcher._target_={target}: no such launcher is installed; choose hydra/launcher=...")
    _check_arguments(config, "launcher", launcher)


def _check_params(config: DictConfig) -> None:
    params = config.hydra.sweeper.get("params")
    if not isinstance(params, DictConfig | None):
        raise ConfigError(f"hydra.sweeper.params={params}: values by key are needed, such as {{seed:'1,2'}}, or null")


def _check_arguments(config: DictConfig, group: str, plugin: type) -> None:
    """Raises ConfigError for settings of a sweeper or launcher that it does not have, and for those that it lacks."""
    settings = [str(key) for key in config.hydra[group] if not str(key).startswith("_")]
    try:
        inspect.signature(plugin).bind(**dict.fromkeys(settings))
    except TypeError as error:
        choice = f"hydra/{group}={config.hydra.runtime.choices[f'hydra/{group}']}"
        raise ConfigError(
            f"hydra.{group}: {choice} {error}; --cfg hydra -p hydra.{group} shows its settings"
        ) from error


def _check_keys_of_the_whole(config: DictConfig) -> None:
    """Raises ConfigError for settings of the whole sweep in its `params` or swept over: no job could have its own."""
    params = config.hydra.sweeper.get("params") or {}
    fixed = [f"{key}={values}" for key, values in params.items()]
    for text in [*fixed, *(str(values.input_line) for values in space_of(config, _arguments(config)).values())]:
        if is_within(key_of(text), "sweep", "hydra", "plugins"):
            where = " in hydra.sweeper.params" if text in fixed else ""
            raise ConfigError(
                f"{text}{where}: it is set once for the whole sweep; give it one value, beside what is swept over"
            )


def _check_seeds(config: DictConfig, *, takes_seed: bool) -> None:
    """Raises ConfigError where a seed is given beside `sweep.seeds`, with which each job is run instead.

    An experiment's own seed is not refused: the command line replaces it, as it does an experiment's other settings.
    """
    seeds, arguments = settings(config).seeds, _arguments(config)
    given = [text for text in _overrides(config) if name_of(text) == "seed"]
    if seeds is None or not given:
        return
    if takes_seed and "seed" not in space_of(config, arguments) and given[-1] in arguments:
        return  # it is the seed of the proposals
    raise ConfigError(
        f"{given[-1]} would be ignored: with sweep.seeds={seeds} each job is run with these; leave one of the two out"
    )


def _refuse_ignored(config: DictConfig) -> None:
    """Raises ConfigError for settings of Hydra's that a sweep does not honour."""
    for text in texts_of(config.hydra.overrides.hydra):
        for key, reason in _IGNORED.items():
            if is_within(key_of(text), key):
                raise ConfigError(f"{text} would be ignored in a sweep: {reason}")


def _check_folder(config: DictConfig) -> None:
    """Raises ConfigError where the sweep's directory cannot be made in `hydra.sweep.dir`."""
    try:
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        above = next(path for path in (folder, *folder.parents) if path.exists())
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"hydra.sweep.dir: a folder is needed ({first_line(error)})") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "cannot be written to" if above.is_dir() else "is no folder"
        raise ConfigError(
            f"hydra.sweep.dir={config.hydra.sweep.dir}: {above} {what}; give a folder for the sweeps, such as multirun"
        )


def check_values(config: DictConfig, sweeper: type[Sweeper], loader: ConfigLoader) -> None:
    """Raises ConfigError where a swept value cannot work, for sweepers that plan no jobs themselves.

    Each value is tried beside the first ones of the other keys; those of an interval, which cannot be listed, are not.
    """
    texts, objective = _overrides(config), Objective(direction_of(config))
    space = space_of(config, _arguments(config), loader)
    check_stock(config, sweeper, space)
    variants: list[list[str]] = []
    for text in texts:
        override = space.get(name_of(text))
        if override is None:
            variants.append([text])
        elif values := values_of(override):
            variants.append(
                [f"{override.get_key_element()}={value}" for value in itertools.islice(values, _MOST_VALUES)]
            )
    for _, job in in_turn([each for each in variants if each]):
        objective.check(compose_job(config, loader, job))


def _arguments(config: DictConfig) -> list[str]:
    return texts_of(config.hydra.overrides.task)


def _overrides(config: DictConfig) -> list[str]:
    return sweep_overrides(config.hydra.sweeper.get("params") or {}, _arguments(config))
