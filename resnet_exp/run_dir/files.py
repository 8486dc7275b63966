"""Writes files that exist whole or not at all, whenever the process is killed; and reads them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from resnet_exp.config.redact import redacted

# What a formula begins with. Source: OWASP, "CSV Injection"; the last four are taken for the first ones in East Asia.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf")  # as Python writes numbers


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Writes the content to `path`, whole or not at all; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another name in the same folder: only a rename within a file system is atomic.
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    # The new name is an entry of the folder, which must reach the disk too.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes the value to `path` as JSON, without secrets; NaN and infinity, which JSON does not have, become null."""
    write_durably(path, (json.dumps(redacted(_finite(value)), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The value in the JSON file at `path`, or None if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a table to `path` and returns the path; file names in it may be of any bytes.

    A text that a spreadsheet would run as a formula, such as a class named `=1+1`, gets an apostrophe before it, which
    makes it a text there; `read_csv` takes it off.
    """
    text = "".join(_line(row) for row in (columns, *rows))
    # Python represents undecodable bytes of a file name as surrogates; this writes the bytes themselves.
    write_durably(path, text.encode("utf-8", "surrogateescape"))
    return path


def displayed(text: str) -> str:
    """The text as any database and page takes it: bytes of a file name that are no text, and NUL, become marks."""
    return re.sub("[\ud800-\udfff\0]", "\N{REPLACEMENT CHARACTER}", text)


def read_csv(path: Path) -> list[list[str]]:
    """The cells that `write_csv` wrote, as texts; the first row has the columns' names."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [[cell[1:] if _is_marked(cell) else cell for cell in row] for row in csv.reader(file)]


def _line(row: Iterable[Any]) -> str:
    line = io.StringIO()
    # With the csv module's own end of line, \r\n, a name that has either of the two is quoted.
    csv.writer(line).writerow([_as_text(cell) for cell in row])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and (_is_formula(cell) or _is_marked(cell)) else cell


def _is_marked(text: str) -> bool:
    """Whether it is a formula after apostrophes: written so, or by chance a name of this kind."""
    return text.startswith("'") and _is_formula(text.lstrip("'"))


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet would run it; negative numbers are none."""
    return text.startswith(_FORMULA) and not _NEGATIVE.fullmatch(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
