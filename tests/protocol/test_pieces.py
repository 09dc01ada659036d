"""Chunk messages without copies: what travels is exactly what the generated class reads."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from weft.protocol.limits import PIECE_BYTES
from weft.protocol.pieces import decode, encode, pieces_of
from weft.protocol.v1.peer_pb2 import Chunk

INDICES = st.integers(0, 2**64 - 1)


@given(INDICES, st.binary(max_size=300))
def test_the_generated_class_agrees(index: int, data: bytes) -> None:
    message = Chunk(index=index, data=data)
    if data:  # an empty field is left out by the generated class
        assert encode(index, data) == message.SerializeToString()
    assert Chunk.FromString(encode(index, data)) == message
    for wire in (encode(index, data), message.SerializeToString()):
        found, view = decode(wire)
        assert (found, bytes(view)) == (index, data)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_the_generated_class_reads_them(wire: bytes) -> None:
    try:
        expected = Chunk.FromString(wire)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(wire)
        return
    index, data = decode(wire)
    assert (index, bytes(data)) == (expected.index, expected.data)


@given(st.integers(0, 2**32), st.binary(max_size=20), st.binary(max_size=20))
def test_fields_twice_or_in_another_order(index: int, first: bytes, second: bytes) -> None:
    wire = Chunk(data=first).SerializeToString() + Chunk(index=index).SerializeToString()
    assert decode(wire)[0] == index
    wire += Chunk(data=second).SerializeToString()
    assert bytes(decode(wire)[1]) == (second or first)


def test_the_bytes_are_a_view_of_the_message() -> None:
    wire = encode(3, b"payload")
    assert decode(wire)[1].obj is wire


def test_pieces_cover_the_bytes() -> None:
    data = bytes(range(256)) * (PIECE_BYTES // 100)
    pieces = list(pieces_of(data))
    assert b"".join(pieces) == data
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])
    assert list(pieces_of(b"")) == []
