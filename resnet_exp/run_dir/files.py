"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Puts the content at `path` whole or not at all, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Puts the value at `path` as JSON; a number that is not finite becomes null, for which JSON has no other word."""
    write_durably(path, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """What stands at `path`, or None where nothing does."""
    return json.loads(path.read_text()) if path.exists() else None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Puts a table at `path` and returns the path; file names of any bytes are kept as they are."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_durably(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
