"""What a plug-in takes, read from its source: its settings are checked before torch, or the plug-in, is imported."""

from __future__ import annotations

import ast
import importlib.util
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import annotated_types

from resnet_exp import ranges
from resnet_exp.interfaces import ConfigError

# What an annotation may be made of; a name from elsewhere leaves its argument unchecked here.
_NAMES: dict[str, Any] = {
    **{name: value for name, value in vars(annotated_types).items() if not name.startswith("_")},
    **{name: value for name, value in vars(ranges).items() if not name.startswith("_")},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)},
    **{name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")},
    "__builtins__": {},
}


_MANY = 24  # names that a message lists


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class or function: their annotations by name, and those that have no default."""

    annotations: dict[str, Any]
    required: tuple[str, ...]
    takes_any: bool  # there is a `**kwargs`


@cache
def arguments_of(target: str) -> Arguments | None:
    """The arguments of `module.Name`, from the module's source; None where that does not say (an inherited `__init__`).

    Only the packages that the module lies in are imported.
    """
    module, _, name = target.rpartition(".")
    tree = _source(module)
    found = next((node for node in tree.body if getattr(node, "name", None) == name), None) if tree else None
    if isinstance(found, ast.ClassDef):
        found = next((node for node in found.body if getattr(node, "name", None) == "__init__"), None)
        skipped = 1  # self
    else:
        skipped = 0
    if tree is None or not isinstance(found, ast.FunctionDef):
        return None
    spec = found.args
    positional = [*spec.posonlyargs, *spec.args][skipped:]
    with_default = len(spec.defaults)
    required = [arg.arg for arg in positional[: len(positional) - with_default]]
    required += [arg.arg for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if default is None]
    constants = _constants(tree)
    annotations = {arg.arg: _annotation(arg.annotation, constants) for arg in [*positional, *spec.kwonlyargs]}
    return Arguments(annotations, tuple(required), spec.kwarg is not None)


def check_settings(group: str, target: str, settings: dict[str, Any], given: Iterable[str] = ()) -> None:
    """Raises ConfigError unless the target takes each setting by its name, type and range, and none is missing.

    Args:
        group: what stands before the keys on the command line, such as `model`.
        target: `module.Name`; where its source does not say what it takes, nothing is checked here.
        settings: by key.
        given: arguments that the run gives, not the config.
    """
    arguments = arguments_of(target)
    if arguments is None:
        return
    known = [name for name in arguments.annotations if name not in given]
    for key, value in settings.items():
        if key in known:
            ranges.admitted(f"{group}.{key}", value, arguments.annotations[key])
        elif not arguments.takes_any or key in given:
            raise ConfigError(unknown_key(f"{group}.{key}", [f"{group}.{name}" for name in known], f" of {target}"))
    for name in arguments.required:
        if name not in settings and name not in given:
            raise ConfigError(f"{group}.{name} is missing: {target} has no default for it; set {group}.{name}=...")


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


def _source(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
        return ast.parse(Path(spec.origin).read_text()) if spec and spec.origin else None
    except (ImportError, OSError, SyntaxError, ValueError):  # whoever imports it says what is wrong
        return None


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The module's `NAME = expression`, by name."""
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _annotation(node: ast.expr | None, constants: dict[str, ast.expr]) -> Any:
    """The annotation's value; Any where there is none, or one that only running the module would tell."""
    if node is None:
        return Any
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - _NAMES.keys()
    known = {
        name: value for name, value in constants.items() if name not in names
    }  # `A = f(A)` would go round for ever
    local = {name: _annotation(constants[name], known) for name in names & constants.keys()}
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {**_NAMES, **local})
    except Exception:
        return Any
