"""Pictures and page: there, whole, self-contained; and without matplotlib, without pictures."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.simulations.experiments.documents import Document, read, silent, tiny
from weft.simulations.experiments import plots
from weft.simulations.experiments.build import schedule_of
from weft.simulations.experiments.records import ResultsFolder
from weft.simulations.experiments.results import Results, write_results
from weft.simulations.experiments.runner import pending, run

PNG = b"\x89PNG"


class Page(HTMLParser):
    """Complains about tags that do not match; keeps what is loaded, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe"}
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def finished(document: Document, path: Path) -> Results:
    experiment, folder = read(document), ResultsFolder(path)
    folder.claim(experiment.name)
    run(pending(experiment, folder), folder)
    return write_results(experiment, folder)


def test_everything_is_drawn_and_the_page_holds_it(tmp_path: Path) -> None:
    document = tiny() | {"arm": [{"name": "<i>a</i>"}, {"name": "b", "schedule": {"name": "late"}}]}
    results = finished(document, tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert drawn.keys() == {
        "accuracy.png",
        "bytes.png",
        "distance.png",
        "topology-00.png",
        "topology-01.png",
    }
    assert all(data.startswith(PNG) for data in drawn.values())
    page = Page(results.report.read_text())
    inside = [base64.b64decode(each.removeprefix("data:image/png;base64,")) for each in page.loaded]
    assert sorted(inside) == sorted(drawn.values())
    assert "<i>a</i>" in page.text, "what a file says is text"
    for line in results.lines:
        assert f"{line.figures['accuracy'].mean:.1%}" in page.text
    for cell in read(document).cells:
        assert cell.id in page.text


def test_pictures_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "other"):
        finished(silent(experiment={"seeds": [0, 1]}), tmp_path / name)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("one", "other")
    )
    assert one == other
    assert "distance.png" in one
    assert "accuracy.png" not in one, "nothing was evaluated"


def test_without_matplotlib_there_is_a_page_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    results = finished(silent(), tmp_path)
    assert not results.drawn
    assert list(tmp_path.glob("*.png")) == []
    page = Page(results.report.read_text())
    assert page.loaded == []
    assert "matplotlib is not installed" in page.text


@pytest.mark.parametrize("nodes", [1, 2, 40, 301])
def test_topologies_of_any_size_are_drawn(nodes: int) -> None:
    (cell,) = read(silent(task={"nodes": nodes})).cells
    assert plots.draw_topology(schedule_of(cell)).startswith(PNG)


def test_the_document_is_plain_and_says_what_was_swept(tmp_path: Path) -> None:
    results = finished(silent(topology={"graph": ["ring", "complete"]}), tmp_path)
    assert results.document["swept"] == ["topology.graph"]
    assert (results.document["cells"], results.document["studies"]) == (2, 2)
    ring, complete = results.document["lines"]
    assert ring["figures"]["contraction_measured"]["mean"] > 0.1
    assert complete["figures"]["contraction_measured"]["mean"] == 0
    assert re.fullmatch(r"graph \w+", ring["name"])
