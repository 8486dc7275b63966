"""Texts and settings without their secrets."""

from __future__ import annotations

import re

_SECRET = r"\w*(?:password|token|secret|api_?key)"


def redact(text: str) -> str:
    """The text with *** in place of secrets.

    These are the password, or a token in place of the user's name, of every address, and a tracker's setting on a
    command line whose name says that it is one, such as `tracker.api_key=...`.
    """
    text = re.sub(r"([\w+.-]+://[^:/@\s]*):[^\s'\"]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)
    text = re.sub(rf"(\btracker\.{_SECRET}=)[^\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
    return re.sub(r"([?&](?:password|token|secret|sslpassword)=)[^&#\s'\"]*", r"\1***", text, flags=re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a setting's name says that its value is a secret."""
    return re.fullmatch(_SECRET, name, flags=re.IGNORECASE) is not None
