"""`calling`: something happens where a named function is called for the n-th time."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any


def calling(target: str, number: int, then: Callable[[], object], *, after: bool = False) -> Callable[[], None]:
    """What `start` takes as `before`: the call of that number, from 1, of a function or method does `then` first.

    Args:
        target: its full name; a function that others import by name is replaced there too.
        number: of the call; later ones are left alone.
        then: what happens, such as a kill or an exception.
        after: when the function has returned instead.
    """

    def install() -> None:
        owner, name = _owner(target)
        whole = getattr(owner, name)
        count = 0

        @functools.wraps(whole)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            is_now = count == number
            if is_now and not after:
                then()
            value = whole(*arguments, **keywords)
            if is_now and after:
                then()
            return value

        setattr(owner, name, counted)
        _replace_imported(whole, counted)

    return install


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that has the function, and its name there."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:-1]:
            owner = getattr(owner, part)
        return owner, parts[-1]
    raise AssertionError(f"there is no {target}")


def _replace_imported(whole: Any, counted: Any) -> None:
    """Replaces what modules of ours took by `from ... import`."""
    for name, module in list(sys.modules.items()):
        if name.startswith("resnet_exp"):
            for key, value in list(vars(module).items()):
                if value is whole:
                    setattr(module, key, counted)
