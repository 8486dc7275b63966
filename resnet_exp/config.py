"""The composed config as typed and checked values; torch is not imported, so that a wrong value costs a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.arguments import check_settings, unknown_key
from resnet_exp.interfaces import ConfigError
from resnet_exp.redact import redact
from resnet_exp.settings import (
    RangeTestConfig,
    SplitConfig,
    TopLevelConfig,
    TrackerConfig,
    TrainConfig,
    from_values,
)

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
# What the run tells a plug-in beside its settings.
GIVEN = {"model": ("num_classes", "in_channels", "image_size")}
_CORE_GROUPS = ("range_test", "train", "tracker")
NO_OPTIMIZER_LR = "optimizer.lr: optimizers have no lr here; set scheduler.max_lr (a number, or find)"


@dataclass(frozen=True)
class Config:
    """One run's settings: core keys typed and checked; the plug-ins' own as plain values, with their `_target_`."""

    task: str
    name: str | None
    seed: int
    device: str
    output_dir: str
    rerun: bool
    split: SplitConfig
    range_test: RangeTestConfig
    train: TrainConfig
    tracker: TrackerConfig
    plugins: dict[str, dict[str, Any]]  # by group; what each plug-in is made of
    tree: dict[str, Any]  # the whole resolved config as it is recorded; secrets are struck out

    @property
    def short_names(self) -> dict[str, str]:
        """What each group's choice is called: the name of its module."""
        return {group: str(plugin["_target_"]).split(".")[-2] for group, plugin in self.plugins.items()}

    @property
    def needs_range_test(self) -> bool:
        return self.task == "range_test" or self.plugins["scheduler"].get("max_lr") == "find"

    @property
    def title(self) -> str:
        """What the run directory's name begins with."""
        names = self.short_names
        name = self.name or f"{names['data']}-{names['model']}-{names['scheduler']}"
        return f"{name}-range_test" if self.task == "range_test" else name


def typed(cfg: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """The composed config, checked.

    Raises:
        ConfigError: a missing, unknown or wrong key, or one that would be ignored.
    """
    tree = _resolved(cfg)
    for section in (*GROUPS, *_CORE_GROUPS):
        if not isinstance(tree.get(section), dict):
            raise ConfigError(f"{section}={tree.get(section)}: an option is needed; choose one with {section}=...")
    plugins = {group: dict(tree[group]) for group in GROUPS}
    if "lr" in plugins["optimizer"]:
        raise ConfigError(NO_OPTIMIZER_LR)
    for group, plugin in plugins.items():
        _check_plugin(group, plugin)
    split = {key: plugins["data"].pop(key, None) for key in SplitConfig.__dataclass_fields__}
    for group, plugin in plugins.items():
        settings = {key: value for key, value in plugin.items() if key != "_target_"}
        check_settings(group, plugin["_target_"], settings, GIVEN.get(group, ()))
    top = {key: value for key, value in tree.items() if key in TopLevelConfig.__dataclass_fields__}
    unknown = set(tree) - set(top) - set(GROUPS) - set(_CORE_GROUPS)
    if unknown:
        raise ConfigError(unknown_key(min(unknown), [*TopLevelConfig.__dataclass_fields__, *GROUPS, *_CORE_GROUPS]))
    config = Config(
        **asdict(from_values(TopLevelConfig, "", top)),
        split=from_values(SplitConfig, "data.", split),
        range_test=from_values(RangeTestConfig, "range_test.", tree["range_test"]),
        train=from_values(TrainConfig, "train.", tree["train"]),
        tracker=from_values(TrackerConfig, "tracker.", tree["tracker"]),
        plugins=plugins,
        tree=_without_secrets(tree),
    )
    _refuse_ignored(config, overrides)
    return config


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


def _check_plugin(group: str, plugin: dict[str, Any]) -> None:
    """Raises ConfigError unless it names something of its group's package, and the rest are plain values.

    What the name leads to, and whether it takes the values, `build` sees when it imports it.
    """
    target = plugin.get("_target_")
    if not re.fullmatch(rf"{re.escape(PACKAGES[group])}\.[a-z]\w*\.[A-Za-z]\w*", str(target)):
        raise ConfigError(
            f"{group}._target_={target}: a name in {PACKAGES[group]} is needed; choose one with {group}=..."
        )
    for key, value in plugin.items():
        special = [inner for inner in (key, *_keys_within(value)) if inner.startswith("_") and key != "_target_"]
        if special:
            raise ConfigError(
                f"{group}.{key}: {special[0]} is not taken: a plug-in's values are plain, no _target_ makes them"
            )


def _keys_within(value: Any) -> Iterator[str]:
    """The keys of all mappings in a value, however deep."""
    if isinstance(value, dict):
        yield from map(str, value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_within(item)


def _refuse_ignored(config: Config, overrides: Sequence[str]) -> None:
    """What the user set on the command line must have an effect."""
    max_lr = config.plugins["scheduler"].get("max_lr")
    if config.task == "range_test" and max_lr != "find":
        raise ConfigError(
            f"scheduler.max_lr={max_lr} would be ignored by task=range_test, which finds it; leave it out"
        )
    if config.needs_range_test:
        return
    for override in overrides:
        if override.lstrip("+~").startswith("range_test."):
            raise ConfigError(
                f"{override} would be ignored: scheduler.max_lr={max_lr} is given, "
                "so no range test runs; set scheduler.max_lr=find or leave it out"
            )
