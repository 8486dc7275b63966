"""The composed config as typed and checked values; torch is not imported, so that a wrong value costs a second."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.interfaces import ConfigError
from resnet_exp.redact import redact

# Raised when the same config would give another result.
SIGNATURE_VERSION = 1
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
NO_OPTIMIZER_LR = "optimizer.lr: optimizers have no lr here; set scheduler.max_lr (a number, or find)"


@dataclass
class SplitConfig:
    """`data`'s keys that every data set shares: what is held out, and how much is used."""

    validation: str
    holdout: int | None
    limit_train: int | None

    def __post_init__(self) -> None:
        _choice("data.validation", self.validation, ("holdout", "none", "test"))
        _optional_minimum("data.holdout", self.holdout, 1)
        _optional_minimum("data.limit_train", self.limit_train, 1)
        if self.holdout is not None and self.validation != "holdout":
            raise ConfigError(
                f"data.holdout={self.holdout} would be ignored with data.validation={self.validation}; leave it null"
            )


@dataclass
class RangeTestConfig:
    """`range_test`: the sweep that finds max_lr."""

    start_lr: float
    end_lr: float
    num_steps: int
    repeats: int

    def __post_init__(self) -> None:
        _number("range_test.start_lr", self.start_lr, 0, math.inf)
        _number("range_test.end_lr", self.end_lr, self.start_lr, math.inf)
        _minimum("range_test.num_steps", self.num_steps, 20)
        _minimum("range_test.repeats", self.repeats, 1)


@dataclass
class TrainConfig:
    """`train`: the loop."""

    epochs: int
    batch_size: int
    precision: str
    channels_last: bool
    label_smoothing: float
    clip_grad_norm: float | None
    grad_accum_steps: int
    deterministic: bool
    checkpoint_interval: float

    def __post_init__(self) -> None:
        _minimum("train.epochs", self.epochs, 1)
        _minimum("train.batch_size", self.batch_size, 1)
        _choice("train.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"train.label_smoothing={self.label_smoothing}: a number from 0 to below 1 is needed")
        if self.clip_grad_norm is not None:
            _number("train.clip_grad_norm", self.clip_grad_norm, 0, math.inf)
        if not 1 <= self.grad_accum_steps <= self.batch_size:
            raise ConfigError(
                f"train.grad_accum_steps={self.grad_accum_steps}: a whole number from 1 to "
                f"train.batch_size={self.batch_size} is needed"
            )
        if not 0 <= self.checkpoint_interval < math.inf:
            raise ConfigError(f"train.checkpoint_interval={self.checkpoint_interval}: seconds, 0 or more, are needed")


@dataclass
class TrackerConfig:
    """`tracker`: where the journal is mirrored."""

    kind: str
    uri: str | None = None
    experiment: str | None = None

    def __post_init__(self) -> None:
        _choice("tracker.kind", self.kind, ("mlflow", "none"))
        if self.uri is not None and not re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://|https?://", self.uri):
            raise ConfigError(
                f"tracker.uri={redact(self.uri)}: sqlite:///FILE.db, postgresql+psycopg://... or "
                "http(s)://... is needed (MLflow refuses plain folders)"
            )

    @property
    def store(self) -> str:
        """Where MLflow keeps the runs."""
        return self.uri or "sqlite:///mlflow.db"


@dataclass
class _TopLevel:
    task: str
    name: str | None
    seed: int
    device: str
    output_dir: str
    rerun: bool

    def __post_init__(self) -> None:
        _choice("task", self.task, ("train", "range_test"))
        _choice("device", self.device, ("auto", "cpu", "cuda"))
        if self.name is not None and not re.fullmatch(r"[\w.+-]{1,80}", self.name):
            raise ConfigError(f"name={self.name}: letters, digits and ._+- are needed, 80 at most")


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
    for section in (*GROUPS, "range_test", "train", "tracker"):
        if not isinstance(tree.get(section), dict):
            raise ConfigError(f"{section}={tree.get(section)}: an option is needed; choose one with {section}=...")
    plugins = {group: dict(tree[group]) for group in GROUPS}
    if "lr" in plugins["optimizer"]:
        raise ConfigError(NO_OPTIMIZER_LR)
    for group, plugin in plugins.items():
        _check_plugin(group, plugin)
    split = {key: plugins["data"].pop(key, None) for key in ("validation", "holdout", "limit_train")}
    top = {key: value for key, value in tree.items() if key in _TopLevel.__dataclass_fields__}
    unknown = set(tree) - set(top) - set(GROUPS) - {"range_test", "train", "tracker"}
    if unknown:
        raise ConfigError(f"unknown keys: {', '.join(sorted(unknown))}; `--help` lists the known ones")
    config = Config(
        **asdict(_to(_TopLevel, "", top)),
        split=_to(SplitConfig, "data.", split),
        range_test=_to(RangeTestConfig, "range_test.", tree["range_test"]),
        train=_to(TrainConfig, "train.", tree["train"]),
        tracker=_to(TrackerConfig, "tracker.", tree["tracker"]),
        plugins=plugins,
        tree=_without_secrets(tree),
    )
    _refuse_ignored(config, overrides)
    return config


def signature(config: Config, data_identity: str) -> str:
    """Twelve hex digits that are equal where two configs must give the same result on the same kind of device.

    The data stand in it by their identity. What does not touch the result does not: paths, tracker, device, name,
    how often checkpoints are written.
    """
    train = {key: value for key, value in asdict(config.train).items() if key != "checkpoint_interval"}
    determines = {
        "version": SIGNATURE_VERSION,
        "task": config.task,
        "seed": config.seed,
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": asdict(config.range_test) if config.needs_range_test else None,
        "train": train,
        **{group: plugin for group, plugin in config.plugins.items() if group != "data"},
    }
    return _hash(determines)


def range_test_signature(config: Config, data_identity: str, machine: dict[str, Any]) -> str:
    """Twelve hex digits that are equal where two range tests must read the same curves.

    `machine` holds what the curves' last digits depend on beside the config: precision, device, versions, code.
    """
    train = {key: value for key, value in asdict(config.train).items() if key not in ("epochs", "checkpoint_interval")}
    determines = {
        "version": SIGNATURE_VERSION,
        "seed": config.seed,
        "data": data_identity,
        "split": asdict(config.split),
        "range_test": asdict(config.range_test),
        "train": train,
        "machine": machine,
        **{group: config.plugins[group] for group in ("model", "augmentation", "optimizer")},
    }
    return _hash(determines)


def _hash(determines: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:12]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tree's leaves by dotted key: `{"train.epochs": 24, ...}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return leaves


def _without_secrets(tree: dict[str, Any]) -> dict[str, Any]:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return redact(value) if isinstance(value, str) else value

    return clean(tree)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"{missing[0]} has no default and must be given: {missing[0]}=...")
        tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(tree, dict)
    tree.pop("hydra", None)
    tree.pop("experiment", None)
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


def _to(schema: type[Any], prefix: str, values: dict[str, Any]) -> Any:
    """An instance of the schema with the values, each converted and checked."""
    kinds = {field.name: field.type for field in fields(schema)}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise ConfigError(f"{prefix}{unknown[0]} is no key; known are {', '.join(kinds)}")
    try:
        node = OmegaConf.structured(schema)
        for key, value in values.items():
            try:
                OmegaConf.update(node, key, value)
            except OmegaConfBaseException as error:
                raise ConfigError(f"{prefix}{key}={value}: {kinds[key]} is needed") from error
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix.rstrip('.')}: {str(error).splitlines()[0]}") from error


def _refuse_ignored(config: Config, overrides: Sequence[str]) -> None:
    """What the user set on the command line must have an effect."""
    if config.needs_range_test:
        return
    for override in overrides:
        if override.lstrip("+~").startswith("range_test."):
            raise ConfigError(
                f"{override} would be ignored: scheduler.max_lr={config.plugins['scheduler'].get('max_lr')} is given, "
                "so no range test runs; set scheduler.max_lr=find or leave it out"
            )


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: one of {', '.join(allowed)} is needed")


def _minimum(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key}={value}: a whole number of at least {least} is needed")


def _optional_minimum(key: str, value: int | None, least: int) -> None:
    if value is not None:
        _minimum(key, value, least)


def _number(key: str, value: float, above: float, below: float) -> None:
    if not above < value < below:
        raise ConfigError(f"{key}={value}: a finite number above {above:g} is needed")
