"""The command line, checked before Hydra composes it: every key and option is known, or the nearest one is named."""

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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

import resnet_exp
from resnet_exp.config.config import GROUPS, NO_OPTIMIZER_LR, RUN_ARGUMENTS, typed
from resnet_exp.config.plugin_args import unchecked_arguments
from resnet_exp.config.plugin_folders import conf_of, folders_of, open_folders
from resnet_exp.config.suggest import UnknownKey, nearest
from resnet_exp.interfaces import ConfigError

_PACKAGE = Path(resnet_exp.__file__).resolve().parent
# At the top of the repository; inside the package once a wheel is installed.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
# With these Hydra shows something and runs nothing.
_SHOWS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i"}
_COMPLETION = {"--shell-completion", "-sc"}
_CONFIG_DIR = ("--config-dir", "-cd")
_MOST_VALUES = 100  # of a sweep over one key that are tried beforehand
# What people look for elsewhere.
_UNTRACKED = "would be ignored: the tracker that is chosen has no such setting; leave it out"
_ELSEWHERE = {
    "optimizer.lr": NO_OPTIMIZER_LR,
    "tracker.uri": f"tracker.uri {_UNTRACKED}",
    "tracker.experiment": f"tracker.experiment {_UNTRACKED}",
}


class PluginFolders(SearchPathPlugin):
    """Puts the `conf/` of each folder that `plugins=` names behind ours on Hydra's search path."""

    folders: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends them."""
        for folder in self.folders:
            search_path.append("plugins", folder if "://" in folder else f"file://{folder}")


def check(arguments: Sequence[str]) -> None:
    """Raises ConfigError unless every override names a key, and every group's choice an option, that is there.

    From here on the folders that `plugins=` names are on Hydra's search path. Of a command that only shows something,
    the choices are checked.
    """
    if _COMPLETION & set(arguments):
        return
    overrides = [_parsed(text) for text in _overrides(arguments)]
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
        if any(override.is_sweep_override() for override in overrides):
            _check_sweep(overrides)
        _warn_of_unchecked(overrides, trees.values())


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the command names a sweep, as `sweep=peak_epoch`, and says no mode itself."""
    overrides = list(_overrides(arguments))
    named = any(text.startswith("sweep=") and text != "sweep=default" for text in overrides)
    mode = {"--multirun", "-m"} & set(arguments) or any(text.startswith("hydra.mode=") for text in overrides)
    return named and not mode and not _SHOWS & set(arguments) and not any(text in ("--cfg", "-c") for text in arguments)


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments that are no flags, nor what follows a flag."""
    before = ""
    for argument in arguments:
        of_a_flag = before.startswith("-") and "=" not in argument and before != "--multirun" and before != "-m"
        if not argument.startswith("-") and not of_a_flag:
            yield argument
        before = argument


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{text}: key=value is needed, and this cannot be read ({reason})") from error


def _open_plugin_folders(overrides: Sequence[Override], arguments: Sequence[str]) -> None:
    named = [override for override in overrides if override.key_or_group == "plugins"]
    if any(override.is_sweep_override() for override in named):
        raise ConfigError(f"{named[0].input_line}: plugins cannot be swept over; several folders are plugins=[A,B]")
    folders = [conf for override in named for each in folders_of(override.value()) if (conf := conf_of(each, CONF))]
    PluginFolders.folders = (*map(str, folders), *_search_path(overrides), *_config_dirs(arguments))
    Plugins.instance().register(PluginFolders)


def _warn_of_unchecked(overrides: Sequence[Override], trees: Iterable[dict[str, Any]]) -> None:
    """Prints which settings of the user's own plug-ins are not checked: here, so once a command, and not in its jobs.

    Of ours a test holds that all are.
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
    """What the user puts on Hydra's search path: Hydra itself reads it when it composes, later than here."""
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
    """What the override sets: one value, or those of a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(options)
    return list(value.list) if isinstance(value, ChoiceSweep) else [value]


def _check_option(override: Override, groups: dict[str, list[str]]) -> None:
    group, options = override.key_or_group, groups[override.key_or_group]
    if override.is_delete() or group == "hydra":
        return
    if override.is_add():
        raise ConfigError(f"+{group}: the group is there already; choose with {group}=..., without the +")
    choices = _choices(override, options)
    if not choices:
        raise ConfigError(f"{override.input_line}: no option of {group} is like that; known are {', '.join(options)}")
    for choice in choices:
        if choice is None and group != "experiment":
            raise ConfigError(f"{group}=null: an option is needed; known are {', '.join(options)}")
        if choice is None or not isinstance(choice, (str, int, float)) or str(choice) in options:
            continue
        near = nearest(str(choice), options)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(options)}"
        raise ConfigError(f"{group}={choice} is no option of {group}; {hint}")


def _compositions(chosen: Sequence[Override], groups: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config with the choices; of a sweep's choices each in turn, beside the first ones of the other groups."""
    variants = [[_fixed(override, choice) for choice in _choices(override, groups[override.key_or_group])]
                for override in chosen]  # fmt: skip
    for label, job in _in_turn(variants):
        tree: Any = OmegaConf.to_container(_composed(job), resolve=False)
        yield label, tree


def _in_turn(variants: list[list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Jobs: each variant of an override beside the first ones of the others; with what tells the job from the first."""
    firsts = [each[0] for each in variants]
    yield " ".join(firsts), firsts
    for place, each in enumerate(variants):
        for other in each[1:]:
            yield other, [*firsts[:place], other, *firsts[place + 1 :]]


def _fixed(override: Override, choice: Any) -> str:
    text = str(override.input_line)
    return text if override.is_delete() else f"{text.partition('=')[0]}={'null' if choice is None else choice}"


def _composed(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides)
    except (HydraException, ValueError) as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, those of sections too; an empty mapping, open for any key, once more with `.*` behind it."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.") if value else (f"{prefix}{key}.*",)


def _check_key(override: Override, compositions: dict[str, set[str]], groups: Sequence[str]) -> None:
    """Raises ConfigError unless the key is there with every choice of the command line's groups."""
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
        raise ConfigError(f"+{key}: the key is there already; set it with {key}=..., without the +")


def _check_mapping(override: Override) -> None:
    """An empty mapping takes any key, but Hydra adds none without a +."""
    if isinstance(override.value(), dict) and not (override.is_add() or override.is_force_add()):
        raise ConfigError(f"{override.input_line}: what is new in a mapping is added with +{override.input_line}")


def _check_sweep(overrides: Sequence[Override]) -> None:
    """Raises ConfigError where a value that is swept over cannot work: no job is run before all are known to be sound.

    Each value is tried beside the first ones of the others; what cannot be listed (an interval, a glob) is left out.
    """
    values = [list(_values(override)) for override in overrides if not override.key_or_group.startswith("hydra")]
    for _, job in _in_turn([each for each in values if each]):
        typed(_composed(job), job)


def _values(override: Override) -> Iterator[str]:
    if not override.is_sweep_override():
        yield str(override.input_line)
    elif override.is_discrete_sweep() and not isinstance(override.value(), Glob):
        for value in itertools.islice(override.sweep_string_iterator(), _MOST_VALUES):
            yield f"{override.get_key_element()}={value}"


def _parents(key: str) -> Iterator[str]:
    parts = key.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])
