"""Writes report.html: one page that needs no other file, no network and no scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from resnet_exp.config.config import flat
from resnet_exp.config.redact import redact
from resnet_exp.report.section import Section, Table
from resnet_exp.run_dir.files import write_durably

MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
CSS_DPI = 96  # a CSS pixel is 1/96 of an inch by definition
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?( ?(%|[A-Za-zµ]{1,3}))?")  # "94.2%", "1,234", "6.57 M"
NOTHING = "-"
BLANK = ("", NOTHING)


@dataclass(frozen=True)
class Page:
    """The contents of the page, from top to bottom."""

    name: str  # of the run
    headline: str  # the result in one line
    facts: Mapping[str, str]  # by name; the first line of each is large, further ones small
    command: str  # repeats the run
    sections: Sequence[Section]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    kind: str = "run"  # or "sweep": what the command repeats


def write_html(page: Page, path: Path) -> Path:
    """Writes the page to `path` and returns the path; equal pages give equal bytes."""
    # Names of folders, and so of classes, may have bytes that are not text; they are shown escaped.
    write_durably(path, page_html(page).encode("utf-8", "backslashreplace"))
    return path


def page_html(page: Page) -> str:
    """The page's HTML; all texts in it are escaped, and passwords in addresses are replaced by ***."""
    environment = Environment(
        loader=PackageLoader("resnet_exp", "report"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name raises instead of leaving a hole in the page
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(
        page=page,
        config=redact(yaml.safe_dump(dict(page.config), sort_keys=False, allow_unicode=True)),
        environment=[(key, redact(_shown(value))) for key, value in flat(dict(page.environment)).items()],
        data_uri=data_uri,
        size=size,
        cells=cells,
        numeric=numeric_columns,
    )


def data_uri(image: Path) -> str:
    """The picture's bytes as a data URI."""
    return f"data:{MEDIA_TYPES[image.suffix]};base64,{base64.b64encode(image.read_bytes()).decode()}"


def size(image: Path) -> tuple[int, int]:
    """Width and height in CSS pixels, 96 to an inch of the figure; a PNG of 150 dots an inch has more pixels."""
    if image.suffix == ".svg":
        opening = image.read_bytes()[:2000].decode(errors="replace")
        found = re.search(r'<svg[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', opening)
        assert found, f"{image} does not begin as matplotlib's SVGs do"
        width, height = (float(points) / 72 * CSS_DPI for points in found.groups())
    else:
        with Image.open(image) as picture:
            dpi = picture.info.get("dpi", (CSS_DPI, CSS_DPI))
            width, height = (pixels / per * CSS_DPI for pixels, per in zip(picture.size, dpi, strict=True))
    return round(width), round(height)


def cells(table: Table) -> list[list[str]]:
    """The rows as texts: whole numbers with separators, others to four digits."""
    return [[_shown(value) for value in row] for row in table.rows]


def numeric_columns(table: Table) -> list[bool]:
    """For each column, whether it holds only numbers, or texts of numbers, and is aligned on the right."""
    columns = zip(*cells(table), strict=True) if table.rows else [() for _ in table.columns]
    return [
        any(cell not in BLANK for cell in column) and all(cell in BLANK or NUMBER.fullmatch(cell) for cell in column)
        for column in columns
    ]


def _shown(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
