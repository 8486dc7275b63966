"""`Config`: the composed config as typed, checked values; without torch, so that a wrong value costs a second."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.config.overrides import NOTHING_OF_HYDRA, HydraArguments, command_of, is_within, key_of
from resnet_exp.config.plugin_args import checked_settings
from resnet_exp.config.plugin_folders import consented_folders, open_folders
from resnet_exp.config.redact import redact
from resnet_exp.config.schema import (
    MiniaturesConfig,
    RangeTestConfig,
    ReportConfig,
    SplitConfig,
    SweepConfig,
    TopLevelConfig,
    TrainConfig,
    from_values,
    range_test_from,
)
from resnet_exp.config.secrets import filled, without_secrets_of
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.config.unused import refuse_unused
from resnet_exp.interfaces import ConfigError, first_line

# The package of each group's plug-ins, `<package>.<module>.<name>`. Never torch.* or the like: a config could then run
# anything.
PACKAGES = {
    "data": "resnet_exp.data",
    "model": "resnet_exp.models",
    "augmentation": "resnet_exp.augmentation",
    "optimizer": "resnet_exp.optimizers",
    "scheduler": "resnet_exp.schedulers",
    "tracker": "resnet_exp.tracking",
}
GROUPS = tuple(PACKAGES)
_FIGURES = "resnet_exp.report.parts"
_CORE_GROUPS = ("range_test", "train", "report", "sweep")
NO_OPTIMIZER_LR = "optimizer.lr: optimizers have no lr here; set scheduler.max_lr (a number, or find)"
_NO_TRACKER = {"_target_": "resnet_exp.tracking.none.NoTracker"}
# Arguments that the run itself passes to a plug-in, besides its settings.
RUN_ARGUMENTS = {"model": ("num_classes", "in_channels", "image_size")}


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
    metrics: list[str]  # the user's own, `module.name`
    split: SplitConfig
    range_test: RangeTestConfig | MiniaturesConfig
    train: TrainConfig
    report: ReportConfig
    sweep: SweepConfig
    plugins: dict[str, dict[str, Any]]  # by group; the settings of each plug-in, with its `_target_`
    plugin_folders: tuple[Path, ...]  # the user's own
    plugin_modules: tuple[str, ...]  # in these folders; a `_target_` may name them besides our packages
    short_names: dict[str, str]  # by group; the name of the chosen option
    overrides: tuple[str, ...]  # of the command line
    hydra: HydraArguments  # what Hydra itself read besides
    tree: dict[str, Any]  # the whole resolved config as it is saved; passwords replaced by ***

    @property
    def needs_range_test(self) -> bool:
        finds = self.plugins["scheduler"].get("max_lr") == "find"
        return self.task == "range_test" or (self.task == "train" and finds)

    @property
    def title(self) -> str:
        """The first part of the run directory's name; the signature follows."""
        names = self.short_names
        if self.task == "evaluate":
            return f"{self.name or names['data']}-evaluate"
        name = self.name or f"{names['data']}-{names['model']}-{names['scheduler']}"
        return f"{name}-range_test" if self.task == "range_test" else name

    @property
    def command(self) -> str:
        """The command that runs this by itself, in the same folder, without passwords."""
        return command_of(self.overrides, self.hydra)

    def is_set(self, *sections: str) -> bool:
        """Whether the command line sets one of these keys or groups, or a key below them."""
        return any(is_within(key_of(text), *sections) for text in self.overrides)


def typed(
    cfg: DictConfig,
    overrides: Sequence[str] = (),
    choices: Mapping[str, Any] | None = None,
    hydra: HydraArguments = NOTHING_OF_HYDRA,
    plugin_folders: Sequence[Path] = (),
) -> Config:
    """The composed config, checked; from here on the modules of the user's plug-in folders can be imported.

    Args:
        cfg: as Hydra composed it.
        overrides: those of the command line.
        choices: the chosen option of each group; without them an option gets the name of its module.
        hydra: what Hydra itself read from the command line besides.
        plugin_folders: those that the command line names, where `overrides` are not its own.

    Raises:
        ConfigError: a missing, unknown or wrong key, one that would be ignored, or a folder that only a yaml names.
    """
    tree = without_secrets_of(_resolved(cfg))
    for section in (*GROUPS, *_CORE_GROUPS):
        if not isinstance(tree.get(section), dict):
            raise ConfigError(f"{section}={tree.get(section)}: an option is needed; choose one with {section}=...")
    _check_tracker(tree["tracker"])
    plugins = {group: filled(group, tree[group]) for group in GROUPS}
    sections = {*GROUPS, *_CORE_GROUPS}
    top = asdict(from_values(TopLevelConfig, "", {key: tree[key] for key in tree if key not in sections}))
    folders = consented_folders(top.pop("plugins"), overrides, plugin_folders)
    modules = open_folders(folders)
    report: ReportConfig = from_values(ReportConfig, "report.", tree["report"])
    _check_own("report.extra", report.extra, modules, _FIGURES)
    _check_own("metrics", top["metrics"], modules)
    # The keys that all data sets share are in the same yaml as the plug-in's own, which is not made with them.
    split = {key: plugins["data"].pop(key, None) for key in SplitConfig.__dataclass_fields__}
    for group, plugin in plugins.items():
        try:
            plugins[group] = checked_plugin(group, plugin, modules)
        except UnknownKey as error:
            raise ConfigError(f"{error}{_by_an_experiment(error.key, overrides, choices or {})}") from error
    config = Config(
        **top,
        split=from_values(SplitConfig, "data.", split),
        range_test=range_test_from(tree["range_test"]),
        train=from_values(TrainConfig, "train.", tree["train"]),
        report=report,
        sweep=from_values(SweepConfig, "sweep.", tree["sweep"]),
        plugins=plugins,
        plugin_folders=tuple(folders),
        plugin_modules=modules,
        short_names=_short_names(plugins, choices or {}),
        overrides=tuple(overrides),
        hydra=hydra,
        tree=_redacted(tree),
    )
    refuse_unused(config.task, overrides, plugins, vars(config.report))
    # Without it the checkpoint would be measured on the default data set, CIFAR-10.
    names_data = config.is_set("data", "experiment") or "--config-name" in hydra.flags or "--config-path" in hydra.flags
    if config.task == "evaluate" and overrides and not names_data:
        raise ConfigError("task=evaluate needs data=...: the data set whose test images are measured")
    return config


def as_recorded(tree: dict[str, Any], command: Config) -> Config:
    """The config of a finished run, with the report, tracker, plugins and folders of images of this command.

    The run's own tracker is a fact, on which nothing acts: without one in the command the config has `tracker=none`.
    Nothing is downloaded.

    Args:
        tree: the run's config.yaml, which may come from somebody else.
        command: the config of the command that redraws the report.

    Raises:
        ConfigError: the command does not name the run's plug-ins, or its images elsewhere.
    """
    whole = {**command.tree, **tree, "report": command.tree["report"], "tracker": _NO_TRACKER}
    if command.is_set("plugins"):
        whole["plugins"] = command.tree["plugins"]
    if command.is_set("tracker"):
        whole["tracker"] = command.plugins["tracker"]  # with its password, which the tree has not
    whole["data"] = _images(whole["data"], command)
    return typed(OmegaConf.create(whole), plugin_folders=command.plugin_folders)


def _images(recorded: Any, command: Config) -> dict[str, Any]:
    """The recorded settings of the data, with the folders of the command, where it names some.

    Raises:
        ConfigError: the run's are outside the working directory: whoever redraws it has to name them again.
    """
    if not isinstance(recorded, dict):
        raise ConfigError(f"config.yaml: data={recorded}: the settings of a data set are needed")
    data = dict(recorded)
    for key in [key for key in ("root", "cache") if data.get(key) is not None]:
        folder = os.path.abspath(os.path.expanduser(str(data[key])))
        if command.is_set(f"data.{key}"):
            data[key] = command.tree["data"][key]
        elif Path(folder).is_relative_to(Path.cwd()):
            continue
        elif key == "cache":  # made anew from the images, where it is by default
            data[key] = None
        else:
            raise ConfigError(
                f"data.root={data[key]}: the run's config names this folder, outside the working directory; if it is "
                f"yours, add {shlex.quote(f'data.root={data[key]}')}"
            )
    return {**data, "download": False} if "download" in data and not command.is_set("data.root") else data


def _check_tracker(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for how an earlier version named trackers, which only a recorded config does."""
    if "kind" in settings and "_target_" not in settings:
        others = [f" tracker.{key}={value}" for key, value in settings.items() if key != "kind" and value is not None]
        raise ConfigError(
            f"tracker.kind={settings['kind']}: an earlier version recorded the tracker so; "
            f"give tracker={settings['kind']}{''.join(others)}"
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tree's leaves by dotted key: `{"train.epochs": 24, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return leaves


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"{missing[0]} has no default and must be given: {missing[0]}=...")
        tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error
    assert isinstance(tree, dict)
    return tree


def checked_plugin(group: str, plugin: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The plug-in's settings, each checked against its type and range. Whether `_target_` exists is checked by `build`.

    Raises:
        ConfigError: `_target_` names what the group may not name, or a value is out of range or not plain.
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
                f"{group}.{key}: {special[0]} is not allowed: a plug-in's values are plain, none is made by a _target_"
            )
        if "${" in str(value):  # Hydra would resolve it after this check, to any value
            raise ConfigError(f"{group}.{key}={value}: a plain value is needed, not a reference ${{...}}")
    settings = {key: value for key, value in plugin.items() if key != "_target_"}
    return {"_target_": target, **checked_settings(group, target, settings, RUN_ARGUMENTS.get(group, ()))}


def _check_own(key: str, names: Sequence[str], modules: Sequence[str], package: str | None = None) -> None:
    """Raises ConfigError where a list names what is in none of the user's modules, nor in this package of ours."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        ours = package and re.fullmatch(rf"{re.escape(package)}\.[a-z]\w*", module)
        if not attribute.isidentifier() or not (ours or module in modules):
            where = " or ".join([*([f"{package}.*"] if package else []), *modules])
            raise ConfigError(
                f"{key}={name}: MODULE.NAME is needed{f', the module one of {where}' if where else ''}; name the "
                "folder that holds yours with plugins=DIR"
            )


def _by_an_experiment(key: str, overrides: Sequence[str], choices: Mapping[str, Any]) -> str:
    """What to do about a key that the experiment sets and the chosen option does not have; "" if it is another case."""
    if key in map(key_of, overrides) or not choices.get("experiment"):
        return ""
    return f"; experiment={choices['experiment']} sets it, and ~{key} takes it out"


def _short_names(plugins: dict[str, dict[str, Any]], choices: Mapping[str, Any]) -> dict[str, str]:
    """By group, the name of the chosen option: that of its yaml, or else of the plug-in's module."""
    return {group: str(choices.get(group) or module_of(plugin)) for group, plugin in plugins.items()}


def module_of(plugin: dict[str, Any]) -> str:
    """The name of a plug-in's module, without its packages."""
    return str(plugin["_target_"]).split(".")[-2]


def _keys_within(value: Any) -> Iterator[str]:
    """Yields the keys of all mappings in a value, at any depth."""
    if isinstance(value, dict):
        yield from map(str, value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_within(item)
