"""Rows R1, ...: killed runs, and what they are compared with."""

from __future__ import annotations

from pathlib import Path

from ..trials import TINY, Row, differences, reference, run_directory, start


def _plain(number: int, folder: Path) -> None:
    command = start(*TINY)
    assert command.wait() == 0, command.output
    found = differences(run_directory(folder), reference(*TINY))
    assert not found, found


ROWS = (Row("R0", "none", "two runs are equal", 4, 4, _plain),)
