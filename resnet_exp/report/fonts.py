"""Fonts for names that matplotlib's own font cannot write: Chinese, Japanese, Korean, emoji, and all others.

matplotlib takes each character from the first font of a list that has it. The list is `families()`; it grows by
`look_for` with what figures turn out to need. matplotlib is imported once something is drawn: a run needs none.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_families = ["sans-serif"]  # DejaVu Sans, which comes with matplotlib
_undrawable: set[str] = set()  # characters that no installed font has
_log = logging.getLogger(__name__)


def families() -> tuple[str, ...]:
    """The fonts to write with; the first that has a character writes it."""
    return tuple(_families)


def look_for(characters: Iterable[str]) -> bool:
    """Adds installed fonts that have these characters; returns whether anything is written differently from now on.

    Characters that no font has are noted, for `drawable`; the user is told of them once.
    """
    left = {*characters} - _undrawable
    if not left:
        return False
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    before = len(_families)
    covers = _covers(left)
    while left & set().union(*covers.values()):
        path = max(covers, key=lambda one: len(covers[one] & left))  # of equal ones the first
        left -= covers[path]
        fontManager.addfont(path)
        family = FT2Font(path).family_name
        if family not in _families:
            _families.append(family)
    _undrawable.update(left)
    if left:
        _log.warning(
            "no installed font has %s: figures show ? instead, and the numbers of such classes; a font of this script "
            "helps, such as those of Debian's fonts-noto-cjk, fonts-noto-core (other scripts) or fonts-symbola (emoji)",
            " ".join(f"{one} (U+{ord(one):04X})" for one in sorted(left)[:8]) + (" ..." if len(left) > 8 else ""),
        )
    return bool(left) or len(_families) > before


def is_drawable(text: str) -> bool:
    """Whether a font has each of its characters, as far as figures have needed them by now."""
    return _undrawable.isdisjoint(text)


def drawable(text: str) -> str:
    """The text with a `?` for each character that no font has; marks without a shape of their own are left out."""
    if is_drawable(text):
        return text
    return "".join(one if one not in _undrawable else "" if _is_shapeless(one) else "?" for one in text)


def isolated(name: str) -> str:
    """The name so that one written from right to left turns nothing beside it: `→ שלום 97%` would begin with `%`."""
    if all(unicodedata.bidirectional(one) not in ("R", "AL") for one in name):
        return name
    return f"{_FIRST_STRONG_ISOLATE}{name}{_POP_ISOLATE}"


def _is_shapeless(character: str) -> bool:
    """Whether it only changes its neighbours, such as an emoji's variation selector."""
    return unicodedata.category(character) in ("Cf", "Mn")


def _covers(characters: set[str]) -> dict[str, set[str]]:
    """Those of the characters that each installed font has, by its path; plain fonts without serifs first."""
    from matplotlib import font_manager

    # Looked for on the disk: matplotlib remembers a list of fonts, and would not see one that was installed since.
    paths = sorted(font_manager.findSystemFonts(), key=lambda path: (*_is_not_plain(Path(path).stem), path))
    return {path: has for path in paths if (has := _drawable_with(path, characters))}


def _is_not_plain(name: str) -> tuple[bool, ...]:
    return "Sans" not in name, any(word in name for word in ("Bold", "Italic", "Oblique", "Mono", "Condensed"))


def _drawable_with(path: str, characters: set[str]) -> set[str]:
    """Those of the characters that matplotlib can draw with the font; none of a colour emoji font made of bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        known = font.get_charmap()
        has = {one for one in characters if ord(one) in known}
        font.set_size(10, 100)
        for one in has:
            font.load_char(ord(one))
    except (OSError, RuntimeError, ValueError):
        return set()
    return has
