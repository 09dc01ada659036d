"""Texts to learn a language from: plain files, lines of JSON, or Python's own documentation."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.simulations.errors import BadData, MissingExtra

PYDOC = "pydoc"
"""The reference that `help()` shows: about 460,000 characters of English, which come with
Python and are those of its version."""

TEST_SHARE = 10
"""One part in so many of a text is the test, where a file does not say: its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Texts in their order.

    Attributes:
        train: to learn from.
        labels: of each of `train`, from 0; empty where there are none.
        test: to be measured with.
    """

    train: tuple[str, ...]
    labels: tuple[int, ...]
    test: tuple[str, ...]


def load_documents(data: str) -> Documents:
    """Read texts.

    Args:
        data: "pydoc"; a file `.jsonl` of objects with `text`, and where they have them
            `label` and `split` ("train" or "test"); any other file is plain text. All
            in UTF-8, packed where the name ends in `.gz`.

    Raises:
        BadData: no such file, or it is not what its name says; names the line.
        MissingExtra: this Python comes without its documentation.
    """
    if data == PYDOC:
        return _cut((_pydoc(),), ())
    name = data.removesuffix(".gz")
    return _of_rows(data) if name.endswith(".jsonl") else _cut((_read(data),), ())


def _of_rows(data: str) -> Documents:
    rows = list(_rows(data))
    train = [row for row in rows if row.get("split") != "test"]
    labels = tuple(row["label"] for row in train if "label" in row)
    if labels and len(labels) < len(train):
        raise BadData(f"{data}: {len(train)} texts, {len(labels)} labels; expected all or none")
    texts = tuple(row["text"] for row in train)
    test = tuple(row["text"] for row in rows if row.get("split") == "test")
    return Documents(train=texts, labels=labels, test=test) if test else _cut(texts, labels)


def _rows(data: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(data).splitlines(), start=1):
        where = f"{data}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadData(f"{where}: not JSON ({error.msg}); expected an object a line") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise BadData(f'{where}: no "text"; expected {{"text": "...", "label": 0}}')
        if "label" in row and not _is_label(row["label"]):
            raise BadData(f"{where}: label {row['label']!r}; expected a whole number from 0")
        yield row


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _cut(texts: tuple[str, ...], labels: tuple[int, ...]) -> Documents:
    """The last tenth, of the texts or of the only one, is the test."""
    if len(texts) == 1:
        at = len(texts[0]) - len(texts[0]) // TEST_SHARE
        return Documents(train=(texts[0][:at],), labels=labels, test=(texts[0][at:],))
    count = len(texts) - len(texts) // TEST_SHARE
    return Documents(train=texts[:count], labels=labels[:count], test=texts[count:])


def _read(data: str) -> str:
    path = Path(data)
    if not path.is_file():
        raise BadData(f"{data}: no such file; expected a text, a .jsonl, or {PYDOC!r}")
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadData(f"{data}: not a readable text in UTF-8 ({error})") from error


def _pydoc() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MissingExtra(
            f"{PYDOC}: this Python comes without the texts of help(); name a text of your own"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))
