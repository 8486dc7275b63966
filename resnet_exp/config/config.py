"""The composed config as typed and checked values; torch is not imported, so that a wrong value costs a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config.overrides import is_within, key_of
from resnet_exp.config.plugin_args import checked_settings
from resnet_exp.config.plugin_folders import folders_of, open_folders
from resnet_exp.config.redact import redact
from resnet_exp.config.schema import (
    RangeTestConfig,
    ReportConfig,
    SplitConfig,
    SweepConfig,
    TopLevelConfig,
    TrackerConfig,
    TrainConfig,
    from_values,
)
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.config.unused import refuse_unused
from resnet_exp.interfaces import ConfigError

# Where each group's plug-ins live: `<package>.<module>.<name>`. Never torch.* or the like: that would let a config run
# anything.
PACKAGES = {
    "data": "resnet_exp.data",
    "model": "resnet_exp.models",
    "augmentation": "resnet_exp.augmentation",
    "optimizer": "resnet_exp.optimizers",
    "scheduler": "resnet_exp.schedulers",
}
GROUPS = tuple(PACKAGES)
_CORE_GROUPS = ("range_test", "train", "report", "tracker", "sweep")
NO_OPTIMIZER_LR = "optimizer.lr: optimizers have no lr here; set scheduler.max_lr (a number, or find)"
# What the run tells a plug-in beside its settings.
GIVEN = {"model": ("num_classes", "in_channels", "image_size")}


@dataclass(frozen=True)
class Config:
    """One run's settings: core keys typed and checked; the plug-ins' own as plain values, with their `_target_`."""

    task: str
    name: str | None
    seed: int
    device: str
    output_dir: str
    rerun: bool
    checkpoint: str | None
    images: str | None
    predictions: str
    run_dir: str | None
    split: SplitConfig
    range_test: RangeTestConfig
    train: TrainConfig
    report: ReportConfig
    tracker: TrackerConfig
    sweep: SweepConfig
    plugins: dict[str, dict[str, Any]]  # by group; what each plug-in is made of
    plugin_folders: tuple[Path, ...]  # the user's own
    plugin_modules: tuple[str, ...]  # in these folders: what a `_target_` may name beside our packages
    short_names: dict[str, str]  # by group; what its choice is called
    overrides: tuple[str, ...]  # of the command line
    tree: dict[str, Any]  # the whole resolved config as it is recorded; secrets are struck out

    @property
    def needs_range_test(self) -> bool:
        finds = self.plugins["scheduler"].get("max_lr") == "find"
        return self.task == "range_test" or (self.task == "train" and finds)

    @property
    def title(self) -> str:
        """What the run directory's name begins with."""
        names = self.short_names
        if self.task == "evaluate":
            return f"{self.name or names['data']}-evaluate"
        name = self.name or f"{names['data']}-{names['model']}-{names['scheduler']}"
        return f"{name}-range_test" if self.task == "range_test" else name

    def is_set(self, *sections: str) -> bool:
        """Whether the command line sets one of these keys or groups, or a key below them."""
        return any(is_within(key_of(text), *sections) for text in self.overrides)


def typed(cfg: DictConfig, overrides: Sequence[str] = (), choices: Mapping[str, Any] | None = None) -> Config:
    """The composed config, checked; the modules of the user's plug-in folders can be imported from here on.

    Args:
        cfg: as Hydra composed it.
        overrides: the command line's.
        choices: the option chosen of each group; without them a choice is called by its module.

    Raises:
        ConfigError: a missing, unknown or wrong key, or one that would be ignored.
    """
    tree = _resolved(cfg)
    for section in (*GROUPS, *_CORE_GROUPS):
        if not isinstance(tree.get(section), dict):
            raise ConfigError(f"{section}={tree.get(section)}: an option is needed; choose one with {section}=...")
    plugins = {group: dict(tree[group]) for group in GROUPS}
    sections = {*GROUPS, *_CORE_GROUPS}
    top = asdict(from_values(TopLevelConfig, "", {key: tree[key] for key in tree if key not in sections}))
    folders = folders_of(top.pop("plugins"))
    modules = open_folders(folders)
    split = {key: plugins["data"].pop(key, None) for key in SplitConfig.__dataclass_fields__}
    for group, plugin in plugins.items():
        try:
            plugins[group] = checked_plugin(group, plugin, modules)
        except UnknownKey as error:
            raise ConfigError(f"{error}{_by_an_experiment(error.key, overrides, choices or {})}") from error
    config = Config(
        **top,
        split=from_values(SplitConfig, "data.", split),
        range_test=from_values(RangeTestConfig, "range_test.", tree["range_test"]),
        train=from_values(TrainConfig, "train.", tree["train"]),
        report=from_values(ReportConfig, "report.", tree["report"]),
        tracker=from_values(TrackerConfig, "tracker.", tree["tracker"]),
        sweep=from_values(SweepConfig, "sweep.", tree["sweep"]),
        plugins=plugins,
        plugin_folders=tuple(folders),
        plugin_modules=modules,
        short_names=_short_names(plugins, choices or {}),
        overrides=tuple(overrides),
        tree=_without_secrets(tree),
    )
    refuse_unused(config.task, overrides, plugins, vars(config.report))
    if config.task == "evaluate" and overrides and not config.is_set("data", "experiment"):
        raise ConfigError("task=evaluate needs data=...: the data set whose test images are measured")
    return config


def as_recorded(tree: dict[str, Any], command: Config) -> Config:
    """The config of a run, of which `tree` is the config.yaml, with what the command line sets of its surroundings.

    Raises:
        ConfigError: the run's plug-ins are not found, or the tracker's password, which no config keeps, is not given.
    """
    whole = {**command.tree, **tree, "report": command.tree["report"]}
    for key in ("tracker", "plugins"):
        if command.is_set(key):
            whole[key] = command.tree[key]
    if command.is_set("data.root"):
        whole["data"] = {**whole["data"], "root": command.tree["data"]["root"]}
    if "***" in str(whole["tracker"].get("uri")):
        raise ConfigError(
            f"tracker.uri={whole['tracker']['uri']}: a config keeps no password; give tracker.uri=..., or tracker=none"
        )
    return typed(OmegaConf.create(whole))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tree's leaves by dotted key: `{"train.epochs": 24, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return leaves


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"{missing[0]} has no default and must be given: {missing[0]}=...")
        tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(tree, dict)
    return tree


def checked_plugin(group: str, plugin: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The plug-in's settings with values of its own types; what `_target_` leads to `build` sees when it imports it.

    Raises:
        ConfigError: it names what the group may not name, or has values that it does not take, or that are not plain.
    """
    target = str(plugin.get("_target_"))
    ours = re.fullmatch(rf"{re.escape(PACKAGES[group])}\.[a-z]\w*\.[A-Za-z]\w*", target)
    if not ours and target.rpartition(".")[0] not in modules:
        where = " or ".join([PACKAGES[group], *modules])
        raise ConfigError(
            f"{group}._target_={target}: a name in {where} is needed; choose one with {group}=..., or name the folder "
            "that holds yours with plugins=DIR"
        )
    if "lr" in plugin and group == "optimizer":
        raise ConfigError(NO_OPTIMIZER_LR)
    for key, value in plugin.items():
        special = [inner for inner in (key, *_keys_within(value)) if inner.startswith("_") and key != "_target_"]
        if special:
            raise ConfigError(
                f"{group}.{key}: {special[0]} is not taken: a plug-in's values are plain, no _target_ makes them"
            )
        if "${" in str(value):  # it would be resolved after this check
            raise ConfigError(f"{group}.{key}={value}: a plain value is needed, not one that ${{...}} stands for")
    settings = {key: value for key, value in plugin.items() if key != "_target_"}
    return {"_target_": target, **checked_settings(group, target, settings, GIVEN.get(group, ()))}


def _by_an_experiment(key: str, overrides: Sequence[str], choices: Mapping[str, Any]) -> str:
    """What to do about a key that a group's other option had, and the experiment sets."""
    if key in map(key_of, overrides) or not choices.get("experiment"):
        return ""
    return f"; experiment={choices['experiment']} sets it, and ~{key} takes it out"


def _short_names(plugins: dict[str, dict[str, Any]], choices: Mapping[str, Any]) -> dict[str, str]:
    """What each group's choice is called: its yaml, or else the module of what it names."""
    return {group: str(choices.get(group) or module_of(plugin)) for group, plugin in plugins.items()}


def module_of(plugin: dict[str, Any]) -> str:
    """The name of the module that a plug-in is in, without its packages."""
    return str(plugin["_target_"]).split(".")[-2]


def _keys_within(value: Any) -> Iterator[str]:
    """The keys of all mappings in a value, however deep."""
    if isinstance(value, dict):
        yield from map(str, value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_within(item)
