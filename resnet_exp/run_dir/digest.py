"""A short name for a value: signatures of runs and names of sweeps end with it."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(value: Any) -> str:
    """Twelve hex digits of a value's JSON, whatever the order of its keys; equal values have equal digits.

    Directories of runs and sweeps are found again by these digits: another way of writing the JSON would lose them.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
