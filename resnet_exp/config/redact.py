"""Texts and settings without their secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

_SECRET = r"\w*(?:password|passwd|token|secret\w*|api_?key|access_?key|authorization)"
_SECTION = r"(?:tracker|hydra\.job\.env_set)"  # where secrets may be set: the second, as environment variables
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s'\",}]+)"  # quoted, as Hydra needs it for ! # & ; =, or plain


def redact(text: str) -> str:
    """The text with *** in place of secrets.

    These are the password, or a token in place of the user's name, of every address, and a setting of a tracker or of
    the environment on a command line whose name says that it is one, such as `tracker.api_key=...`.
    """
    text = re.sub(r"([\w+.-]+://[^:/@\s]*):[^\s'\"]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)
    text = re.sub(rf"(\b{_SECTION}\.(?:\w+\.)*{_SECRET}=){_VALUE}", r"\1***", text, flags=re.IGNORECASE)
    return re.sub(r"([?&](?:password|token|secret|sslpassword)=)[^&#\s'\"]*", r"\1***", text, flags=re.IGNORECASE)


def redacted_command(arguments: Iterable[str]) -> str:
    """The command line of these overrides, quoted for a shell, without secrets.

    Each override is looked at before it is quoted: the value of a secret may hold blanks and quotes.
    """
    return redact(shlex.join(["python", "-m", "resnet_exp", *map(_redacted_override, arguments)]))


def _redacted_override(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not re.match(rf"[+~]*{_SECTION}(?:\.|$)", key):
        return text
    if any(map(is_secret, key.split("."))):
        return f"{key}=***"
    inside = re.sub(rf"({_SECRET}\s*:\s*){_VALUE}", r"\1***", value, flags=re.IGNORECASE)  # the keys of a mapping
    return f"{key}={inside}"


def is_secret(name: str) -> bool:
    """Whether a setting's name says that its value is a secret."""
    return re.fullmatch(_SECRET, name, flags=re.IGNORECASE) is not None


def without_secrets(settings: Any) -> Any:
    """Settings, however nested, with *** for each whose name says that it is a secret."""
    if isinstance(settings, dict):
        return {
            key: "***" if is_secret(str(key)) and value is not None else without_secrets(value)
            for key, value in settings.items()
        }
    return [without_secrets(one) for one in settings] if isinstance(settings, list) else settings
