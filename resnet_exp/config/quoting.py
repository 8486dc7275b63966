"""Overrides as their author meant them, where Hydra would read something else, or nothing at all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from resnet_exp.config.config import GROUPS
from resnet_exp.config.overrides import key_of, name_and_value
from resnet_exp.config.plugin_args import arguments_of
from resnet_exp.config.ranges import is_changed_text
from resnet_exp.config.schema import ReportConfig, TopLevelConfig

_SYNTAX = re.compile(rf"\s*(?:[\[{{\"']|(?:{'|'.join(create_functions().definitions)})\s*\()|.*\$\{{", re.DOTALL)
_NESTS = re.compile(r"[()\[\]{}\"']")


def readable(text: str) -> str:
    """Returns the override; with its value in quotes, as a text, where Hydra cannot read it, such as `/x/é` or `~/x`.

    Of several values, `a,b` or `[a,b]`, each is looked at by itself. What begins as a mapping, a quoted text or a
    function of Hydra stays as it is, and so do a reference and commas between brackets: there may be a slip in it.
    """
    key, value = name_and_value(text)
    if "=" not in text or _can_be_read(text) or not _can_be_read(f"{key}="):
        return text
    opening, parts, closing = _parts(value)
    if any(map(_SYNTAX.match, parts)) or (parts == [value] and "," in value):
        return text
    meant = [part if _can_be_read(f"{key}={part}") else _quoted(part) for part in parts]
    return f"{key}={opening}{','.join(meant)}{closing}"


def hint(text: str) -> str:
    """Returns how to type an override so that its value is a text; "" where that is not the cure."""
    key, value = name_and_value(text)
    if "=" not in text or not _can_be_read(f"{key}=") or value.startswith(("[", "{")):
        return ""
    return f"a text is typed {shlex.quote(f'{key}={_quoted(value)}')}"


def as_text(override: Override, trees: Sequence[dict[str, Any]]) -> str:
    """Returns the override; with those values in quotes that Hydra would turn into numbers where their key takes texts.

    Args:
        override: as Hydra reads it: `data.root=1e5` has the value 100000.0.
        trees: composed configs, which say what takes the values of plug-ins.
    """
    text, values = str(override.input_line), _values(override)
    if not any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return text
    key, value = name_and_value(text)
    opening, parts, closing = _parts(value)
    annotations = [_annotation(key_of(text), tree) for tree in trees]
    if len(parts) != len(values):
        return text

    def meant(part: str, number: Any) -> str:
        changed = any(is_changed_text(annotation, part.strip(), number) for annotation in annotations)
        return _quoted(part) if changed else part

    return f"{key}={opening}{','.join(map(meant, parts, values))}{closing}"


def _parts(value: str) -> tuple[str, list[str], str]:
    """What stands before several values, `a,b` or `[a,b]`, the values, and what stands after; else the value alone."""
    is_list = value.startswith("[") and value.endswith("]")
    opening, inner, closing = ("[", value[1:-1], "]") if is_list else ("", value, "")
    if _NESTS.search(inner) or not (is_list or "," in inner):
        return "", [value], ""
    return opening, inner.split(","), closing


def _values(override: Override) -> list[Any]:
    value = override.value()
    value = value.list if isinstance(value, ChoiceSweep) else value
    return value if isinstance(value, list) else [value]


def _annotation(key: str, tree: dict[str, Any]) -> Any:
    """What the config that this is takes for the key; Any where that does not show."""
    section, _, name = key.partition(".")
    if section in GROUPS and name:
        plugin = tree.get(section)
        arguments = arguments_of(str(plugin.get("_target_"))) if isinstance(plugin, dict) else None
        return Any if arguments is None else arguments.annotations.get(name, Any)
    schema = (ReportConfig, name) if section == "report" else (TopLevelConfig, key)
    return get_type_hints(schema[0], include_extras=True).get(schema[1], Any)


def _can_be_read(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _quoted(value: str) -> str:
    return QuotedString(value.strip(), Quote.double).with_quotes()
