"""`Section`: what a part of a report returns, its figures and tables, or the reason why it has none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnet_exp.config.redact import redact
from resnet_exp.data.memory import first_words
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.files import Unwritable

_log = logging.getLogger(__name__)


class Gap(Exception):
    """Raised by a part that cannot be drawn, with the reason in a sentence for the reader; the run goes on."""


@dataclass(frozen=True)
class Figure:
    """A picture in `report/`."""

    image: Path  # PNG, or SVG for curves
    alt: str  # describes the picture, with its main numbers, for those who do not see it
    caption: str = ""  # how to read the picture, in a sentence or two
    data: Path | None = None  # the CSV or JSON that it is drawn from
    wide: bool = False  # on a narrow screen it scrolls instead of shrinking


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are aligned on the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    caption: str = ""
    data: Path | None = None


@dataclass(frozen=True)
class Section:
    """One part of the report: its figures and tables, or in `gap` the reason why it was not drawn."""

    title: str
    text: str = ""  # above the figures
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    gap: str | None = None
    is_broken: bool = False  # whether an error is the reason for the gap, not that there is nothing to draw

    @property
    def files(self) -> list[Path]:
        """Its pictures, each before its data, and the data of its tables."""
        files = [file for figure in self.figures for file in (figure.image, figure.data)]
        return [file for file in (*files, *(table.data for table in self.tables)) if file]


def drawn(title: str, draw: Callable[[], Section]) -> Section:
    """Returns what `draw` does, in our own style; a part that cannot be drawn is a section with a gap, and costs no
    other.

    Raises:
        Unwritable: its files do not fit on the disk.
    """
    try:
        from resnet_exp.report.drawing import in_own_style  # matplotlib: a broken one costs the figures alone

        return in_own_style(draw)
    except Unwritable:  # nothing more will fit, and a report with gaps would pass for a whole one
        raise
    except (Gap, ConfigError, RunError) as reason:
        return Section(title, gap=str(reason))
    except Exception as error:
        _log.debug("the part %r could not be drawn", title, exc_info=True)
        return Section(title, gap=redact(f"{type(error).__name__}: {first_words(error)}"), is_broken=True)
