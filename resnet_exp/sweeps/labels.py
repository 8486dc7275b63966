"""Labels: what distinguishes each job of a sweep from the others, as short as it can be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_DIGITS = range(4, 16)  # of a shortened number; with more, 0.05 would be 0.050000000000000003
_QUOTED = r"""'[^'\\]+'|"[^"\\]+\""""  # without quotes or backslashes inside
_LONG = 8  # characters: shorter numbers stay as they were written


def short_points(points: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Returns each point with short keys and values; points that differ stay different."""
    keys = dict.fromkeys(key for point in points for key in point)
    shown = {key: short_values(point[key] for point in points if key in point) for key in keys}
    return [{short_key(key, point): shown[key][value] for key, value in point.items()} for point in points]


def short_key(key: str, among: Mapping[str, Any]) -> str:
    """Returns the last part of a dotted key, or the whole where another key has the same last part."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else key


def short_values(values: Iterable[str]) -> dict[str, str]:
    """Returns the short form of each value: of a long number, so many digits that no other one looks like it."""
    distinct = set(values)
    left = set(distinct)
    shown: dict[str, str] = {}
    for digits in _DIGITS:
        forms = Counter(_rounded(value, digits) for value in distinct)
        found = {value: form for value in left if forms[form := _rounded(value, digits)] == 1}
        shown |= found
        left -= found.keys()
        if not left:
            break
    return shown | {value: value for value in left}  # equal numbers, written differently


def _rounded(value: str, digits: int) -> str:
    """A long number with so many digits, a text without its quotes; anything else unchanged."""
    if re.fullmatch(_QUOTED, value):
        return value[1:-1]
    try:
        return f"{float(value):.{digits}g}" if len(value) > _LONG else value
    except ValueError:
        return value
