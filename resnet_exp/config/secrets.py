"""Secrets are struck out of settings where these enter, and the real ones handed on in this process's environment.

So nothing that is derived from a setting, in whichever process, has a secret to write down. The trackers and data sets
that are made get the real ones, see `filled`. Processes that a launcher starts inherit the environment; a config that
they compose from a yaml is struck out there again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from resnet_exp.config.overrides import is_within, parsed
from resnet_exp.config.redact import STRUCK, VARIABLE, by_form, is_secret
from resnet_exp.interfaces import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_GROUPS = ("data", "model", "augmentation", "optimizer", "scheduler", "tracker")  # whose settings are filled in again
_BY_NAME = ("tracker", "data", "hydra.job.env_set")  # where a setting's name says that it is a secret
_JOBS_ENVIRONMENT = "hydra.job.env_set"
_INHERITED = "launchers would write it into their files; the jobs inherit the environment of the command: set it there"


def strike_override(text: str) -> str:
    """Returns the override without its secrets, which are handed on.

    Raises:
        ConfigError: it sweeps over values that differ in nothing but their secrets, or holds one that Hydra's launchers
            would write into their files.
    """
    override = parsed(text)
    key = override.key_or_group
    if override.is_delete() or not is_within(key, *_GROUPS, "hydra"):
        return text
    if not is_within(key, *_GROUPS, _JOBS_ENVIRONMENT):
        return _refuse_of_hydra(text, key, override._value)
    found: dict[str, Any] = {}
    values = _elements(override)
    struck = [_struck(key, _as_typed(value, override), found) for value in values]
    if not found:
        return text
    if len({repr(one) for one in struck}) < len({repr(one) for one in values}):
        raise ConfigError(
            f"{key}: several of its values differ in nothing but their secrets, which are recorded nowhere, so their "
            "jobs could not be told apart; sweep over one of them at a time"
        )
    _hand_on(found)
    name = text.partition("=")[0]
    return f"{name}={_as_text(struck, override)}"


def strike(config: DictConfig) -> None:
    """Strikes the secrets that a yaml has put into a composed config out of it, and hands them on.

    References to the environment stay references.
    """
    for group in _GROUPS:
        _strike_section(config, group, group)


def strike_sweep(config: DictConfig, loader: Any) -> None:
    """Strikes secrets out of all that launchers store: a sweep's config, and the yamls that its loader remembers.

    Args:
        config: the sweep's, as Hydra composed it.
        loader: Hydra's, which composes the jobs' configs from what it has read.

    Raises:
        ConfigError: a setting of Hydra's own holds a secret.
    """
    _refuse_stored(config.hydra)
    strike(config)
    remembered = getattr(loader, "_active_repository", None)
    if remembered is not None:  # the yamls as they were read: jobs read them again
        remembered.cache.clear()


def without_secrets_of(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns a resolved config without the secrets of its plug-ins' settings, which are handed on."""
    found: dict[str, Any] = {}
    struck = {key: _struck(key, value, found) if key in _GROUPS else value for key, value in tree.items()}
    _hand_on(found)
    return struck


def filled(key: str, value: Any) -> Any:
    """Returns a setting, however nested, with the real secrets, for what is made of it here and now.

    Raises:
        ConfigError: one was struck out and is not known here, as of a recorded config.
    """
    if isinstance(value, dict):
        return {name: filled(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list):
        return [filled(f"{key}.{place}", item) for place, item in enumerate(value)]
    if not isinstance(value, str) or STRUCK not in value:
        return value
    handed_on = _handed_on()
    if f"{key}={value}" in handed_on:
        return handed_on[f"{key}={value}"]
    if _looks_struck(key, value):
        other = ", or tracker=none" if is_within(key, "tracker") else ""
        raise ConfigError(f"{key}={value}: a recorded config has no passwords; give {key}=...{other}")
    return value


def fill_environment(variables: Mapping[str, Any]) -> None:
    """Sets the environment variables of `hydra.job.env_set` whose values were struck out to the real ones."""
    for name, value in variables.items():
        os.environ[name] = str(filled(f"{_JOBS_ENVIRONMENT}.{name}", str(value)))


def _struck(key: str, value: Any, found: dict[str, Any]) -> Any:
    """The setting without secrets; `found` gets the real ones by `key=struck value`."""
    if isinstance(value, dict):
        return {name: _struck(f"{key}.{name}", item, found) for name, item in value.items()}
    if isinstance(value, list):
        return [_struck(f"{key}.{place}", item, found) for place, item in enumerate(value)]
    if value is None or isinstance(value, bool) or not str(value):
        return value
    if _is_secret_key(key):
        struck = value if re.fullmatch(r"\$\{.*\}", str(value)) else STRUCK
    else:
        struck = _whole(value) if isinstance(value, str) else value
    if struck != value and str(value) != STRUCK:
        found[f"{key}={struck}"] = str(value) if isinstance(value, str) else value
    return struck


def _is_secret_key(key: str) -> bool:
    return is_within(key, *_BY_NAME) and any(is_secret(part) for part in key.split("."))


def _whole(value: str) -> str:
    """A text that is an address as a whole, whatever its password holds, or any other text."""
    address = re.fullmatch(r"([A-Za-z][\w+.-]*://[^:/@\s]*:)(?!\d{1,5}(?:[/?#]|$)|\$\{)(.*)(@[^@]*)", value, re.DOTALL)
    return by_form(f"{address[1]}{STRUCK}{address[3]}" if address else value)


def _looks_struck(key: str, value: str) -> bool:
    if is_within(key, "tracker"):
        return True
    return (_is_secret_key(key) and value == STRUCK) or re.search(r"://[^/]*\*\*\*@|=\*\*\*", value) is not None


def _elements(override: Override) -> list[Any]:
    """What an override sets its key to: one value, or those that it sweeps over; of a range nothing."""
    value: Any = override._value
    if hasattr(value, "list"):
        return list(value.list)
    return [] if override.is_sweep_override() else [value]


def _as_typed(value: Any, override: Override) -> Any:
    """A value as plain texts; a number as it was typed, since a password may be 0123."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_as_typed(key, override)): _as_typed(item, override) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_typed(item, override) for item in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return override.get_value_string() if is_number and value is override._value else value


def _as_text(values: list[Any], override: Override) -> str:
    """The values as Hydra reads them, all texts in quotes."""
    texts = [_quoted(value) for value in values]
    if not override.is_sweep_override():
        return texts[0]
    listed = ",".join(texts)
    sweep: Any = override._value
    return f"shuffle({listed})" if sweep.shuffle else listed if len(texts) > 1 else f"choice({listed})"


def _quoted(value: Any) -> str:
    from hydra.core.override_parser.types import Override as Parsed
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{Parsed._get_value_element_as_str(key)}:{_quoted(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    if not isinstance(value, str):
        return Parsed._get_value_element_as_str(value)
    is_plain = re.fullmatch(r"[\w/.+$%*@?|-]*(?::[\w/.+$%*@?|-]+)*", value) and not re.match(r"[\d.+-]|\w+$", value)
    return value if is_plain or value == STRUCK else QuotedString(value, Quote.double).with_quotes()


def _refuse_of_hydra(text: str, key: str, value: Any) -> str:
    """The override; raises ConfigError where a setting of Hydra's own holds a secret."""
    plain = getattr(value, "text", value)
    if (isinstance(plain, str) and "${" not in plain and (by_form(plain) != plain)) or (
        is_secret(key.rpartition(".")[2]) and plain not in (None, "") and "${" not in str(plain)
    ):
        raise _refusal(key, plain)
    return text


def _refusal(key: str, value: Any) -> ConfigError:
    struck = STRUCK if is_secret(key.rpartition(".")[2]) else by_form(str(value))
    if key.startswith("hydra.sweeper.params."):
        return ConfigError(
            f"{key}={struck}: launchers would write the secret into their files; sweep over it on the "
            f"command line, with {key.removeprefix('hydra.sweeper.params.')}=..."
        )
    return ConfigError(f"{key}={struck}: {_INHERITED}, and give {key}='${{oc.env:NAME}}' if Hydra needs it")


def _strike_section(config: DictConfig, name: str, key: str) -> None:
    """Strikes the secrets out of one entry of a config, which is the setting `key`."""
    found: dict[str, Any] = {}
    before = _plain(config).get(name)
    if before != (after := _struck(key, before, found)):
        with read_write(config), open_dict(config):
            config[name] = after
    _hand_on(found)


def _refuse_stored(hydra: DictConfig) -> None:
    """Raises ConfigError where Hydra's own settings hold a secret that launchers would write into their files."""
    for name in hydra.job.env_copy:
        if is_secret(name):
            raise ConfigError(f"hydra.job.env_copy: {name}: {_INHERITED}, and leave it out here")
    for section in ("job.env_set", "launcher", "sweeper"):
        for key, value in _leaves(f"hydra.{section}", _plain(OmegaConf.select(hydra, section))):
            if STRUCK not in value:
                _refuse_of_hydra("", key, value)


def _plain(settings: Any) -> dict[str, Any]:
    """A section as plain values, its references unresolved."""
    plain: Any = OmegaConf.to_container(settings, resolve=False) if isinstance(settings, DictConfig) else {}
    return dict(plain)


def _leaves(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in _leaves(f"{key}.{name}", item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(key, item)]
    return [(key, value)] if isinstance(value, str) else []


def _handed_on() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(os.environ.get(VARIABLE, "{}"))
    return values


def _hand_on(found: Mapping[str, Any]) -> None:
    if found:
        os.environ[VARIABLE] = json.dumps({**_handed_on(), **found})
