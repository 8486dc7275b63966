"""`redact`: a text with the secrets of its addresses replaced by ***."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """The text with *** for the password of every address, for a token before its @, and for secrets in its query."""
    text = re.sub(r"([\w+.-]+://[^:/@\s]*):[^\s'\"]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)
    return re.sub(r"([?&](?:password|token|secret|sslpassword)=)[^&#\s'\"]*", r"\1***", text, flags=re.IGNORECASE)
