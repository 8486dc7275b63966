"""The check of the command line before Hydra composes it: an unknown key or option is answered with the nearest one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

import resnet_exp
from resnet_exp.config.config import GROUPS, NO_OPTIMIZER_LR, RUN_ARGUMENTS
from resnet_exp.config.overrides import in_turn, name_and_value, parsed
from resnet_exp.config.plugin_args import unchecked_arguments
from resnet_exp.config.plugin_folders import conf_of, folders_of, open_folders
from resnet_exp.config.suggest import UnknownKey, closest
from resnet_exp.interfaces import ConfigError

_PACKAGE = Path(resnet_exp.__file__).resolve().parent
# At the top of the repository; inside the package once a wheel is installed.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
# Flags with which Hydra shows something and runs nothing.
_SHOWS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i"}
_COMPLETION = {"--shell-completion", "-sc"}
_CONFIG_DIR = ("--config-dir", "-cd")
# Keys that people look for where they are not.
_UNTRACKED = "would be ignored: the tracker that is chosen has no such setting; leave it out"
_ELSEWHERE = {
    "optimizer.lr": NO_OPTIMIZER_LR,
    "tracker.uri": f"tracker.uri {_UNTRACKED}",
    "tracker.experiment": f"tracker.experiment {_UNTRACKED}",
}


class PluginFolders(SearchPathPlugin):
    """Appends the `conf/` of each folder that `plugins=` names to Hydra's search path, so that ours comes first."""

    folders: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the folders; Hydra calls it whenever it makes a search path."""
        for folder in self.folders:
            search_path.append("plugins", folder if "://" in folder else f"file://{folder}")


def check(arguments: Sequence[str]) -> None:
    """Checks that every override names a key that exists, and every choice of a group an option that exists.

    From here on the folders that `plugins=` names are on Hydra's search path. Of a command that only shows something,
    as `--help` does, the choices alone are checked. The values are checked when the config is composed.

    Raises:
        ConfigError: an override names something else, or cannot be read.
    """
    if _COMPLETION & set(arguments):
        return
    overrides = [parsed(text) for text in _overrides(arguments)]
    _open_plugin_folders(overrides, arguments)
    with initialize_config_dir(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        groups = {group: loader.get_group_options(group) for group in _groups(loader)}
        chosen = [override for override in overrides if override.key_or_group in groups]
        for override in chosen:
            _check_option(override, groups)
        if _SHOWS & set(arguments):
            return
        trees = dict(_compositions(chosen, groups))
        compositions = {label: set(_keys(tree)) for label, tree in trees.items()}
        for override in overrides:
            if override.key_or_group not in groups:
                _check_key(override, compositions, list(groups))
        _warn_of_unchecked(overrides, trees.values())


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the command names a sweep, as `sweep=peak_epoch` does, without saying `--multirun` or a mode itself."""
    values = dict(map(name_and_value, _overrides(arguments)))
    is_named = values.get("sweep", "default") != "default"
    return is_named and "hydra.mode" not in values and not {*arguments} & {"--multirun", "-m", "--cfg", "-c", *_SHOWS}


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that are neither flags nor the values of flags."""
    before = ""
    for argument in arguments:
        of_a_flag = before.startswith("-") and "=" not in argument and before != "--multirun" and before != "-m"
        if not argument.startswith("-") and not of_a_flag:
            yield argument
        before = argument


def _open_plugin_folders(overrides: Sequence[Override], arguments: Sequence[str]) -> None:
    named = [override for override in overrides if override.key_or_group == "plugins"]
    if any(override.is_sweep_override() for override in named):
        raise ConfigError(f"{named[0].input_line}: plugins cannot be swept over; several folders are plugins=[A,B]")
    folders = [conf for override in named for each in folders_of(override.value()) if (conf := conf_of(each, CONF))]
    PluginFolders.folders = (*map(str, folders), *_search_path(overrides), *_config_dirs(arguments))
    Plugins.instance().register(PluginFolders)


def _warn_of_unchecked(overrides: Sequence[Override], trees: Iterable[dict[str, Any]]) -> None:
    """Prints which settings of the user's own plug-ins are not checked: once a command, not again in a sweep's jobs.

    That all settings of our own plug-ins are checked is a test.
    """
    folders = [folder for each in overrides if each.key_or_group == "plugins" for folder in folders_of(each.value())]
    modules = open_folders(folders)
    named = {(group, str(tree[group].get("_target_"))) for tree in trees for group in GROUPS}
    named |= {(group, str(each.value())) for each in overrides for group in GROUPS
              if each.key_or_group == f"{group}._target_"}  # fmt: skip
    for group, target in sorted(named):
        if target.rpartition(".")[0] in modules:
            for warning in unchecked_arguments(group, target, RUN_ARGUMENTS.get(group, ())):
                print(f"warning: {warning}", file=sys.stderr)


def _search_path(overrides: Sequence[Override]) -> Iterator[str]:
    """The folders of `hydra.searchpath=`, which Hydra itself reads only when it composes, later than this check."""
    for override in overrides:
        paths = override.value() if override.key_or_group == "hydra.searchpath" else None
        if isinstance(paths, list):
            yield from map(str, paths)


def _config_dirs(arguments: Sequence[str]) -> list[str]:
    flags = [text.partition("=") for text in arguments if text.startswith(_CONFIG_DIR)]
    follows = [after for flag, after in itertools.pairwise(arguments) if flag in _CONFIG_DIR]
    return [str(Path(name).absolute()) for name in [*(value for _, _, value in flags if value), *follows]]


def _groups(loader: ConfigLoader) -> Iterator[str]:
    for group in loader.list_groups(""):
        yield group
    for group in loader.list_groups("hydra"):
        yield f"hydra/{group}"


def _choices(override: Override, options: list[str]) -> list[Any]:
    """The values that the override sets: one, or those of a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(options)
    if not isinstance(value, ChoiceSweep):
        return [value]
    return [one.text if isinstance(one, QuotedString) else one for one in value.list]


def _check_option(override: Override, groups: dict[str, list[str]]) -> None:
    group, options = override.key_or_group, groups[override.key_or_group]
    if override.is_delete() or group == "hydra":
        return
    if override.is_add():
        raise ConfigError(f"+{group}: the group exists already; choose with {group}=..., without the +")
    choices = _choices(override, options)
    if not choices:
        raise ConfigError(f"{override.input_line}: no option of {group} matches; known are {', '.join(options)}")
    for choice in choices:
        if choice is None and group == "experiment":
            raise ConfigError("experiment=null: for none of them write experiment=[], or leave it out")
        if choice is None:
            raise ConfigError(f"{group}=null: an option is needed; known are {', '.join(options)}")
        if not isinstance(choice, (str, int, float)) or str(choice) in options:
            continue
        near = closest(str(choice), options)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(options)}"
        raise ConfigError(f"{group}={choice} is no option of {group}; {hint}")


def _compositions(chosen: Sequence[Override], groups: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config of each choice of a sweep, beside the first choices of the other groups; before it, the choice."""
    variants = [[_fixed(override, choice) for choice in _choices(override, groups[override.key_or_group])]
                for override in chosen]  # fmt: skip
    for label, job in in_turn(variants):
        tree: Any = OmegaConf.to_container(_composed(job), resolve=False)
        yield label, tree


def _fixed(override: Override, choice: Any) -> str:
    if override.is_delete():
        return str(override.input_line)
    return f"{override.get_key_element()}={'null' if choice is None else choice}"


def _composed(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides)
    except (HydraException, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, sections included; an empty mapping, which takes any key, once more with `.*` after it."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.") if value else (f"{prefix}{key}.*",)


def _check_key(override: Override, compositions: dict[str, set[str]], groups: Sequence[str]) -> None:
    """Raises ConfigError unless the key exists with every choice that the command line makes."""
    key, known = override.key_or_group, set().union(*compositions.values())
    if key.startswith("hydra.") or any(f"{parent}.*" in known for parent in _parents(key)):
        return
    if f"{key}.*" in known:
        return _check_mapping(override)
    if key not in known and key in _ELSEWHERE:
        raise ConfigError(_ELSEWHERE[key])
    if key not in known and key.rpartition(".")[2] in ("lr", "learning_rate"):
        raise ConfigError(f"{key} is no key; set scheduler.max_lr (a number, or find)")
    if key not in known:
        raise UnknownKey(key, sorted(name for name in known | set(groups) if "*" not in name))
    for label, keys in compositions.items():
        if key not in keys:
            raise ConfigError(f"{key} is no key with {label}; every job of a sweep gets it, so each must have it")
    if override.is_add():
        raise ConfigError(f"+{key}: the key exists already; set it with {key}=..., without the +")


def _check_mapping(override: Override) -> None:
    """Raises ConfigError where new keys of an empty mapping are set without a +: Hydra would refuse to add them."""
    if isinstance(override.value(), dict) and not (override.is_add() or override.is_force_add()):
        raise ConfigError(f"{override.input_line}: new keys of a mapping are added with +{override.input_line}")


def _parents(key: str) -> Iterator[str]:
    parts = key.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])
