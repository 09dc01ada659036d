"""Pickles are data: what they would run is written down, or refused; nothing runs."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from weft.checkpoints.errors import MalformedFile, UnsupportedFile
from weft.checkpoints.inert_pickles import Record, load_inert

PLAIN: list[object] = [
    None,
    True,
    -5,
    2**40,
    -(2**70),
    1.5,
    "ü" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1, [2, [3]]],
    {},
    {"a": {"b": [1, (2, "c")]}, 7: None},
    ["twice", "twice"],
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back(value: object, protocol: int) -> None:
    assert load_inert(pickle.dumps(value, protocol), frozenset(), "x") == value


def test_what_is_shared_stays_shared() -> None:
    inner = [1]
    found = load_inert(pickle.dumps([inner, inner], 4), frozenset(), "x")
    assert isinstance(found, list)
    assert found[0] is found[1]


def test_ordered_dictionaries_are_dictionaries() -> None:
    data = pickle.dumps(OrderedDict({"a": 1}), 4)
    assert load_inert(data, frozenset({"collections.OrderedDict"}), "x") == {"a": 1}
    with pytest.raises(UnsupportedFile, match="OrderedDict"):
        load_inert(data, frozenset(), "x")


def test_calls_are_taken_down_and_not_made(tmp_path: Path) -> None:
    called = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x04evil\x85R."
    found = load_inert(called, frozenset({"os.mkdir"}), "x")
    assert isinstance(found, Record)
    assert (found.kind, found.args) == ("os.mkdir", ("evil",))
    assert not Path("evil").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_other_names_are_refused(protocol: int) -> None:
    with pytest.raises(UnsupportedFile, match=r"names '(posix|nt|os)\.system'"):
        load_inert(pickle.dumps(Evil(), protocol), frozenset({"torch.Size"}), "x")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([1, 2], 0),
        pickle.dumps({1, 2}, 4),
        pickle.dumps(b"bytes", 4),
        pickle.dumps(bytearray(b"bytes"), 5),
        b"\x80\x02\x82\x01.",
        b"(S'a'\ni__builtin__\neval\n.",
    ],
    ids=["protocol 0", "a set", "bytes", "byte array", "extension", "instance"],
)
def test_other_instructions_are_refused(data: bytes) -> None:
    with pytest.raises((UnsupportedFile, MalformedFile)):
        load_inert(data, frozenset({"__builtin__.eval"}), "x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04N",
        b"\x80\x04(.",
        b"\x80\x04h\x05.",
        b"\x80\x04j\xff\xff\xff\xff.",
        b"\x80\x04N)R.",
        b"\x80\x04NNb.",
        b"\x80\x04]NNs.",
        b"\x80\x04}NNs.",
        b"\x80\x04}(Nu.",
        b"\x80\x04Na.",
        b"\x80\x04(a.",
        b"\x80\x04NN\x93.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04X\xff\xff\xff\x7fabc.",
        b"\x80\x04c\xff\n\xff\n.",
        pickle.dumps(list(range(100)), 4)[:-5],
    ],
)
def test_broken_pickles_are_refused(data: bytes) -> None:
    with pytest.raises((MalformedFile, UnsupportedFile)) as caught:
        load_inert(data, frozenset(), "where")
    assert str(caught.value).startswith("where: ")
    assert len(str(caught.value)) < 400


def test_a_place_in_the_memo_takes_no_memory() -> None:
    """The reference reader makes room for all places below the one that is named."""
    assert load_inert(b"\x80\x04Nr\xff\xff\xff\x7f.", frozenset(), "x") is None


def test_nested_tuples_are_never_hashed() -> None:
    """Forty tuples, each twice the one before it: hashing or printing it would never end."""
    doubled = b"\x80\x04}N" + b"2\x86" * 40 + b"Ns."
    with pytest.raises(MalformedFile, match="key"):
        load_inert(doubled.replace(b"2\x86", b"q\x00h\x00\x86"), frozenset(), "x")
    named = b"\x80\x04N" + b"q\x00h\x00\x86" * 40 + b"N\x93."
    with pytest.raises(MalformedFile, match="no text"):
        load_inert(named, frozenset(), "x")
