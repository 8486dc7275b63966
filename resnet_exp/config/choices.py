"""The configs that a command line composes, one for each choice of a group; and whether each choice is an option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from resnet_exp.config.hydra_flags import CommandLine
from resnet_exp.config.hydra_section import Tree, check_overrides
from resnet_exp.config.overrides import in_turn
from resnet_exp.config.quoting import readable
from resnet_exp.config.suggest import UnknownKey, closest
from resnet_exp.interfaces import ConfigError

# What composing raises: KeyError for a variable of hydra.job.env_copy that is not there, RecursionError for a yaml that
# nests too deep.
_FAULTS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError, KeyError, RecursionError)


class Choices:
    """The choices of a command line among the options that Hydra, which is initialised, finds on its search path.

    Args:
        line: the command line.
        overrides: its overrides, parsed.

    Raises:
        ConfigError: a choice is no option of its group.
    """

    def __init__(self, line: CommandLine, overrides: Sequence[Override]) -> None:
        self._line = line
        self._loader: Any = GlobalHydra.instance().config_loader()
        self.groups = {group: self._options(group) for group in _groups(self._loader)}
        nested = {each.key_or_group for each in overrides if "/" in each.key_or_group} - self.groups.keys()
        self.groups |= {group: options for group in sorted(nested) if (options := self._options(group))}
        self._made = [override for override in overrides if override.key_or_group in self.groups]
        self._of_hydra = [str(each.input_line) for each in overrides if each.key_or_group.startswith("hydra.")]
        for override in self._made:
            self._check(override)

    def compositions(self) -> dict[str, Tree]:
        """Returns the config of each choice of a sweep, beside the first choices of the other groups, by the choice.

        Keys that are set are not in them, but for Hydra's own.

        Raises:
            ConfigError: one cannot be composed.
        """
        variants = [[_fixed(override, choice) for choice in self._chosen(override)] for override in self._made]
        return {label: self._composed(job) for label, job in in_turn(variants)}

    def _options(self, group: str) -> list[str]:
        options: list[str] = self._loader.get_group_options(group)
        return options

    def _chosen(self, override: Override) -> list[Any]:
        """The values that the override sets: one, or those of a sweep."""
        value = override.value()
        if isinstance(value, Glob):
            return value.filter(self.groups[override.key_or_group])
        if not isinstance(value, ChoiceSweep):
            return [value]
        return [one.text if isinstance(one, QuotedString) else one for one in value.list]

    def _check(self, override: Override) -> None:
        group = override.key_or_group
        if override.is_delete() or group == "hydra":
            return
        options, choices = self.groups[group], self._chosen(override)
        if not choices:
            raise ConfigError(f"{override.input_line}: no option of {group} matches; known are {', '.join(options)}")
        for choice in choices:
            if choice is None and group == "experiment":
                raise ConfigError("experiment=null: for none of them write experiment=[], or leave it out")
            if choice is None:
                raise ConfigError(f"{group}=null: an option is needed; known are {', '.join(options)}")
            if not isinstance(choice, (str, int, float)):
                continue
            folder, slash, _ = str(choice).rpartition("/")
            known = [*options, *(f"{folder}/{one}" for one in (self._options(f"{group}/{folder}") if slash else ()))]
            if str(choice) in known:
                continue
            near = closest(str(choice), known)
            told = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{group}={choice} is no option of {group}; {told}")

    def _composed(self, choices: Sequence[str]) -> Tree:
        try:
            tree = self._tree(*self._of_hydra, *choices)
        except _FAULTS as error:
            self._explain()
            told = " ".join(line.strip() for line in str(error).splitlines()[:2]).strip()
            if isinstance(error, MissingConfigException):
                told += "; if it is your own, plugins=DIR or --config-dir DIR names the folder that it lies in"
            raise ConfigError(told) from error
        typed = tree["hydra"]["overrides"]
        check_overrides([*typed["hydra"], *typed["task"]], [*self._of_hydra, *choices])
        return tree

    def _tree(self, *overrides: str) -> Tree:
        config = compose(self._line.config_name, overrides=list(overrides), return_hydra_config=True)
        tree: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        return tree

    def _explain(self) -> None:
        """Raises ConfigError for what the primary config, which can be composed by itself, does not let one choose."""
        name = self._line.config_name
        names = self._options("")
        if name.removesuffix(".yaml") not in names and "/" not in name:
            near = closest(name, names)
            raise ConfigError(
                f"--config-name {name}: there is no {name.removesuffix('.yaml')}.yaml in "
                f"{self._line.config_dir or self._line.config_path}; "
                + (f"did you mean {near}?" if near else "--config-dir names the folder that it lies in")
            )
        try:
            tree = self._tree()
        except _FAULTS:
            return  # it needs choices: Hydra says which
        known = tree["hydra"]["runtime"]["choices"]
        for override in self._made:
            group = override.key_or_group
            if override.is_add() and group in known:
                raise ConfigError(f"+{group}: the group exists already; choose with {group}=..., without the +")
            if not override.is_add() and group not in known and override.package is None:
                raise ConfigError(
                    f"{override.input_line}: {name}.yaml does not choose among the options of {group}, it has the keys "
                    f"themselves; change those, {group}.KEY=..., or start from a config that chooses"
                )
        keys = set(keys_of(tree["hydra"], "hydra."))
        for key in (text.lstrip("+~").partition("=")[0] for text in self._of_hydra if not text.startswith("+")):
            if key not in keys and f"{key.rpartition('.')[0]}.*" not in keys:
                raise UnknownKey(key, sorted(one for one in keys if "*" not in one))


def keys_of(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Yields every dotted key, sections included; an empty mapping, which takes any key, also as `KEY.*`."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.") if value else (f"{prefix}{key}.*",)


def refuse_hidden(tree: Tree, folders: Sequence[Path]) -> None:
    """Raises ConfigError for a yaml that was chosen, and that Hydra takes from another folder than the user's.

    Args:
        tree: a composed config, with its `hydra` section.
        folders: those with configs, in the order in which Hydra looks into them.
    """
    hydra = tree["hydra"]
    chosen = [f"{group}/{option}" for group, option in hydra["runtime"]["choices"].items() if isinstance(option, str)]
    for name in (str(hydra["job"]["config_name"]).removesuffix(".yaml"), *chosen):
        found = [path for folder in folders if (path := folder / f"{name}.yaml").is_file()]
        for other in found[1:]:
            if other.read_bytes() != found[0].read_bytes():
                raise ConfigError(f"{other} would be ignored: Hydra takes {found[0]}, of the same name; rename yours")


def _groups(loader: ConfigLoader) -> Iterator[str]:
    for group in loader.list_groups(""):
        yield group
    for group in loader.list_groups("hydra"):
        yield f"hydra/{group}"


def _fixed(override: Override, choice: Any) -> str:
    if override.is_delete():
        return str(override.input_line)
    return readable(f"{override.get_key_element()}={choice}")
