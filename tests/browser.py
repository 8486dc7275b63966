"""A real browser for the tests that look at pages; where there is none they are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium_page(
    width: int = 1400, height: int = 900, color_scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """A blank page of a browser window of this size; the browser ends with the block."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"there is no browser on this machine ({', '.join(_NAMES)})")
    with playwright.sync_playwright() as driver:
        # The sandbox needs rights that a container's root does not have; only our own pages are opened.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, color_scheme=color_scheme)
        finally:
            browser.close()
