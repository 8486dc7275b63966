"""Mistyped names: the one that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from resnet_exp.interfaces import ConfigError

_MANY = 24  # names that a message lists
# difflib's ratio, 0..1. At 0.65 one slip in any key of ours is understood (99.9 % of 2,000); above it slips in short
# keys are not, below it `model.depth` becomes `model.width`. Across sections, where more names compete, more is needed.
_NEAR, _FAR = 0.65, 0.8


class UnknownKey(ConfigError):
    """A key that nobody reads; the message names the nearest known one."""

    def __init__(self, key: str, known: Iterable[str], of: str = "") -> None:
        self.key = key
        super().__init__(f"{key} is no key{of}; {_hint(key, list(known))}")


def _hint(key: str, known: list[str]) -> str:
    near = closest(key, known)
    if near:
        return f"did you mean {near}?"
    if len(known) > _MANY:
        return "--help lists them"
    return f"known are {', '.join(name.rpartition('.')[2] for name in known) or 'none'}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a mistyped one is most like; None where none is near.

    Of dotted names the last part counts, among those of the same section; then the whole name, where there is no such
    section; then the last part among those of all sections, as for `train.width`.
    """
    whole = {one.lower(): one for one in known}
    section, _, last = name.lower().rpartition(".")
    beside = {one.rpartition(".")[2]: whole[one] for one in whole if one.rpartition(".")[0] == section}
    anywhere = {one.rpartition(".")[2]: whole[one] for one in reversed(whole)}  # of equal ones the first
    if not beside and (found := _closest(name.lower(), whole, _FAR)):
        return found
    return _closest(last, beside, _NEAR) or _closest(last, anywhere, _FAR)


def _closest(typed: str, names: Mapping[str, str], cutoff: float) -> str | None:
    close = get_close_matches(typed, names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None
