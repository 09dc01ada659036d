"""Two plans are equal or the first difference is named; what is no plan is refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.checkpoints.errors import BadPath, MalformedFile
from weft.checkpoints.header import Json
from weft.checkpoints.provenance import describe_output, difference, read_provenance, written
from weft.checkpoints.schema import Schema, TensorSpec

SCHEMA = Schema((TensorSpec("w", "F32", (2,)),))
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
DOCUMENTS = st.recursive(
    LEAVES | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


def describe(plan: Mapping[str, Json]) -> dict[str, Json]:
    return describe_output(plan=plan, schema=SCHEMA, shard_bytes=1, metadata={}, sidecars={})


@given(st.dictionaries(st.text(max_size=2), DOCUMENTS))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, plan: Json) -> None:
    assert isinstance(plan, dict)
    folder = tmp_path_factory.mktemp("folder")
    document = describe(plan)
    (folder / "weft.json").write_bytes(written(document, "abc"))
    found = read_provenance(folder)
    assert found == (document, "abc")
    assert difference(document, found[0]) == ""


@given(DOCUMENTS, DOCUMENTS)
def test_no_difference_exactly_where_the_texts_are_equal(one: Json, other: Json) -> None:
    a, b = describe({"x": one}), describe({"x": other})
    assert (difference(a, b) == "") == (written(a, "") == written(b, ""))


@pytest.mark.parametrize(
    ("there", "now", "words"),
    [
        ({"a": 1}, {"a": 2}, "a is 1 there and 2 now"),
        ({"a": 1}, {"a": True}, "a is 1 there and true now"),
        ({"a": 1}, {"a": 1.0}, "a is 1 there and 1.0 now"),
        ({"b": {"c": [1, {"d": 2}]}}, {"b": {"c": [1, {"d": 3}]}}, "b.c[1].d is 2 there and 3 now"),
        ({"a": [1]}, {"a": [1, 2]}, "a is [1] there and [1, 2] now"),
        ({}, {"z": 1}, "z is given now only"),
        ({"z": 1, "a": 1}, {"a": 2}, "a is 1 there and 2 now"),
        ({"a": "x" * 99}, {"a": 1}, f'a is "{"x" * 59}... there and 1 now'),
    ],
)
def test_the_first_difference_in_words(there: Json, now: Json, words: str) -> None:
    assert difference(there, now) == words


def test_numbers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        describe({"x": float("nan")})


def test_a_folder_without(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    assert read_provenance(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_what_is_no_document(tmp_path: Path, text: str) -> None:
    (tmp_path / "weft.json").write_text(text)
    with pytest.raises(MalformedFile, match=r"weft\.json"):
        read_provenance(tmp_path)


def test_a_document_that_is_far_too_large(tmp_path: Path) -> None:
    with (tmp_path / "weft.json").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(BadPath, match="beyond the limit"):
        read_provenance(tmp_path)


@pytest.mark.parametrize("digest", ["3", "null", "[]"])
def test_a_digest_that_is_none(tmp_path: Path, digest: str) -> None:
    (tmp_path / "weft.json").write_text(f'{{"digest": {digest}}}')
    assert read_provenance(tmp_path) == ({}, "")
