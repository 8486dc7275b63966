"""Texts without the secrets that stand in addresses."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """The text with the password, or a token in place of the user's name, of every address replaced by ***."""
    text = re.sub(r"([\w+.-]+://[^:/@\s]*):[^\s'\"]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)
    return re.sub(r"([?&](?:password|token|secret|sslpassword)=)[^&#\s'\"]*", r"\1***", text, flags=re.IGNORECASE)
