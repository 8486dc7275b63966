"""The core keys of the config, each with its type and range."""

from __future__ import annotations

import os
import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from resnet_exp.config.ranges import Count, Factor, Fraction, NotNegative, Seed, Text, admitted
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError


@dataclass
class SplitConfig:
    """The keys of `data` that all data sets share: how many images are used, and how many of them are held out."""

    validation: Literal["holdout", "none", "test"]
    holdout: Count | None
    limit_train: Count | None

    def __post_init__(self) -> None:
        if self.holdout is not None and VALIDATION[self.validation].split != "val":
            raise ConfigError(
                f"data.holdout={self.holdout} would be ignored with data.validation={self.validation}; leave it null"
            )


@dataclass
class RangeTestConfig:
    """`range_test=default`: the LR range test that finds max_lr, a sweep of rising LRs."""

    start_lr: Factor
    end_lr: Factor
    num_steps: Annotated[int, Ge(20)]  # the rule needs 15 points at least (range_rules.MIN_POINTS)
    repeats: Count
    rule: Literal["minimum"] = "minimum"  # configs of before lack it

    def __post_init__(self) -> None:
        if not self.start_lr < self.end_lr:
            raise ConfigError(f"range_test.end_lr={self.end_lr}: a finite number above {self.start_lr} is needed")


@dataclass
class MiniaturesConfig:
    """`range_test=miniatures`: complete, short runs that find max_lr."""

    first_lr: Factor
    num_steps: Annotated[int, Ge(10)]
    rule: Literal["miniatures"] = "miniatures"


# By rule, the option of `range_test` that sets it, and the settings that it has.
_RULES: dict[Any, tuple[str, type[Any]]] = {
    "minimum": ("default", RangeTestConfig),
    "miniatures": ("miniatures", MiniaturesConfig),
}


def range_test_from(values: dict[str, Any]) -> RangeTestConfig | MiniaturesConfig:
    """The settings of `range_test`, checked by its rule.

    Raises:
        ConfigError: as `from_values` does; or the settings are those of another rule.
    """
    rule = values.get("rule", "minimum")
    if rule not in _RULES:
        raise ConfigError(f"range_test.rule={rule}: one of {', '.join(_RULES)} is needed")
    option, schema = _RULES[rule]
    own = {one.name for one in fields(schema)}
    known = {one.name for _, each in _RULES.values() for one in fields(each)}
    if found := (known - own) & values.keys():
        raise ConfigError(
            f"range_test.rule={rule} takes no range_test.{min(found)}: choose range_test={option}, which sets "
            "the rule with its own settings"
        )
    return from_values(schema, "range_test.", values)


@dataclass
class TrainConfig:
    """`train`: the training loop."""

    epochs: Annotated[int, Ge(1), Le(100_000)]
    batch_size: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    channels_last: bool
    label_smoothing: Fraction
    clip_grad_norm: Factor | None
    grad_accum_steps: Count
    deterministic: bool
    checkpoint_interval: NotNegative
    ema: Annotated[float, Gt(0), Lt(1)] | None = None  # configs of before lack it

    def __post_init__(self) -> None:
        if self.grad_accum_steps > self.batch_size:  # a part would have no image
            raise ConfigError(
                f"train.grad_accum_steps={self.grad_accum_steps}: a whole number from 1 to "
                f"train.batch_size={self.batch_size} is needed"
            )


GradCamMethod = Literal["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam"]
Images = Annotated[int, Ge(0), Le(200)]


@dataclass
class ReportConfig:
    """`report`: the parts of a run's report; false, or 0 images, leaves one out."""

    curves: bool
    schedule: bool
    range_test: bool
    classes: bool
    misclassified: Images
    gradcam: Images
    gradcam_method: GradCamMethod
    gradcam_layers: list[Text] | None
    examples: Images
    augmentation: Images
    summary: bool
    receptive_field: Images
    html: bool
    extra: list[Text] = field(default_factory=list)  # MODULE.FUNCTION, each draws a section from a report's Subject

    def __post_init__(self) -> None:
        if self.gradcam_layers is not None and not self.gradcam_layers:
            raise ConfigError("report.gradcam_layers=[]: names of modules are needed, or null to have them found")


@dataclass
class SweepConfig:
    """`sweep`: what all jobs of a sweep share."""

    seeds: list[Seed] | None
    dry_run: bool
    max_failures: Count | None
    pruner: Literal["none", "median", "hyperband"]
    job: Text | Annotated[int, Ge(0)] | None  # a number in configs of before

    def __post_init__(self) -> None:
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ConfigError(f"sweep.seeds={self.seeds}: whole numbers that differ are needed, such as [0,1,2]")


_MEANINGS = {
    "checkpoint": "a run directory, or its model.safetensors or model_ema.safetensors",
    "images": "an image, or a folder of images",
    "run_dir": "the directory of a finished run",
}
_REQUIRED_BY = {"checkpoint": ("evaluate", "predict"), "images": ("predict",), "run_dir": ("report",)}


@dataclass
class TopLevelConfig:
    """The keys outside all groups."""

    task: Literal["train", "range_test", "evaluate", "predict", "report"]
    name: str | None
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    output_dir: Text
    rerun: bool
    checkpoint: Text | None
    images: Text | None
    predictions: Text
    run_dir: Text | None
    plugins: Text | list[Text] | None
    metrics: list[Text] = field(default_factory=list)  # configs of before lack it

    def __post_init__(self) -> None:
        for key, tasks in _REQUIRED_BY.items():
            if self.task in tasks and getattr(self, key) is None:
                raise ConfigError(f"task={self.task} needs {key}=...: {_MEANINGS[key]}")
        # The others are expanded where they are read; the shell does not after a key with a dot, nor in all shells.
        self.output_dir, self.predictions = map(os.path.expanduser, (self.output_dir, self.predictions))
        if not self.predictions.endswith(".csv"):
            raise ConfigError(f"predictions={self.predictions}: a file that ends in .csv is needed; it will be written")
        # It becomes part of a folder's name.
        if self.name is not None and not re.fullmatch(r"[\w.+-]{1,80}", self.name):
            raise ConfigError(f"name={self.name}: letters, digits and ._+- are needed, 80 at most")


def from_values(schema: type[Any], prefix: str, values: dict[str, Any]) -> Any:
    """An instance of the schema with these values, each checked.

    Args:
        schema: one of the dataclasses here.
        prefix: of its keys on the command line, such as `train.`.
        values: by key, without the prefix.

    Raises:
        ConfigError: a key is unknown or missing, or a value is of another type or out of range.
    """
    kinds = get_type_hints(schema, include_extras=True)
    for key in values:
        if key not in kinds:
            raise UnknownKey(f"{prefix}{key}", [f"{prefix}{known}" for known in kinds])
    checked = {key: admitted(f"{prefix}{key}", value, kinds[key]) for key, value in values.items()}
    for one in fields(schema):
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{prefix}{one.name} is missing; leave ~{prefix}{one.name} out")
    return schema(**checked)
