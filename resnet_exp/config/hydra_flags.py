"""Hydra's own flags, such as `--config-name`: as the user typed them, and as a command is recorded with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import compute_search_path_dir, get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from resnet_exp.config.conf import CONF, PACKAGE, PRIMARY
from resnet_exp.config.overrides import HydraArguments, key_of, name_and_value, texts_of
from resnet_exp.interfaces import ConfigError

# What a command does: Hydra takes one of them.
_WAYS = ("run", "multirun", "cfg", "info", "shell_completion")


@dataclass(frozen=True)
class CommandLine:
    """A command line as Hydra's own parser reads it."""

    overrides: tuple[str, ...]
    config_name: str
    config_path: str  # a folder, or `pkg://PACKAGE`: the primary config and the groups
    config_dir: Path | None  # one more
    is_multirun: bool
    only_shows: bool  # --help and the like: nothing is composed or run
    shows_config: bool  # --cfg
    completes: bool  # a shell asks for completions

    @classmethod
    def of(cls, arguments: Sequence[str]) -> CommandLine:
        """Returns what these arguments say; Hydra's parser ends the process for a flag that it does not know.

        Raises:
            ConfigError: a flag names a folder that is not there, or would find nothing.
        """
        flags = get_args_parser().parse_intermixed_args(list(arguments))
        if flags.experimental_rerun is not None:
            raise ConfigError("--experimental-rerun finds nothing here: a run's own command, in its result.json, does")
        if len(chosen := [name for name in _WAYS if getattr(flags, name)]) > 1:
            given = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
            raise ConfigError(f"{given} cannot be given together; take one")
        return cls(
            overrides=tuple(flags.overrides),
            config_name=flags.config_name or PRIMARY,
            config_path=_config_path(flags.config_path),
            config_dir=_config_dir(flags.config_dir),
            is_multirun=flags.multirun,
            only_shows=bool(flags.help or flags.hydra_help or flags.info),
            shows_config=flags.cfg is not None,
            completes=flags.shell_completion,
        )

    @property
    def source(self) -> str:
        """The place of the primary config, as Hydra writes it."""
        return self.config_path if self.config_path.startswith("pkg://") else f"file://{self.config_path}"

    @property
    def is_named_sweep(self) -> bool:
        """Whether a sweep is named, as `sweep=peak_epoch` does, without saying `--multirun` or a mode itself."""
        values = dict(map(name_and_value, self.overrides))
        is_named = values.get("sweep", "default") != "default" and "hydra.mode" not in values
        return is_named and not (self.is_multirun or self.shows_config or self.only_shows or self.completes)

    @property
    def has_own_config(self) -> bool:
        """Whether the primary config may be another than that of resnet_exp."""
        return self.config_name != PRIMARY or self.config_path != str(CONF)

    def primary(self) -> DictConfig:
        """Returns what the yaml of the primary config itself says; nothing where it is our own, or not found.

        Raises:
            ConfigError: it cannot be read.
        """
        name = f"{self.config_name.removesuffix('.yaml')}.yaml"
        paths = [Path(folder) / name for folder in (self.config_path, self.config_dir) if folder]
        found = next((path for path in paths if self.has_own_config and path.is_file()), None)
        config = OmegaConf.create() if found is None else _read(found)
        return config if isinstance(config, DictConfig) else OmegaConf.create()


def _read(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except (YAMLError, OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from error


def _config_path(given: str | None) -> str:
    path = str(CONF) if given is None else compute_search_path_dir(str(PACKAGE / "__main__.py"), None, given)
    assert path is not None
    if not path.startswith("pkg://") and not os.path.isdir(path):
        raise ConfigError(
            f"--config-path {given}: {path} is no folder; Hydra looks for a relative one beside resnet_exp's code, so "
            f"give it as {Path(str(given)).absolute()}, or add it to our configs with --config-dir"
        )
    return path


def _config_dir(given: str | None) -> Path | None:
    if given is None:
        return None
    if not os.path.isdir(given):
        raise ConfigError(f"--config-dir {given}: there is no such folder; one with yaml files is needed")
    return Path(given).absolute()


def hydra_arguments(hydra: Any) -> HydraArguments:
    """Returns what a command needs besides its overrides to compose the config whose `hydra` section this is.

    It is taken from the composed config, which a job has too that is launched in another process. Hydra's mode is left
    out.
    """
    sources = {source.provider: source for source in hydra.runtime.config_sources}
    main = sources["main"]
    flags: list[str] = []
    if main.path != str(CONF):
        flags += ["--config-path", main.path if main.schema == "file" else f"{main.schema}://{main.path}"]
    if (name := hydra.job.config_name) != PRIMARY:
        flags += ["--config-name", str(name)]
    if "command-line" in sources:
        flags += ["--config-dir", _as_seen_from(hydra.runtime.cwd, sources["command-line"].path)]
    given = texts_of(hydra.overrides.hydra)
    overrides = [text for text in given if key_of(text) != "hydra.mode"]
    if hydra.mode == RunMode.MULTIRUN and len(overrides) == len(given):
        overrides.insert(0, "hydra.mode=RUN")  # the primary config itself says that it is a sweep
    return HydraArguments(tuple(flags), tuple(overrides))


def _as_seen_from(folder: str, path: str) -> str:
    inside = Path(path).is_relative_to(folder)
    return os.path.relpath(path, folder) if inside else path
