"""The command line, checked before Hydra composes it: every key and option is known, or the nearest one is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from resnet_exp.arguments import nearest, unknown_key
from resnet_exp.config import NO_OPTIMIZER_LR
from resnet_exp.interfaces import ConfigError
from resnet_exp.plugin_folders import conf_of, folders_of

_HERE = Path(__file__).resolve().parent
# At the top of the repository; inside the package once a wheel is installed.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
# With these Hydra shows something and runs nothing.
_SHOWS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
_CONFIG_DIR = ("--config-dir", "-cd")
# What people look for elsewhere.
_ELSEWHERE = {"optimizer.lr": NO_OPTIMIZER_LR}


class PluginFolders(SearchPathPlugin):
    """Puts the `conf/` of each folder that `plugins=` names behind ours on Hydra's search path."""

    folders: tuple[Path, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends them."""
        for folder in self.folders:
            search_path.append("plugins", f"file://{folder}")


def check(arguments: Sequence[str]) -> None:
    """Raises ConfigError unless every override names a key, and every group's choice an option, that is there.

    From here on the folders that `plugins=` names are on Hydra's search path.
    """
    if _SHOWS & set(arguments):
        return
    overrides = [_parsed(text) for text in _overrides(arguments)]
    _open_plugin_folders(overrides, arguments)
    with initialize_config_dir(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        groups = {group: loader.get_group_options(group) for group in _groups(loader)}
        chosen = [override for override in overrides if override.key_or_group in groups]
        for override in chosen:
            _check_option(override, groups)
        known = set().union(*(_keys(tree) for tree in _compositions(chosen)))
    for override in overrides:
        if override.key_or_group not in groups:
            _check_key(override, known, list(groups))


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
    named = [override.value() for override in overrides if override.key_or_group == "plugins"]
    folders = [conf for value in named for folder in folders_of(value) if (conf := conf_of(folder, CONF))]
    flags = [text.partition("=") for text in arguments if text.startswith(_CONFIG_DIR)]
    follows = [after for flag, after in itertools.pairwise(arguments) if flag in _CONFIG_DIR]
    folders += [Path(name).absolute() for name in [*(value for _, _, value in flags if value), *follows]]
    PluginFolders.folders = tuple(folders)
    Plugins.instance().register(PluginFolders)


def _groups(loader: ConfigLoader) -> Iterator[str]:
    for group in loader.list_groups(""):
        yield group
    for group in loader.list_groups("hydra"):
        yield f"hydra/{group}"


def _choices(override: Override) -> list[Any]:
    """What the override sets: one value, or those of a sweep."""
    value = override.value()
    return list(value.list) if isinstance(value, ChoiceSweep) else [value]


def _check_option(override: Override, groups: dict[str, list[str]]) -> None:
    group = override.key_or_group
    if override.is_delete() or group == "hydra":
        return
    if override.is_add():
        raise ConfigError(f"+{group}: the group is there already; choose with {group}=..., without the +")
    for choice in _choices(override):
        options = groups[group]
        if choice is None or not isinstance(choice, (str, int, float)) or str(choice) in options:
            continue
        near = nearest(str(choice), options)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(options)}"
        raise ConfigError(f"{group}={choice} is no option of {group}; {hint}")


def _compositions(chosen: Sequence[Override]) -> Iterator[dict[str, Any]]:
    """The config with the choices; of a sweep's choices each in turn, beside the first ones of the other groups."""
    variants = [[_fixed(override, choice) for choice in _choices(override)] for override in chosen]
    firsts = [each[0] for each in variants]
    yield _composed(firsts)
    for place, each in enumerate(variants):
        for other in each[1:]:
            yield _composed([*firsts[:place], other, *firsts[place + 1 :]])


def _fixed(override: Override, choice: Any) -> str:
    text = str(override.input_line)
    return text if override.is_delete() else f"{text.partition('=')[0]}={'null' if choice is None else choice}"


def _composed(overrides: list[str]) -> dict[str, Any]:
    try:
        tree: Any = OmegaConf.to_container(compose("config", overrides=overrides), resolve=False)
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return tree


def _keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, those of sections too; an empty mapping, open for any key, once more with `.*` behind it."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.") if value else (f"{prefix}{key}.*",)


def _check_key(override: Override, known: set[str], groups: Sequence[str]) -> None:
    key = override.key_or_group
    if key in _ELSEWHERE:
        raise ConfigError(_ELSEWHERE[key])
    if key.startswith("hydra.") or any(f"{parent}.*" in known for parent in _parents(key)):
        return
    if key not in known:
        raise ConfigError(unknown_key(key, sorted(name for name in known | set(groups) if "*" not in name)))
    if override.is_add():
        raise ConfigError(f"+{key}: the key is there already; set it with {key}=..., without the +")


def _parents(key: str) -> Iterator[str]:
    parts = key.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])
