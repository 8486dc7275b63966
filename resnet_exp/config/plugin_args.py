"""What a plug-in takes, read from its source: its settings are checked before torch, or the plug-in, is imported."""

from __future__ import annotations

import ast
import importlib.util
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from resnet_exp.config import ranges
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.interfaces import ConfigError

# What an annotation may consist of beside the module's own `NAME = expression`: types of Python, and what is imported
# from one of these modules.
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)}
_HOMES: dict[str | None, dict[str, Any]] = {
    "annotated_types": {bound.__name__: bound for bound in (Ge, Gt, Le, Lt, MinLen)},
    "resnet_exp.config.ranges": {name: value for name, value in vars(ranges).items() if get_origin(value) is not None},
    "typing": {name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")},
}
_HOW = (
    f"it can be read where its names are Python's {', '.join(_TYPES)}, imports from {', '.join(map(str, _HOMES))}, or "
    "a NAME = expression of the module itself"
)


class _Unreadable(Exception):
    """Why an annotation's value does not show in the source."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class or function: their annotations by name, and those that have no default."""

    annotations: dict[str, Any]  # Any: every value is taken
    required: tuple[str, ...]
    takes_any: bool  # there is a `**kwargs`
    unreadable: dict[str, str]  # arguments whose annotation is there and cannot be read, and why


@cache
def arguments_of(target: str) -> Arguments | None:
    """The arguments of `module.Name`, from the module's source; None where that does not say (an inherited `__init__`).

    Only the packages that the module lies in are imported.
    """
    tree, found = _definition(target)
    if isinstance(found, ast.ClassDef):
        if not found.bases and not _has_init(found):
            return Arguments({}, (), False, {})  # object's own __init__ takes nothing
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
    annotations, unreadable = _annotations([*positional, *spec.kwonlyargs], _names(tree))
    return Arguments(annotations, tuple(required), spec.kwarg is not None, unreadable)


def _has_init(found: ast.ClassDef) -> bool:
    return found.decorator_list != [] or any(getattr(node, "name", None) == "__init__" for node in found.body)


def unchecked_arguments(group: str, target: str, given: Iterable[str] = ()) -> list[str]:
    """A sentence for each setting whose range its author has written, and that is not checked all the same.

    An argument without an annotation is not reported: it takes every value, as anywhere in Python.

    Args:
        group: the part before the keys on the command line, such as `model`.
        target: `module.Name`.
        given: arguments that the run gives, not the config.
    """
    arguments = arguments_of(target)
    if arguments is None:
        _, found = _definition(target)  # where there is none, or no module, the run is refused
        return [f"no {group}.* is checked: {target} has no __init__ of its own, with annotations"] if found else []
    return [
        f"{group}.{name} is not checked: its annotation in {target} cannot be read ({why}); {_HOW}"
        for name, why in arguments.unreadable.items()
        if name not in given
    ]


def checked_settings(group: str, target: str, settings: dict[str, Any], given: Iterable[str] = ()) -> dict[str, Any]:
    """The settings as the target's types have them, if it takes each by its name and range, and none is missing.

    Args:
        group: the part before the keys on the command line, such as `model`.
        target: `module.Name`; where its source does not say what it takes, nothing is checked here.
        settings: by key.
        given: arguments that the run gives, not the config.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type or out of range.
    """
    arguments = arguments_of(target)
    if arguments is None:
        return settings
    known = [name for name in arguments.annotations if name not in given]
    for key in settings:
        if key not in known and (key in given or not arguments.takes_any):
            raise UnknownKey(f"{group}.{key}", [f"{group}.{name}" for name in known], f" of {target}")
    for name in arguments.required:
        if name not in settings and name not in given:
            raise ConfigError(f"{group}.{name} is missing: {target} has no default for it; set {group}.{name}=...")
    return {
        key: ranges.admitted(f"{group}.{key}", value, arguments.annotations.get(key, Any))
        for key, value in settings.items()
    }


def _definition(target: str) -> tuple[ast.Module | None, ast.stmt | None]:
    """The source of the target's module, and in it what makes the target: a class, a function or an assignment."""
    module, _, name = target.rpartition(".")
    tree = _source(module)
    for node in tree.body if tree else ():
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if getattr(node, "name", None) == name or name in [one.id for one in targets if isinstance(one, ast.Name)]:
            return tree, node
    return tree, None


def _source(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
        return ast.parse(Path(spec.origin).read_text()) if spec and spec.origin else None
    except (ImportError, OSError, SyntaxError, ValueError):  # whoever imports it says what is wrong
        return None


def _names(tree: ast.Module) -> dict[str, Any]:
    """What the module calls by which name: a value, the expression of `NAME = expression`, or None: unknown here."""
    names = {**_TYPES}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node.value
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = None
        elif isinstance(node, ast.ImportFrom):
            home = _HOMES.get(node.module, {})
            names |= {alias.asname or alias.name: home.get(alias.name) for alias in node.names}
    return names


def _annotations(arguments: Iterable[ast.arg], names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The annotations by argument, Any where there is none; and why those that cannot be read cannot."""
    annotations: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for argument in arguments:
        annotations[argument.arg] = Any
        try:
            if argument.annotation is not None:
                annotations[argument.arg] = _value(argument.annotation, names)
        except _Unreadable as why:
            unreadable[argument.arg] = str(why)
    return annotations, unreadable


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """The annotation's value.

    Evaluating it is no sandbox: the module is one that a config may name, and is imported after this.

    Raises:
        _Unreadable: only running the module would show it, or it is no type that a setting can be checked against.
    """
    text = ast.unparse(node)
    try:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        values = {name: _named(name, names) for name in sorted(used)}
        value = eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}, **values})
    except _Unreadable:
        raise
    except Exception as error:  # whatever an expression can raise
        raise _Unreadable(f"{text}: {error}") from error
    strange = [leaf for leaf in _leaves(value) if leaf not in (*_TYPES.values(), None, type(None), Any)]
    if strange:
        raise _Unreadable(f"{text}: no setting can be held against {strange[0]}")
    return value


def _named(name: str, names: dict[str, Any]) -> Any:
    value = names.get(name)
    if value is None:
        raise _Unreadable(f"what {name} is does not show in the source")
    others = {other: value for other, value in names.items() if other != name}  # or `A = f(A)` would never end
    return _value(value, others) if isinstance(value, ast.expr) else value


def _leaves(annotation: Any) -> list[Any]:
    """The types in an annotation, without what holds them together."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _leaves(inner[0])
    if origin in (Union, types.UnionType, list, tuple):
        return [leaf for one in inner if one is not Ellipsis for leaf in _leaves(one)]
    return [] if origin in (Literal, dict) else [annotation]
