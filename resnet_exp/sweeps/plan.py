"""What a sweep is made of, read from its command and its composed config before a job is run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from resnet_exp.config import build
from resnet_exp.config.command_line import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.config.redact import redact
from resnet_exp.config.schema import SweepConfig, TrackerConfig, from_values
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.digest import digest_of
from resnet_exp.sweeps.ledger import short_key

# What touches neither the jobs' results nor their order.
_SURROUNDINGS = ("output_dir", "device", "tracker", "report", "name", "rerun", "sweep")
# Of a sweeper: how long it goes on, and what it is made of otherwise.
_GOES_ON = ("n_trials", "n_jobs", "max_failure_rate", "storage", "study_name", "params")
OWN_SWEEPERS = ("resnet_exp.sweeps.grid.GridSweeper", "resnet_exp.sweeps.study.StudySweeper")
_STUDY = OWN_SWEEPERS[1]
_NAME_LENGTH = 60


def shipped(group: str, name: str) -> dict[str, Any]:
    """The settings that one of our own yamls gives its group."""
    content: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    section: dict[str, Any] = content.get(group, content)  # a yaml that sets other groups too names its own
    return section


def settings(config: DictConfig) -> SweepConfig:
    """The `sweep` section, checked."""
    section: Any = OmegaConf.to_container(config.sweep, resolve=True)
    checked: SweepConfig = from_values(SweepConfig, "sweep.", section)
    return checked


def check_sweep(config: DictConfig) -> None:
    """Raises ConfigError for settings that no job of this sweep could honour."""
    sweep, sweeper = settings(config), str(config.hydra.sweeper._target_)
    if sweep.job is not None:
        raise ConfigError(f"sweep.job={sweep.job}: the sweep itself says which of its jobs a job is; leave it out")
    if sweep.pruner != "none" and sweeper != _STUDY:
        raise ConfigError(f"sweep.pruner={sweep.pruner} would be ignored: it is for hydra/sweeper=study")
    if sweep.dry_run and sweeper not in OWN_SWEEPERS:
        raise ConfigError("sweep.dry_run=true needs hydra/sweeper=grid or study: others do not tell what they will run")
    if config.task not in ("train", "range_test"):
        raise ConfigError(f"task={config.task} cannot be swept over; task=train or task=range_test can")
    if config.task == "train" and config.data.validation == "none":
        raise ConfigError("data.validation=none leaves a sweep nothing to choose by; holdout is needed")
    direction = getattr(config.hydra.sweeper.get("direction"), "name", config.hydra.sweeper.get("direction"))
    if config.task == "train" and direction == "minimize":
        raise ConfigError(
            "hydra.sweeper.direction=minimize would choose the worst: the objective is an accuracy; set "
            "hydra.sweeper.direction=maximize"
        )


def space_of(config: DictConfig, arguments: Sequence[str]) -> dict[str, str]:
    """What is swept over: the values of each key, as on the command line, which comes before the sweeper's `params`.

    Raises:
        ConfigError: nothing is.
    """
    params = [f"{key}={values}" for key, values in (config.hydra.sweeper.get("params") or {}).items()]
    space: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides([*params, *arguments]):
        key = override.get_key_element()
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = str(override.input_line).partition("=")[2]
    if not space:
        raise ConfigError("nothing is swept over: give several values, such as scheduler.peak_epoch=2,5,8")
    return space


def facts_of(config: DictConfig, code_digest: str, data_identity: str) -> dict[str, Any]:
    """What a sweep is: another of these is another sweep, or cannot go on with it."""
    space = space_of(config, list(config.hydra.overrides.task))
    sweep, sweeper = settings(config), OmegaConf.to_container(config.hydra.sweeper, resolve=True, enum_to_str=True)
    assert isinstance(sweeper, dict)
    return {
        "command": redact(shlex.join(["python", "-m", "resnet_exp", "--multirun", *_of_the_command(config)])),
        "space": space,
        "seeds": sweep.seeds,
        "pruner": sweep.pruner,
        "sweeper": {key: value for key, value in sweeper.items() if key not in _GOES_ON},
        "config": base_config(config),
        "code_digest": code_digest,
        "data": data_identity,
    }


def base_config(config: DictConfig) -> dict[str, Any]:
    """What all jobs compose but for the swept values, without what touches no result."""
    whole: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in whole.items() if key not in ("hydra", *_SURROUNDINGS)}


def root_of(folder: Path, name: str | None, facts: Mapping[str, Any]) -> Path:
    """The sweep's directory in `folder`: named after what is swept over, with a digest of all that the sweep is.

    Of a study the space is left out: a changed one is refused there, since what was proposed before came from another.
    """
    known = {key: value for key, value in facts.items() if key != "command"}
    if facts["sweeper"]["_target_"] == _STUDY:
        known["space"] = sorted(facts["space"])
    title = name or "+".join(short_key(key, facts["space"]).replace("/", "_") for key in facts["space"])
    return (folder / f"{title[:_NAME_LENGTH]}-{digest_of(known)}").absolute()


def config_hash(config: Config) -> str:
    """Twelve hex digits of all that a job composed, but for its place in the sweep."""
    tree = {key: value for key, value in config.tree.items() if key != "sweep"}
    return digest_of(tree)


def _of_the_command(config: DictConfig) -> list[str]:
    hydra = [text for text in config.hydra.overrides.hydra if not text.startswith("hydra.mode=")]
    return [*hydra, *config.hydra.overrides.task]


def data_identity(config: DictConfig) -> str:
    """The identity of the data set of the base config; of one that cannot stand alone, nothing."""
    try:
        return build.source(_base(config)).identity()
    except ConfigError:
        return ""


def tracker_of(config: DictConfig) -> TrackerConfig:
    """The `tracker` section, checked."""
    values: Any = OmegaConf.to_container(config.tracker, resolve=True)
    settings: TrackerConfig = from_values(TrackerConfig, "tracker.", values)
    return settings


def _base(config: DictConfig) -> Config:
    base = OmegaConf.create({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})
    return typed(base)
