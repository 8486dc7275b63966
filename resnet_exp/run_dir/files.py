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
    """Writes the value to `path` as JSON; NaN and infinity, which JSON does not have, become null."""
    write_durably(path, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The value in the JSON file at `path`, or None if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a table to `path` and returns the path; file names in it may be of any bytes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    # Python represents undecodable bytes of a file name as surrogates; this writes the bytes themselves.
    write_durably(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return path


def displayed(text: str) -> str:
    """The text as any database and page takes it: bytes of a file name that are no text, and NUL, become marks."""
    return re.sub("[\ud800-\udfff\0]", "\N{REPLACEMENT CHARACTER}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
