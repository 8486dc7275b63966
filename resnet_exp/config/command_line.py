"""The check of the command line before Hydra composes it: an unknown key or option is answered with the nearest one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from resnet_exp.config.choices import Choices, Tree, keys_of, refuse_hidden
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import GROUPS, NO_OPTIMIZER_LR, RUN_ARGUMENTS
from resnet_exp.config.hydra_flags import CommandLine
from resnet_exp.config.hydra_section import check_section
from resnet_exp.config.overrides import parsed
from resnet_exp.config.plugin_args import unchecked_arguments
from resnet_exp.config.plugin_folders import conf_of, consented_folders, folders_of, open_folders
from resnet_exp.config.quoting import as_text, hint, readable
from resnet_exp.config.references import check_references
from resnet_exp.config.secrets import strike_override
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.interfaces import ConfigError

# Keys that people look for where they are not.
_UNTRACKED = "would be ignored: the tracker that is chosen has no such setting; leave it out"
_ELSEWHERE = {
    "optimizer.lr": NO_OPTIMIZER_LR,
    "tracker.uri": f"tracker.uri {_UNTRACKED}",
    "tracker.experiment": f"tracker.experiment {_UNTRACKED}",
}


class PluginFolders(SearchPathPlugin):
    """Appends the `conf/` of each folder that `plugins=` names to Hydra's search path, so that ours comes first.

    After them come the folders that Hydra itself appends only when it runs, later than the check.
    """

    folders: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the folders; Hydra calls it whenever it makes a search path."""
        for folder in self.folders:
            search_path.append("plugins", folder if "://" in folder else f"file://{folder}")


def check(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments, ready for Hydra: every override names a key that exists, or an option of its group.

    Some values are in quotes that were not before, see `quoting`, and secrets are struck out, see `secrets`. From here
    on the folders that `plugins=` names are on Hydra's search path. Of a command that only shows something, as `--help`
    does, the choices alone are checked. The values are checked when the config is composed.

    Raises:
        ConfigError: an override names something else, cannot be read, or would be ignored.
    """
    if "--version" in arguments or (line := CommandLine.of(arguments)).completes:
        return list(arguments)
    overrides = {text: _parsed(as_text(_parsed(readable(text)), [{}])) for text in line.overrides}
    plugins = _open_search_path(line, list(overrides.values()))
    with initialize_config_search_path([line.source]):
        choices = Choices(line, list(overrides.values()))
        trees = choices.compositions()
        for tree in trees.values():
            _check_trust(line, tree, list(overrides.values()), plugins)
        if line.only_shows:
            return list(arguments)
        _check_of_hydra(line, trees, overrides)
    compositions = {label: set(keys_of(tree)) for label, tree in trees.items()}
    for override in overrides.values():
        if override.key_or_group not in choices.groups:
            _check_key(override, compositions, list(choices.groups))
    _warn_of_unchecked(list(overrides.values()), plugins, trees.values())
    texts = {text: strike_override(as_text(override, list(trees.values()))) for text, override in overrides.items()}
    return [texts.get(argument, argument) for argument in arguments]


def _parsed(text: str) -> Override:
    try:
        return parsed(text)
    except ConfigError as error:
        raise ConfigError("; ".join(filter(None, [str(error), hint(text)]))) from error


def _open_search_path(line: CommandLine, overrides: Sequence[Override]) -> list[Path]:
    """Puts the folders of the command line, or else of its primary config, on the search path; returns the plug-ins."""
    primary = line.primary()
    named = [override for override in overrides if override.key_or_group == "plugins"]
    if any(override.is_sweep_override() for override in named):
        raise ConfigError(f"{named[0].input_line}: plugins cannot be swept over; several folders are plugins=[A,B]")
    folders = [folder for override in named for folder in folders_of(override.value())]
    if not named:  # else what a yaml says is replaced, or `typed` refuses it
        consented_folders(_plain(primary, "plugins"), line.overrides)
    paths = next((each.value() for each in overrides if each.key_or_group == "hydra.searchpath"), None)
    paths = _plain(primary, "hydra.searchpath") if paths is None else paths
    PluginFolders.folders = (
        *(str(conf) for folder in folders if (conf := conf_of(folder, CONF))),
        *((str(line.config_dir),) if line.config_dir else ()),
        *(map(str, paths) if isinstance(paths, list) else ()),
    )
    Plugins.instance().register(PluginFolders)
    return folders


def _plain(config: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _hint(line: CommandLine) -> str:
    """What to do where the user's own primary config lacks a setting of ours."""
    return f", and begin the defaults of {line.config_name}.yaml with `- config`" if line.has_own_config else ""


def _check_trust(line: CommandLine, tree: Tree, overrides: Sequence[Override], plugins: Sequence[Path]) -> None:
    """Raises ConfigError where a yaml does more than set values: one from somebody else then runs and sends nothing."""
    check_section(tree["hydra"], overrides, _hint(line))
    check_references(tree, overrides, plugins)
    if not any(override.key_or_group == "plugins" for override in overrides):
        consented_folders(tree.get("plugins"), ())


def _check_of_hydra(line: CommandLine, trees: dict[str, Tree], overrides: Mapping[str, Override]) -> None:
    """Raises ConfigError for what Hydra itself would ignore, do beside the run, or refuse less clearly."""
    hydra = next(iter(trees.values()))["hydra"]
    own = _hint(line)
    if hydra["job"]["chdir"]:
        raise ConfigError(
            "hydra.job.chdir=true would move the run to another folder, where relative paths, such as output_dir and "
            "the tracker's store, mean others than in the command; leave it out"
        )
    if hydra["run"]["dir"] != ".":
        raise ConfigError(
            f"hydra.run.dir={hydra['run']['dir']} would be ignored: runs are in output_dir; leave it out{own}"
        )
    if hydra["output_subdir"] is not None:
        raise ConfigError(
            f"hydra.output_subdir={hydra['output_subdir']}: that copy of the config would have the passwords in it; "
            f"leave it out: the run directory has one without them{own}"
        )
    folders = [Path(folder.removeprefix("file://")) for folder in (line.config_path, *PluginFolders.folders)]
    for tree in trees.values():
        refuse_hidden(tree, folders)
    if line.is_multirun or line.is_named_sweep or line.shows_config or hydra["mode"] == "MULTIRUN":
        return
    for text, override in overrides.items():
        if override.is_sweep_override():
            is_list = override.value_type == ValueType.SIMPLE_CHOICE_SWEEP
            as_list = f"{override.get_key_element()}=[{override.get_value_string()}]"
            raise ConfigError(
                f"{text}: these are the values of a sweep, which needs --multirun; "
                f"{f'a list is typed {shlex.quote(as_list)}; ' if is_list else ''}{hint(text)}"
            )


def _warn_of_unchecked(overrides: Sequence[Override], folders: Sequence[Path], trees: Iterable[Tree]) -> None:
    """Prints which settings of the user's own plug-ins are not checked: once a command, not again in a sweep's jobs.

    That all settings of our own plug-ins are checked is a test.
    """
    modules = open_folders(folders)
    named = {
        (group, str(tree[group].get("_target_")))
        for tree in trees
        for group in GROUPS
        if isinstance(tree.get(group), dict)
    }
    named |= {(group, str(each.value())) for each in overrides for group in GROUPS
              if each.key_or_group == f"{group}._target_"}  # fmt: skip
    for group, target in sorted(named):
        if target.rpartition(".")[0] in modules:
            for warning in unchecked_arguments(group, target, RUN_ARGUMENTS.get(group, ())):
                print(f"warning: {warning}", file=sys.stderr)


def _check_key(override: Override, compositions: dict[str, set[str]], groups: Sequence[str]) -> None:
    """Raises ConfigError unless the key exists with every choice that the command line makes."""
    key, known = override.key_or_group.partition("[")[0], set().union(*compositions.values())
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
