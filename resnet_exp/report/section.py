"""What a part of a report gives: figures with their data beside them, a table, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Gap(Exception):
    """Why a part cannot be drawn, in a sentence for the report's reader. It never loses the run."""


@dataclass(frozen=True)
class Figure:
    """A picture in `report/`."""

    image: Path  # PNG, or SVG for curves
    alt: str  # what can be seen, with its main numbers, for those who do not see it
    caption: str = ""  # how to read it, in a sentence or two
    data: Path | None = None  # the CSV or JSON it is drawn from
    wide: bool = False  # on a narrow screen it is scrolled rather than shrunk


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are aligned on the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    caption: str = ""
    data: Path | None = None


@dataclass(frozen=True)
class Section:
    """One part of the report, as it was drawn; or, with a gap, why it was not."""

    title: str
    text: str = ""  # above the figures
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    gap: str | None = None
