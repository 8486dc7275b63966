"""Checks values against the types and ranges of annotations, with a message that says what is needed.

A range is written as part of the type: `width: Annotated[int, Ge(1)]`, `anneal: Literal["cos", "linear"]`,
`max_lr: FoundOrNumber`. So it is written once, and can be read without importing torch.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from resnet_exp.interfaces import ConfigError

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]  # larger ones would draw the same numbers as smaller ones
Text = Annotated[str, MinLen(1)]
Pixels = Annotated[int, Ge(0)]
ImageSize = Annotated[int, Ge(8), Le(1024)]  # pixels of a side
FoundOrNumber = Literal["find"] | Annotated[float, Gt(0)]  # an LR: from the range test, or given
AutoOrNumber = Literal["auto"] | Annotated[float, Gt(0)]
Factor = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
NotNegative = Annotated[float, Ge(0)]

_NOUNS = {int: "whole number", float: "finite number", str: "text", dict: "mapping"}
_REFUSED = object()
_LARGEST = sys.float_info.max  # `<=` refuses NaN, infinity, and whole numbers that float() cannot convert


def admitted(key: str, value: Any, annotation: Any) -> Any:
    """The value, converted to the annotation's type: a whole number becomes a float where a float is meant.

    Args:
        key: as the user writes it, such as `model.width`; for the message.
        value: from the config: None, bool, int, float, str, list or dict.
        annotation: a type, a union, a Literal, or an Annotated with bounds; any other admits every value.

    Raises:
        ConfigError: the value is of another type, or out of range. NaN and infinity are out of every range.
    """
    result = _admit(value, annotation)
    if result is _REFUSED:
        raise ConfigError(f"{key}={shown(value)}: {needed(annotation)} is needed{_in_quotes(value, annotation)}")
    return result


def is_changed_text(annotation: Any, typed: str, value: Any) -> bool:
    """Whether a text is meant, and this value of it would come out of `admitted` as another one, or be refused."""
    made = _admit(value, annotation)
    return bool(_admit(typed, annotation) == typed and (made is _REFUSED or (isinstance(made, str) and made != typed)))


def needed(annotation: Any) -> str:
    """The values that the annotation admits, in words: `a whole number of at least 1`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated and get_origin(arguments[0]) is list:
        least = next(bound.min_length for bound in arguments[1:] if isinstance(bound, MinLen))
        return needed(arguments[0]).replace("a list", f"a list of {least} or more", 1)
    if origin is Annotated:
        return needed(arguments[0]) + _bounds(arguments[1:])
    if origin in (Union, types.UnionType):
        # null last: the values that people set come first.
        return ", or ".join(map(needed, sorted(arguments, key=lambda one: one is type(None))))
    if origin is Literal:
        choices = [shown(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if origin in (list, tuple):
        return _needed_list(origin, [item for item in arguments if item is not Ellipsis], Ellipsis in arguments)
    if annotation is bool:
        return "true or false"
    if annotation is type(None):
        return "null"
    return f"a {_NOUNS.get(annotation, 'value')}"


def _in_quotes(value: Any, annotation: Any) -> str:
    """How to write a value that is refused for a text that looks like a number, or like true; "" for all others."""
    is_meant = isinstance(value, (bool, float)) and _admit(shown(value), annotation) is not _REFUSED
    return "; a text that looks like something else is written in quotes" if is_meant else ""


def _needed_list(kind: type, items: Sequence[Any], any_length: bool) -> str:
    words = [needed(item) for item in items]
    if kind is list or any_length:
        return f"a list, each {words[0]}" if words else "a list"
    if len(set(words)) == 1:
        return f"a list of {len(words)}, each {words[0]}"
    return f"a list of {len(words)}: {', '.join(words)}"


def shown(value: Any) -> str:
    """The value as it is written on the command line: `null`, `true`, `[1,2]`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def shown_settings(plugin: Mapping[str, Any]) -> list[str]:
    """A plug-in's settings as `key=value`, without its `_target_`."""
    return [f"{key}={shown(value)}" for key, value in plugin.items() if key != "_target_"]


def _admit(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _admit_plain(value, dict)
    if origin is Annotated:
        result = _admit(value, arguments[0])
        return result if result is not _REFUSED and _within(result, arguments[1:]) else _REFUSED
    if origin in (Union, types.UnionType):
        results = (_admit(value, member) for member in arguments)
        return next((result for result in results if result is not _REFUSED), _REFUSED)
    if origin is Literal:
        # The type too, since 1 == True == 1.0.
        return next((one for one in arguments if one == value and type(one) is type(value)), _REFUSED)
    if origin in (list, tuple):
        return _admit_items(value, origin, arguments)
    return _admit_plain(value, annotation)


def _admit_plain(value: Any, kind: Any) -> Any:
    if kind is type(None):
        return None if value is None else _REFUSED
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if number and -_LARGEST <= value <= _LARGEST else _REFUSED
    if kind is int:  # a bool is an int in Python
        return value if isinstance(value, int) and not isinstance(value, bool) else _REFUSED
    if kind is str:  # Hydra parses name=7 as a number; the text 7 is meant. How a float was written is not known
        return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else _REFUSED
    if kind in (bool, dict, list, tuple):
        return value if isinstance(value, kind) else _REFUSED
    return value


def _admit_items(value: Any, kind: type, arguments: Sequence[Any]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _REFUSED
    if kind is list or Ellipsis in arguments:
        arguments = [arguments[0]] * len(value) if arguments else [Any] * len(value)
    if len(value) != len(arguments):
        return _REFUSED
    items = [_admit(item, annotation) for item, annotation in zip(value, arguments, strict=True)]
    return _REFUSED if any(item is _REFUSED for item in items) else kind(items)


def _within(value: Any, bounds: Sequence[Any]) -> bool:
    for bound in bounds:
        match bound:
            case Ge(least) if not value >= least:
                return False
            case Gt(least) if not value > least:
                return False
            case Le(most) if not value <= most:
                return False
            case Lt(most) if not value < most:
                return False
            case MinLen(length) if len(value) < length:
                return False
    return True


def _bounds(bounds: Sequence[Any]) -> str:
    low = high = ""
    for bound in bounds:
        match bound:
            case Ge(least):
                low = f"{least}"
            case Gt(least):
                low = f"above {least}"
            case Le(most):
                high = f"{most}"
            case Lt(most):
                high = f"below {most}"
            case MinLen(length):
                return f" of {length} or more letters"
    if low and high:
        return f" {low} to {high}" if low.startswith("above") else f" from {low} to {high}"
    if low:
        return f" {low}" if low.startswith("above") else f" of at least {low}"
    return f" {high if high.startswith('below') else f'of at most {high}'}" if high else ""
