"""The core keys of a config, each with its type and range."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_exp.interfaces import ConfigError
from resnet_exp.redact import redact


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
    experiment: str = "resnet_exp"

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
class TopLevelConfig:
    """The keys outside any group."""

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


def from_values(schema: type[Any], prefix: str, values: dict[str, Any]) -> Any:
    """An instance of the schema with the values, each converted and checked.

    Args:
        schema: one of the dataclasses here.
        prefix: what stands before its keys on the command line, such as `train.`.
        values: by key.

    Raises:
        ConfigError: a key that the schema lacks, or a value of another kind or out of range.
    """
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
