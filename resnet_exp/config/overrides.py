"""Overrides of the command line, `key=value`, as text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from resnet_exp.config.redact import redact


def key_of(override: str) -> str:
    """The key or group that an override of the command line sets."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job without what only the sweep reads."""
    return [text for text in overrides if _is_of_the_run(text)]


def command_of(overrides: Sequence[str]) -> str:
    """The command that runs a job by itself; passwords are struck out, as in every command that is kept."""
    return redact(shlex.join(["python", "-m", "resnet_exp", *of_the_run(overrides)]))


def _is_of_the_run(text: str) -> bool:
    key = key_of(text)
    return key != "sweep" and not key.startswith(("sweep.", "hydra.", "hydra/"))
