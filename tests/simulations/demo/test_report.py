"""The page: whole, self-contained, and nothing in it is taken for markup."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.simulations.demo.stories import ONE, outcome
from weft.simulations.demo import figures
from weft.simulations.demo.report import write_report
from weft.simulations.demo.settings import DemoSettings
from weft.simulations.errors import MissingExtra
from weft.simulations.references import TaskOptions

SETTINGS = DemoSettings(nodes=2, rounds=2, task=TaskOptions(nodes=2))
VOID = {"meta", "br", "link", "img"}


class Checker(HTMLParser):
    """Complains about tags that do not match, and collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_page_is_well_formed_and_has_everything() -> None:
    page = read(write_report(SETTINGS, outcome()))
    for wanted in ("40.0%", "60.0%", "90.0%", "95.0%", "96.0%", "94.0%", "12.5 s", ONE[:12]):
        assert wanted in page.text, wanted
    assert sum(tag == "svg" for tag, _ in page.tags) == 4


def test_page_needs_nothing_else() -> None:
    page = read(write_report(SETTINGS, outcome()))
    assert not any(tag in {"script", "link", "iframe", "img"} for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert not (attributes.get(name) or "").startswith(("http", "//"))


def test_what_nodes_say_is_text() -> None:
    page = write_report(SETTINGS, outcome())
    assert "node-1: &lt;late&gt;" in page
    assert "<late>" not in page
    evil = replace(SETTINGS, task=replace(SETTINGS.task, data="<script>.npz"))
    assert "<script>" not in write_report(evil, outcome())


def test_same_outcome_same_page() -> None:
    assert write_report(SETTINGS, outcome()) == write_report(SETTINGS, outcome())


def test_rounds_without_measurements_are_drawn_as_gaps() -> None:
    stories = [
        replace(story, rounds=[replace(done, accuracy=None, loss=None) for done in story.rounds])
        for story in outcome().stories
    ]
    read(write_report(SETTINGS, outcome(stories=stories)))
    assert "<svg" in figures.accuracy(outcome(stories=stories))


def test_pictures_are_xml() -> None:
    made = outcome()
    names = [story.node for story in made.stories]
    for drawn in (
        figures.topology(names, made.edge_bytes),
        figures.bytes_by_edge(names, made.edge_bytes),
        figures.accuracy(made),
        figures.distance(made),
    ):
        assert ET.fromstring(drawn).tag.endswith("svg")


def test_one_lonely_node() -> None:
    assert "<svg" in figures.topology(["node-1"], {})
    assert "<svg" in figures.bytes_by_edge(["node-1"], {})


def test_matplotlib_is_asked_for_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    figures.require_matplotlib()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'weft\[demo\]'"):
        figures.require_matplotlib()
