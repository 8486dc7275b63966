"""The `hydra` section of a composed config: settings alone. What Hydra would run, open or connect to is refused.

Hydra acts on its section before a run starts, whichever yaml says it: handlers of logging empty files, launchers run
shell commands, and the environment decides which programs are found. So a yaml may say none of these.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override

from resnet_exp.config.conf import CONF
from resnet_exp.config.overrides import is_within
from resnet_exp.interfaces import ConfigError

Tree = dict[str, Any]

CALLBACK = "resnet_exp.sweeps.callback.SweepCallback"
# What `hydra.job_logging` and `hydra.hydra_logging` may make: nothing that opens a file or a connection.
LOGGING = ("logging.StreamHandler", "logging.NullHandler", "logging.Formatter")
_HANDLERS, _STREAMS = LOGGING[:2], ("ext://sys.stdout", "ext://sys.stderr")
_LOGGING_KEYS = {
    "": ("version", "disable_existing_loggers", "formatters", "filters", "handlers", "loggers", "root"),
    "formatters": ("format", "datefmt", "style", "class"),
    "handlers": ("class", "level", "formatter", "stream"),
    "loggers": ("level", "handlers", "propagate"),
}
# Where the section may name what is made; each is checked against a list of its own before it is.
_TARGETS = ("callbacks.sweep", "sweeper", "sweeper.sampler", "launcher")
# Settings of launchers that are commands, or places to which commands or results go.
_COMMANDS = ("setup", "python", "additional_parameters", "srun_args", "submitit_folder", "temp_folder", "ray")
_WORD = re.compile(r"[\w.:,+*-]*")  # nothing that a shell would understand, as Slurm's scripts are


def check_section(hydra: Tree, overrides: Sequence[Override], hint: str = "") -> None:
    """Raises ConfigError for a section that would do more than set values.

    Args:
        hydra: the section, with its references.
        overrides: those of the command line, which alone may set an environment and a launcher's commands.
        hint: what to do where the section lacks what ours has.
    """
    if hydra["callbacks"] != {"sweep": {"_target_": CALLBACK}}:
        raise ConfigError(f"hydra.callbacks={hydra['callbacks']}: other callbacks would be run; leave it out{hint}")
    if hydra["aliases"]:
        raise ConfigError("hydra.aliases: a key that you type would set another one; leave it out")
    for name in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{name}", hydra[name], hint)
    for key in _made(hydra):
        if key not in [f"{place}._target_" for place in _TARGETS]:
            raise ConfigError(f"hydra.{key}: nothing else can be made here; leave it out")
    _check_environment(hydra["job"], overrides)
    for name in ("launcher", "sweeper"):
        if not isinstance(hydra[name], dict):
            raise ConfigError(f"hydra.{name}={hydra[name]}: choose one with hydra/{name}=...")
    _check_launcher(hydra, overrides)
    if hydra["sweeper"].get("custom_search_space") is not None:
        raise ConfigError(
            "hydra.sweeper.custom_search_space would be run; leave it out, or write a sweeper of your own"
        )


def check_overrides(recorded: Iterable[str], given: Sequence[str]) -> None:
    """Raises ConfigError where a yaml says that something was typed: Hydra adds what was to a list in its section.

    Args:
        recorded: the texts in that list, with their references.
        given: what was typed.
    """
    for text in recorded:
        if text not in given:
            raise ConfigError(f"hydra.overrides: a yaml says that {text} was typed, and it was not; leave it out")


def _made(value: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted key of each special key, such as `_target_`, at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if str(key).startswith("_"):
            yield f"{prefix}{key}"
        yield from _made(inner, f"{prefix}{key}.")


def _check_logging(name: str, section: Any, hint: str) -> None:
    """Raises ConfigError for a section that makes other than plain handlers for the terminal, or cannot be used."""
    if section is None:
        return
    _check_keys(name, section, "", hint)
    formatters, handlers = section.get("formatters") or {}, section.get("handlers") or {}
    _check_keys(f"{name}.filters", section.get("filters") or {}, None, hint)
    for kind, each in (("handlers", handlers), ("formatters", formatters), ("loggers", section.get("loggers") or {})):
        if not isinstance(each, dict):
            raise ConfigError(f"{name}.{kind}={each}: names, each with its settings, are needed{hint}")
        for one, settings in each.items():
            if kind == "handlers" and isinstance(settings, dict) and settings.get("class") not in _HANDLERS:
                found = f"{name}.handlers.{one}.class={settings.get('class')}"
                raise ConfigError(f"{found}: {' or '.join(_HANDLERS)} is needed{hint}")
            _check_keys(f"{name}.{kind}.{one}", settings, kind, hint)
    for one, settings in formatters.items():
        _check_formatter(f"{name}.formatters.{one}", settings, hint)
    for one, settings in handlers.items():
        _check_handler(f"{name}.handlers.{one}", settings, formatters, hint)
    root = section.get("root")
    if root is not None:
        _check_keys(f"{name}.root", root, "loggers", hint)
    for one, settings in {"root": root or {}, **(section.get("loggers") or {})}.items():
        _check_level(f"{name}.{one}.level", settings.get("level"), hint)
        if not set(settings.get("handlers") or ()) <= handlers.keys():
            raise ConfigError(f"{name}.{one}.handlers={settings['handlers']}: one of them is not in handlers{hint}")


def _check_keys(name: str, settings: Any, kind: str | None, hint: str) -> None:
    if not isinstance(settings, dict):
        raise ConfigError(f"{name}={settings}: a mapping is needed{hint}")
    for key in settings:
        if kind is None or key not in _LOGGING_KEYS[kind]:
            raise ConfigError(f"{name}.{key}: it is not allowed: the log goes to the terminal, in plain lines{hint}")


def _check_formatter(name: str, settings: Tree, hint: str) -> None:
    if settings.get("class", LOGGING[2]) != LOGGING[2]:
        raise ConfigError(f"{name}.class={settings['class']}: {LOGGING[2]} is needed{hint}")
    style = settings.get("style", "%")
    try:
        if style not in ("%", "$"):  # { reaches into objects
            raise ValueError("style % or $ is needed")
        logging.Formatter(settings.get("format"), settings.get("datefmt"), style)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: this is no format ({error}){hint}") from error


def _check_handler(name: str, settings: Tree, formatters: Tree, hint: str) -> None:
    if settings.get("stream", _STREAMS[1]) not in _STREAMS:
        raise ConfigError(f"{name}.stream={settings['stream']}: {' or '.join(_STREAMS)} is needed{hint}")
    if settings.get("formatter") not in (None, *formatters):
        raise ConfigError(f"{name}.formatter={settings['formatter']}: there is no such formatter{hint}")
    _check_level(f"{name}.level", settings.get("level"), hint)


def _check_level(name: str, level: Any, hint: str) -> None:
    is_known = isinstance(level, int) or (isinstance(level, str) and isinstance(logging.getLevelName(level), int))
    if level is not None and not is_known:
        raise ConfigError(f"{name}={level}: DEBUG, INFO, WARNING, ERROR or CRITICAL is needed{hint}")


def _check_environment(job: Tree, overrides: Sequence[Override]) -> None:
    """Raises ConfigError for variables that a yaml sets: they decide which programs and libraries are loaded."""
    typed: set[str] = set()
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if key == "hydra.job.env_set" and isinstance(value, dict):
            typed |= set(map(str, value))
        elif is_within(key, "hydra.job.env_set"):
            typed.add(key.removeprefix("hydra.job.env_set."))
    if job["env_copy"] and not any(each.key_or_group == "hydra.job.env_copy" for each in overrides):
        raise ConfigError(
            f"hydra.job.env_copy={job['env_copy']}: a yaml says it, and a reference could send what is copied "
            "elsewhere; if you want it, add hydra.job.env_copy=[...]"
        )
    for name in job["env_set"]:
        if name not in typed and name not in job["env_copy"]:
            raise ConfigError(
                f"hydra.job.env_set.{name}: a yaml sets it, and what runs may depend on it; if you want it, add "
                f"++hydra.job.env_set.{name}=..."
            )


def _check_launcher(hydra: Tree, overrides: Sequence[Override]) -> None:
    """Raises ConfigError for commands of a launcher that a yaml of the user's says, not ours or the command line."""
    own = _own_launcher(hydra["runtime"]["choices"].get("hydra/launcher"))
    for key, value in hydra["launcher"].items():
        is_typed = any(is_within(each.key_or_group, f"hydra.launcher.{key}") for each in overrides)
        if key == "_target_" or is_typed or value == own.get(key):
            continue
        is_plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and _WORD.fullmatch(value))
        if value and (key in _COMMANDS or not is_plain):
            raise ConfigError(
                f"hydra.launcher.{key}={value}: a yaml says it, and a launcher acts on it; if you want it, add "
                f"hydra.launcher.{key}=... to the command"
            )


def _own_launcher(name: Any) -> Tree:
    path = CONF / "hydra" / "launcher" / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.is_file() else {}
