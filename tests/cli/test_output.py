"""One JSON document on standard output, or something for a person."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
from rich.table import Table

from weft.cli.output import emit, plain, progress, size


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    at: Path


def test_plain_values() -> None:
    found = {
        "point": Point(1.5, Path("a/b")),
        Colour.RED: [Colour.RED, None, True],
        3: {"b", "a"},
        "nan": float("nan"),
        "infinite": float("inf"),
        "bytes": b"\x01\xff",
        "tuple": (1, 2),
    }
    assert plain(found) == {
        "point": {"x": 1.5, "at": "a/b"},
        "red": ["red", None, True],
        "3": ["a", "b"],
        "nan": None,
        "infinite": None,
        "bytes": "01ff",
        "tuple": [1, 2],
    }


def test_plain_enum_is_its_bare_value() -> None:
    assert type(plain(Colour.RED)) is str


def test_what_has_no_form_is_named() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        plain({"x": object()})


def test_emit_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"x": float("nan"), "ü": 1}, True, lambda _: "never shown")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"x": None, "ü": 1}
    assert captured.err == ""


def test_names_that_are_no_text_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name may be any bytes; the document is UTF-8, and has the name again."""
    name = b"b\xff".decode(errors="surrogateescape")
    emit({"name": name, "other": "\xe9"}, True)
    written = capsys.readouterr().out.encode()
    assert json.loads(written) == {"name": name, "other": "\xe9"}
    emit(name, False, lambda text: text)
    assert capsys.readouterr().out == "b\\udcff\n"


def test_emit_renders_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    emit(7, False, lambda document: f"it is {document}")
    assert capsys.readouterr().out == "it is 7\n"
    table = Table("column")
    table.add_row("wide " * 20)
    emit(7, False, lambda _: table)
    assert ("wide " * 20).strip() in capsys.readouterr().out


def test_progress_elsewhere_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("weft.cli.output.time.monotonic", lambda: now)
    with progress("hashing", 100) as advance:
        for _ in range(10):
            now += 3
            advance(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hashing: 40 %\nhashing: 80 %\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 * 2**40, "3.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text
