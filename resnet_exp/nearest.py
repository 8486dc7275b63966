"""Mistyped names: the one that was meant."""

from __future__ import annotations

from collections.abc import Iterable

_MANY = 24  # names that a message lists


def unknown_key(key: str, known: Iterable[str], of: str = "") -> str:
    """The message about a key that nobody reads, with the nearest known one."""
    known = list(known)
    near = nearest(key, known)
    if near:
        return f"{key} is no key{of}; did you mean {near}?"
    shown = ", ".join(name.rpartition(".")[2] for name in known) or "none"
    return f"{key} is no key{of}; " + (f"known are {shown}" if len(known) <= _MANY else "--help lists them")


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
