"""The page of a run: whole in one file, in reading order, safe with any name; and as a browser shows it."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas

from resnet_exp.report.drawing import save
from resnet_exp.report.html import Page, cells, numeric_columns, page_html, size, write_html
from resnet_exp.report.section import Figure, Section, Table
from tests.browser import chromium_page

EVIL = '<script>alert("x")</script>'


class Outline(HTMLParser):
    """What stands on a page: tags with their attributes, and its words in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.words += f" {data.strip()}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    def drawn(name: str, width: float, svg: bool) -> Path:
        canvas = Canvas(figsize=(width, 3))
        canvas.subplots().plot([1, 3, 2])
        return save(canvas, tmp_path / f"{name}.png", svg=svg)

    wide = Figure(drawn("curves", 11, True), "Loss falls.", "How to read it.", tmp_path / "curves.csv", wide=True)
    small = Figure(drawn("matrix", 3, False), "A matrix.", "Rows are true.")
    table = Table(("layer", "parameters", "loss"), (("conv", 1728, 0.123456), ("linear", None, 2.0)), "All layers.")
    return Page(
        name="cifar10-custom_resnet-onecycle-0123456789ab",
        headline="85.94% test accuracy (8,594 of 10,000, 95% interval 85.24% to 86.61%); 812 s",
        facts={"test accuracy": "85.94%\n8,594 of 10,000", "max_lr": "0.0898"},
        command="python -m resnet_exp model.width=16 " + "a.long.key=value " * 12,
        sections=(
            Section("Accuracy and loss", "In one line.", (wide,)),
            Section("Confusion matrix", figures=(small, small), tables=(table,)),
            Section("Misclassified images", gap="all 355 test images are classified right"),
        ),
        config={"train": {"epochs": 24}, "data": {"root": "pictures"}},
        environment={"packages": {"torch": "2.11.0"}, "device": "CPU, 2 threads", "git_dirty": None},
    )


def test_it_needs_nothing_else(page):
    outline = Outline(page_html(page))
    assert len(outline.all("img")) == 3
    for image in outline.all("img"):
        assert (image["src"] or "").startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
    addresses = [a for _, attributes in outline.tags for k, a in attributes.items() if k in ("src", "href") and a]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not outline.all("link") and all("src" not in script for script in outline.all("script"))
    policy = next(meta["content"] for meta in outline.all("meta") if meta.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'")


def test_every_picture_is_told_in_words(page):
    assert [image["alt"] for image in Outline(page_html(page)).all("img")] == ["Loss falls.", "A matrix.", "A matrix."]


def test_the_result_and_the_command_come_first_config_and_environment_last(page):
    words = Outline(page_html(page)).words.partition(page.name)[2]
    order = [
        page.headline, "8,594 of 10,000", "python -m resnet_exp model.width=16", "In one line.", "How to read it.",
        "All layers.", "all 355 test images are classified right", "epochs: 24", "packages.torch",
    ]  # fmt: skip
    places = [words.rindex(text) for text in order]
    assert places == sorted(places)


def test_a_gap_has_its_name_and_its_reason(page):
    words = Outline(page_html(page)).words
    assert "Misclassified images Not drawn: all 355 test images are classified right" in " ".join(words.split())


def test_headings_stand_in_order(page):
    levels = [int(tag[1]) for tag, _ in Outline(page_html(page)).tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_table_has_heads_and_numbers_on_the_right(page):
    outline = Outline(page_html(page))
    assert {head.get("scope") for head in outline.all("th")} <= {"col", "row"}
    assert "1,728" in outline.words and "0.1235" in outline.words
    assert any("number" in (cell.get("class") or "") for cell in outline.all("td"))


def test_a_column_is_one_of_numbers_if_all_that_stands_in_it_is():
    rows = (
        ("conv", 3, "94.2%", "", "6.57 M"),
        ("linear", None, "1,234", "2", "-0.5"),
        ("10 of 12", 1.5e-7, "7", "", ""),
    )
    table = Table(("layer", "loss", "share", "stride", "size"), rows)
    assert numeric_columns(table) == [False, True, True, True, True]
    assert [row[1] for row in cells(table)] == ["3", "-", "1.5e-07"]
    assert numeric_columns(Table(("empty", "table"), ())) == [False, False]


@pytest.mark.parametrize("svg", [True, False])
def test_a_picture_is_as_large_as_it_was_drawn(svg, tmp_path):
    """In CSS pixels, 96 an inch: sharp on fine screens, and its letters as large as those of the next."""
    assert size(save(Canvas(figsize=(5, 2.5)), tmp_path / "drawn.png", svg=svg)) == (480, 240)


@pytest.mark.parametrize(
    "where", ["name", "headline", "command", "title", "gap", "alt", "cell", "config", "environment"]
)
def test_nothing_that_a_user_named_is_run(where, page):
    figure, table = page.sections[0].figures[0], page.sections[1].tables[0]
    changed = {
        "name": replace(page, name=EVIL),
        "headline": replace(page, headline=EVIL),
        "command": replace(page, command=EVIL),
        "title": replace(page, sections=(Section(EVIL),)),
        "gap": replace(page, sections=(Section("x", gap=EVIL),)),
        "alt": replace(page, sections=(Section("x", figures=(replace(figure, alt=f'"{EVIL}'),)),)),
        "cell": replace(page, sections=(Section("x", tables=(replace(table, rows=((EVIL, 1, 2.0),)),)),)),
        "config": replace(page, config={"data": {"root": EVIL}}),
        "environment": replace(page, environment={"device": EVIL}),
    }[where]
    assert EVIL not in page_html(changed)
    assert len(Outline(page_html(changed)).all("script")) == len(Outline(page_html(page)).all("script"))


def test_a_password_in_an_address_does_not_reach_the_page(page):
    secret = replace(page, config={"tracker": {"uri": "postgresql://user:hunter2@host/db"}})
    assert "hunter2" not in page_html(secret) and "***" in page_html(secret)


def test_equal_runs_give_equal_pages(page, tmp_path):
    first = write_html(page, tmp_path / "a.html").read_bytes()
    assert write_html(page, tmp_path / "b.html").read_bytes() == first


def test_a_name_that_is_no_text_is_shown_all_the_same(page, tmp_path):
    odd = replace(page, config={"data": {"root": "caf\udce9"}})
    assert write_html(odd, tmp_path / "odd.html").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_whole(width, color_scheme, page, tmp_path):
    path = write_html(page, tmp_path / "report.html")
    with chromium_page(width, 900, color_scheme) as tab:
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page itself does not scroll sideways"
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert tab.inner_text(".headline") == page.headline
        assert tab.evaluate("document.querySelector('.wide img').getBoundingClientRect().width") > 350
        ground, ink = (tab.evaluate(f"getComputedStyle(document.body).{key}") for key in ("backgroundColor", "color"))
        light = [sum(map(int, value[4:-1].split(","))) for value in (ground, ink)]
        assert (light[0] < light[1]) == (color_scheme == "dark")
        assert (
            tab.evaluate("getComputedStyle(document.querySelector('.picture')).backgroundColor") == "rgb(255, 255, 255)"
        )


@pytest.mark.slow
def test_on_paper_config_and_environment_are_there(page, tmp_path):
    path = write_html(page, tmp_path / "report.html")
    with chromium_page() as tab:
        tab.goto(path.as_uri())
        tab.emulate_media(media="print")
        assert tab.is_visible("text=epochs: 24") and tab.is_visible("text=packages.torch")
        assert not tab.is_visible("nav")


@pytest.mark.slow
def test_in_a_frame_with_few_rights_its_links_and_its_button_work(page):
    """As MLflow shows it: in a frame that may run scripts and nothing else."""
    with chromium_page(600, 500) as tab:
        tab.set_content("<iframe sandbox=allow-scripts width=500 height=400></iframe>")
        show = (
            "html => document.querySelector('iframe').src = URL.createObjectURL(new Blob([html], {type: 'text/html'}))"
        )
        tab.evaluate(show, page_html(page))
        frame = tab.frame_locator("iframe")
        frame.locator("nav a", has_text="Environment").click()
        assert frame.locator("#environment h2").evaluate("e => e.getBoundingClientRect().bottom <= innerHeight")
        frame.locator("button").click()
        frame.locator("button", has_text="Copied").wait_for(timeout=5000)


@pytest.mark.slow
def test_it_reads_without_scripts(page, tmp_path):
    path = write_html(page, tmp_path / "report.html")
    with chromium_page() as tab:
        bare = tab.context.browser.new_context(java_script_enabled=False).new_page()
        bare.goto(path.as_uri())
        assert not bare.is_visible("button")
        bare.click("text=All settings")
        assert bare.is_visible("text=epochs: 24")
