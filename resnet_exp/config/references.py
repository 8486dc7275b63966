"""References in a yaml, `${...}`: to other keys of the config alone, unless the command line says otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from resnet_exp.config.config import flat
from resnet_exp.config.overrides import is_within
from resnet_exp.interfaces import ConfigError

# What may stand before the : of a reference: none of these reads the environment, or text as a reference again.
_HARMLESS = (
    "now",
    "hydra",
    "oc.select",
    "oc.deprecated",
    "oc.dict.keys",
    "oc.dict.values",
    "python_version",
    "hydra_override_dirname",
)
_START = re.compile(r"\$\{\s*([^:{}]*)([:{}]?)")
_OURS = {"hydra.sweep.dir": "${oc.env:RESNET_EXP_SWEEP,multirun}"}


def check_references(tree: Mapping[str, Any], overrides: Sequence[Override], plugin_folders: Sequence[Path]) -> None:
    """Raises ConfigError where a yaml reads the environment, in which passwords are: it may also say where they go.

    Args:
        tree: a composed config, with its `hydra` section and its references.
        overrides: those of the command line, whose own keys may refer to anything.
        plugin_folders: the user's own, whose yamls may too.
    """
    keys = [override.key_or_group for override in overrides]  # a choice of a group, which has no dot, says no values
    for key, value in flat(dict(tree)).items():
        text = str(value)
        if "${" not in text or all(map(_is_harmless, _START.findall(text))) or _OURS.get(key) == value:
            continue
        if key.startswith("hydra.overrides.") or any(
            key == typed or ("." in typed and is_within(key, typed)) for typed in keys
        ):
            continue
        if not any(text in path.read_text() for folder in plugin_folders for path in folder.glob("conf/**/*.yaml")):
            raise ConfigError(
                f"{key}={text}: a yaml reads more than other keys, such as the environment; if you want it, add "
                f"'{key}={text}'"
            )


def _is_harmless(start: tuple[str, str]) -> bool:
    name, end = start
    return end == "}" or (end == ":" and name.strip() in _HARMLESS)
