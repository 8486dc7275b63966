"""All figures are drawn under our own style and backend, in fonts that have the characters of their texts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imread

from resnet_exp.report import fonts
from resnet_exp.report.drawing import save
from resnet_exp.report.section import Figure, Gap, Section, drawn
from resnet_exp.report.tiles import Tile, draw_tiles, short

USERS = {
    "image.origin": "lower", "text.usetex": True, "font.size": 30, "font.family": "serif", "savefig.dpi": 20,
    "axes.facecolor": "red", "savefig.transparent": True, "svg.fonttype": "path", "svg.hashsalt": None,
}  # fmt: skip
CHINESE, HIEROGLYPH, NOBODYS = "\u732b", "\U00013000", "\U000f1234"  # the last is for private use: no font has it


@pytest.fixture(autouse=True)
def fresh_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_families", ["sans-serif"])
    monkeypatch.setattr(fonts, "_undrawable", set())


@pytest.fixture
def users_style():
    with mpl.rc_context(USERS):
        yield


def images_above_their_texts(folder: Path) -> Section:
    """A white image over a black one, and a text; drawn through all that figures go through."""
    image = np.repeat(np.array([[255], [0]], np.uint8), 2, 1)[..., None]
    path = save(draw_tiles([[Tile(image, (("class", "#222222"),))]], heads=["head"]), folder / "figure.png", svg=True)
    return Section("tiles", figures=(Figure(path, "tiles"),))


def test_a_users_style_changes_no_byte(tmp_path, users_style):
    drawn("tiles", lambda: images_above_their_texts(tmp_path / "users"))
    assert mpl.rcParams["font.size"] == 30, "and the user's settings are as before"
    with mpl.rc_context():
        mpl.rcdefaults()
        drawn("tiles", lambda: images_above_their_texts(tmp_path / "ours"))
    for name in ("figure.png", "figure.svg"):
        assert (tmp_path / "users" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    middle = imread(tmp_path / "users" / "figure.png")[:, 100, 0]
    assert np.flatnonzero(middle == 0)[0] > len(middle) / 2, "the black half is below"


def test_without_our_style_the_same_picture_would_be_upside_down(tmp_path):
    """What the test above would not see if matplotlib stopped reading `image.origin`."""
    found = []
    for origin in ("upper", "lower"):
        with mpl.rc_context({"image.origin": origin}):
            images_above_their_texts(tmp_path / origin)
            found.append((tmp_path / origin / "figure.png").read_bytes())
    assert found[0] != found[1]


def test_a_figure_made_with_pyplot_needs_no_window(tmp_path, monkeypatch):
    def own() -> Section:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots()
        axes.set_title(f"font {mpl.rcParams['font.size']:g}")
        pyplot.close(figure)
        return Section(f"{mpl.get_backend().lower()} {axes.get_title()}")

    with mpl.rc_context({"font.size": 30}):
        assert drawn("own", own).title == "agg font 10"


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_backend_of_the_environment_is_not_asked(backend):
    code = "import resnet_exp.__main__, matplotlib; print(matplotlib.get_backend())"
    env = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "agg", done.stderr


def test_a_gap_is_told_from_an_error():
    def fails(error):
        def draw():
            raise error

        return drawn("part", draw)

    assert not fails(Gap("nothing to draw")).is_broken
    assert fails(KeyError("x")).is_broken


# Fonts


def titled(text: str, folder: Path) -> Section:
    canvas = Canvas(figsize=(2, 1))
    canvas.text(0.1, 0.1, short(text))
    return Section(short(text), figures=(Figure(save(canvas, folder / "titled.png"), text),))


def test_a_character_that_no_font_has_is_shown_as_a_question_mark_and_told_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no flood of "Glyph missing"
        titles = [drawn("part", lambda: titled(f"a{NOBODYS}b", tmp_path)).title for _ in range(2)]
    assert titles == ["a?b", "a?b"]
    (told,) = [record.message for record in caplog.records]
    assert "U+F1234" in told and "fonts-noto-cjk" in told


def test_where_no_fonts_are_installed_it_is_the_same(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [])
    assert drawn("part", lambda: titled(CHINESE, tmp_path)).title == "?"
    assert not fonts.is_drawable(f"a{CHINESE}") and fonts.is_drawable("a")
    assert "U+732B" in caplog.text


@pytest.mark.parametrize("character", [CHINESE, HIEROGLYPH, "\U0001f697"], ids=["Chinese", "hieroglyph", "emoji"])
def test_an_installed_font_that_has_a_character_draws_it(character, tmp_path, caplog):
    if not any(fonts._drawable_with(path, {character}) for path in font_manager.findSystemFonts()):
        pytest.skip("this machine has no such font")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn("part", lambda: titled(character, tmp_path)).title == character
    assert fonts.families()[0] == "sans-serif" and len(fonts.families()) == 2, "ours first: other texts stay the same"
    assert not caplog.records


def test_fonts_that_cannot_be_read_or_drawn_with_are_left_out(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    assert fonts._drawable_with(str(broken), {"a"}) == set()
    own = font_manager.findfont("DejaVu Sans")
    assert fonts._drawable_with(own, {"a", NOBODYS}) == {"a"}


def test_a_mark_without_a_shape_leaves_no_question_mark():
    fonts._undrawable.update({"\ufe0f", NOBODYS})
    assert fonts.drawable(f"a\ufe0f{NOBODYS}") == "a?"


def test_other_warnings_of_a_figure_are_passed_on():
    def warns():
        warnings.warn("mind the axes", stacklevel=1)
        return Section("part")

    with pytest.warns(UserWarning, match="mind the axes"):
        drawn("part", warns)


def test_a_run_that_draws_nothing_loads_no_matplotlib():
    """A broken one costs figures alone."""
    code = "import sys, resnet_exp.runs.run; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
