"""What a sweep is, read from its command and its composed config before a job is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, checked_plugin, typed
from resnet_exp.config.hydra_flags import hydra_arguments
from resnet_exp.config.overrides import key_of, sweep_overrides, swept, texts_of
from resnet_exp.config.plugin_folders import consented_folders, open_folders
from resnet_exp.config.redact import redacted_command
from resnet_exp.config.schema import SweepConfig, from_values
from resnet_exp.config.secrets import filled, without_secrets_of
from resnet_exp.data.identity import read_identity
from resnet_exp.interfaces import ConfigError, Progress, Tracker
from resnet_exp.run_dir.digest import digest_of
from resnet_exp.sweeps.labels import short_key
from resnet_exp.sweeps.swept_values import check_swept

# Settings that change neither the jobs' results nor their order.
_SURROUNDINGS = ("output_dir", "device", "tracker", "report", "name", "rerun", "sweep")
# Settings of a sweeper that say how far it goes, not what it does; `params` are part of the space.
_GOES_ON = ("n_trials", "n_jobs", "max_failure_rate", "storage", "study_name", "params")
_STUDY = "resnet_exp.sweeps.study.StudySweeper"
_NAME_LENGTH = 60


def shipped(group: str, name: str) -> dict[str, Any]:
    """Returns the settings that one of our own yamls gives its group."""
    content: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    section: dict[str, Any] = content.get(group, content)  # a yaml that sets other groups too names its own
    return section


def settings(config: DictConfig) -> SweepConfig:
    """Returns the `sweep` section, checked."""
    section: Any = OmegaConf.to_container(config.sweep, resolve=True)
    checked: SweepConfig = from_values(SweepConfig, "sweep.", section)
    return checked


def plugin_folders(config: DictConfig) -> list[Path]:
    """Returns the folders that `plugins=` names.

    Raises:
        ConfigError: a yaml names one, and the command line does not.
    """
    part: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, ["plugins"]))
    return consented_folders(part["plugins"], texts_of(config.hydra.overrides.task)) if part["plugins"] else []


def space_of(config: DictConfig, arguments: Sequence[str], loader: ConfigLoader | None = None) -> dict[str, Override]:
    """Returns what is swept over: the values of each key on the command line, or else in the sweeper's `params`.

    Raises:
        ConfigError: nothing is, or a key has no value that can work.
    """
    space = swept(sweep_overrides(config.hydra.sweeper.get("params") or {}, arguments), loader)
    if not space:
        raise ConfigError("nothing is swept over: give several values, such as scheduler.peak_epoch=2,5,8")
    for values in space.values():
        check_swept(values)
    return space


def facts_of(config: DictConfig, code_digest: str, data_identity: str) -> dict[str, Any]:
    """Returns what a sweep is: where one of these differs, it is another sweep; the command alone may differ."""
    space = space_of(config, texts_of(config.hydra.overrides.task))
    sweep, sweeper = settings(config), OmegaConf.to_container(config.hydra.sweeper, resolve=True, enum_to_str=True)
    assert isinstance(sweeper, dict)
    return {
        "command": redacted_command(["--multirun", *_of_the_command(config)]),
        "space": {key: override.get_value_string() for key, override in space.items()},
        "seeds": sweep.seeds,
        "pruner": sweep.pruner,
        "sweeper": {key: value for key, value in sweeper.items() if key not in _GOES_ON},
        "config": base_config(config),
        "code_digest": code_digest,
        "data": data_identity,
    }


def base_config(config: DictConfig) -> dict[str, Any]:
    """Returns what all jobs compose except the swept values, without what changes no result."""
    whole: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in whole.items() if key not in ("hydra", *_SURROUNDINGS)}


def root_of(folder: Path, name: str | None, facts: Mapping[str, Any]) -> Path:
    """Returns the sweep's directory in `folder`: named after the swept keys, with a digest of all that the sweep is.

    A study's values are left out of the digest: with other values it must be refused, not become another study, since
    what it proposed before came from the old ones.
    """
    known = {key: value for key, value in facts.items() if key != "command"}
    if facts["sweeper"]["_target_"] == _STUDY:
        known["space"] = sorted(facts["space"])
    title = name or "+".join(short_key(key, facts["space"]).replace("/", "_") for key in facts["space"])
    return (folder / f"{title[:_NAME_LENGTH]}-{digest_of(known)}").absolute()


def config_hash(config: Config) -> str:
    """Returns twelve hex digits of all that a job composed, except what changes no result.

    So a sweep may go on with another tracker, or on another device.
    """
    return digest_of({key: value for key, value in config.tree.items() if key not in _SURROUNDINGS})


def identity_of(point: Mapping[str, str], config: Config, data_identity: str) -> str:
    """Returns twelve hex digits of what a job is: its point, the config that it composes, and its images."""
    return digest_of({"point": dict(point), "config": config_hash(config), "data": data_identity})


def data_identity(config: DictConfig, progress: Progress, *, verify: bool = False) -> str:
    """Returns the identity of the base config's data set; nothing where the base config cannot work by itself."""
    try:
        return read_identity(build.source(_base(config)), progress, verify=verify)
    except ConfigError:  # its jobs may work: each sets the swept keys
        return ""


def tracker_of(config: DictConfig) -> Tracker:
    """Returns the tracker, which opens nothing yet.

    Raises:
        ConfigError: it does not take its settings.
    """
    modules = open_folders(plugin_folders(config))
    return build.tracker_of(checked_plugin("tracker", filled("tracker", tracker_settings(config)), modules), modules)


def tracker_settings(config: DictConfig) -> Any:
    """Returns the settings of the sweep's tracker as runs record them, without secrets."""
    part: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, ["tracker"]), resolve=True)
    return without_secrets_of(part)["tracker"]


def _of_the_command(config: DictConfig) -> list[str]:
    hydra = hydra_arguments(config.hydra)
    of_hydra = [text for text in hydra.overrides if key_of(text) != "hydra.mode"]
    return [*hydra.flags, *of_hydra, *texts_of(config.hydra.overrides.task)]


def _base(config: DictConfig) -> Config:
    base = OmegaConf.create({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})
    return typed(base, plugin_folders=plugin_folders(config))
