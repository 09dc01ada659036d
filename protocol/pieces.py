"""The message Chunk, written and read without copying its bytes about.

What travels is exactly the Chunk of peer.proto; the generated class copies the
bytes four times between socket and disk, and these functions once. Whatever is
not in the form that weft writes goes through the generated class.

    decode(encode(7, data)) == (7, data)

Internal: `serve_artifacts` writes, `fetch` reads.
"""

from collections.abc import Iterator
from typing import Final

from weft.protocol.limits import PIECE_BYTES
from weft.protocol.v1.peer_pb2 import Chunk

Bytes = bytes | bytearray | memoryview

_INDEX: Final = 0x08  # field 1, a varint
_DATA: Final = 0x12  # field 2, bytes
_VARINT_BYTES: Final = 10


def encode(index: int, data: Bytes) -> bytes:
    """A Chunk as it travels."""
    head = bytearray()
    if index:
        head.append(_INDEX)
        _put_varint(head, index)
    head.append(_DATA)
    _put_varint(head, len(data))
    return b"".join((head, data))


def decode(message: bytes) -> tuple[int, memoryview]:
    """Index and bytes of a Chunk; the bytes are a view into the message.

    Raises:
        google.protobuf.message.DecodeError: not a Chunk.
    """
    index, at = 0, 0
    if message[:1] == b"\x08":
        index, at = _varint(message, 1)
    if message[at : at + 1] == b"\x12":
        length, at = _varint(message, at + 1)
        if at + length == len(message):
            return index, memoryview(message)[at:]
    chunk = Chunk.FromString(message)
    return chunk.index, memoryview(chunk.data)


def pieces_of(data: Bytes) -> Iterator[memoryview]:
    """Bytes cut as they travel: pieces of `PIECE_BYTES`, the last one shorter."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def _put_varint(into: bytearray, value: int) -> None:
    while value > 0x7F:
        into.append(value & 0x7F | 0x80)
        value >>= 7
    into.append(value)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Value and the position behind it; position -1 where there is no varint."""
    value = 0
    for shift, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    return 0, -1
