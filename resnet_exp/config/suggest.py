"""Mistyped names: the one that was meant."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_exp.interfaces import ConfigError

_MANY = 24  # names that a message lists


class UnknownKey(ConfigError):
    """A key that nobody reads; the message names the nearest known one."""

    def __init__(self, key: str, known: Iterable[str], of: str = "") -> None:
        self.key = key
        super().__init__(f"{key} is no key{of}; {_hint(key, list(known))}")


def _hint(key: str, known: list[str]) -> str:
    near = nearest(key, known)
    if near:
        return f"did you mean {near}?"
    if len(known) > _MANY:
        return "--help lists them"
    return f"known are {', '.join(name.rpartition('.')[2] for name in known) or 'none'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the fewest typing slips lead to; None where none is near."""
    distance, found = min(((_slips(name, one), one) for one in known), default=(len(name), None))
    return found if distance <= max(1, len(name.rpartition(".")[2]) // 3) else None


def _slips(typed: str, meant: str) -> int:
    """Letters left out, put in, changed or swapped with the next.

    Source: optimal string alignment; Damerau, A technique for computer detection and correction of spelling errors
    (CACM 7, 1964).
    """
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for i, letter in enumerate(typed, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(meant, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other)))
            if i > 1 and j > 1 and typed[i - 2 : i] == meant[j - 2 : j][::-1]:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]
