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

from annotated_types import Ge, Gt, Le, Lt, MinLen

from resnet_exp.config import ranges
from resnet_exp.config.suggest import UnknownKey
from resnet_exp.interfaces import ConfigError

# What an annotation may be made of, and the modules that these names come from. Any other name leaves its argument
# unchecked here.
_NAMES: dict[str, Any] = {
    **{bound.__name__: bound for bound in (Ge, Gt, Le, Lt, MinLen)},
    **{name: value for name, value in vars(ranges).items() if typing.get_origin(value) is not None},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)},
    **{name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")},
    "__builtins__": {},
}
_HOMES = ("annotated_types", "resnet_exp.config.ranges", "typing")


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
    bound = _bound(tree)
    annotations = {arg.arg: _annotation(arg.annotation, bound) for arg in [*positional, *spec.kwonlyargs]}
    return Arguments(annotations, tuple(required), spec.kwarg is not None)


def checked_settings(group: str, target: str, settings: dict[str, Any], given: Iterable[str] = ()) -> dict[str, Any]:
    """The settings as the target's types have them, if it takes each by its name and range, and none is missing.

    Args:
        group: what stands before the keys on the command line, such as `model`.
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


def _source(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
        return ast.parse(Path(spec.origin).read_text()) if spec and spec.origin else None
    except (ImportError, OSError, SyntaxError, ValueError):  # whoever imports it says what is wrong
        return None


def _bound(tree: ast.Module) -> dict[str, ast.expr | None]:
    """What the module itself calls by a name: the expression of `NAME = expression`; None where that does not show."""
    bound: dict[str, ast.expr | None] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            bound |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            bound[node.name] = None
        elif isinstance(node, ast.ImportFrom) and node.module not in _HOMES:
            bound |= {alias.asname or alias.name: None for alias in node.names}
    return bound


def _annotation(node: ast.expr | None, bound: dict[str, ast.expr | None]) -> Any:
    """The annotation's value; Any where there is none, or one that only running the module would tell.

    Evaluating it is no sandbox: the module is one that a config may name, and is imported after this.
    """
    if node is None:
        return Any
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    others = {name: value for name, value in bound.items() if name not in names}  # or `A = f(A)` would never end
    local = {}
    for name in names & bound.keys():
        if bound[name] is None:
            return Any
        local[name] = _annotation(bound[name], others)
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {**_NAMES, **local})
    except Exception:
        return Any
