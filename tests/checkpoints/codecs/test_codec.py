"""Streams of encoded bytes, and the laws of every registered codec."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.checkpoints.crafted import bits, random_tensor
from weft.checkpoints.codecs.codec import ByteStream
from weft.checkpoints.codecs.registry import create, names
from weft.checkpoints.dtypes import bytes_of
from weft.checkpoints.errors import BadEncoding, BadTensor, UnknownCodec
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import BLOCK_ELEMENTS, DTYPE_BYTES, FLOATING, TensorSpec

BIG = TensorSpec("w", "F32", (BLOCK_ELEMENTS + 3,))
SMALL = TensorSpec("w", "BF16", (3, 5))


def blocks(spec: TensorSpec, tensor: Tensor) -> Iterator[Tensor]:
    return MemoryReader({spec.name: tensor}).blocks(spec.name)


def encoded(codec: str, spec: TensorSpec, tensor: Tensor, base: Tensor | None) -> bytes:
    others = None if base is None else blocks(spec, base)
    parts = create(codec).encode(spec, blocks(spec, tensor), others)
    return b"".join(bytes(part) for part in parts)


def decoded(codec: str, spec: TensorSpec, parts: Sequence[bytes], base: Tensor | None) -> bytes:
    others = None if base is None else blocks(spec, base)
    stream = ByteStream(parts, "artifact x")
    return b"".join(bits(block) for block in create(codec).decode(spec, stream, others))


@given(st.lists(st.binary(max_size=9), max_size=6), st.lists(st.integers(0, 5), max_size=8))
def test_stream_gives_the_bytes_in_order(parts: list[bytes], counts: list[int]) -> None:
    whole, stream, cursor = b"".join(parts), ByteStream(parts, "x"), 0
    for count in counts:
        if cursor + count > len(whole):
            with pytest.raises(BadEncoding, match="end"):
                stream.take(count)
            return
        assert stream.take(count) == whole[cursor : cursor + count]
        cursor += count
    if cursor == len(whole):
        stream.finish()
    else:
        with pytest.raises(BadEncoding, match="left"):
            stream.finish()


def test_stream_is_done_with_a_part_before_it_asks_for_the_next() -> None:
    def reusing() -> Iterator[memoryview]:
        buffer = bytearray(4)
        for start in range(0, 12, 4):
            buffer[:] = bytes(range(start, start + 4))
            yield memoryview(buffer)

    stream = ByteStream(reusing(), "x")
    assert stream.take(5) == bytes(range(5))
    assert stream.take(7) == bytes(range(5, 12))


@pytest.mark.parametrize("codec", names())
@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_two_blocks_of_every_dtype(codec: str, dtype: str) -> None:
    """The base itself as the model: every codec is exact on finite values, but for -0.0."""
    spec = TensorSpec("w", dtype, (BLOCK_ELEMENTS + 3,))
    base = random_tensor(spec)
    if dtype in FLOATING:
        finite = torch.nan_to_num(base.double(), 0.5, 2.0, -2.0).to(base.dtype)
        base = (finite.double() + 0.0).to(base.dtype)
    data = encoded(codec, spec, base, base)
    assert len(data) <= create(codec).bound_bytes(spec)
    parts = [data[start : start + 2**20] for start in range(0, len(data), 2**20)]
    assert decoded(codec, spec, parts, base) == bits(base)


@pytest.mark.parametrize("codec", names())
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (3, 5)])
def test_shapes(codec: str, shape: tuple[int, ...]) -> None:
    spec = TensorSpec("w", "BF16", shape)
    tensor = torch.full(shape, 1.5, dtype=torch.bfloat16)
    base = torch.full(shape, 1.25, dtype=torch.bfloat16)
    for other in (None, base):
        data = encoded(codec, spec, tensor, other)
        assert len(data) <= create(codec).bound_bytes(spec)
        assert decoded(codec, spec, [data], other) == bits(tensor)


@pytest.mark.parametrize("codec", names())
def test_cut_anywhere_or_longer_is_an_error(codec: str) -> None:
    tensor, base = random_tensor(SMALL, 1), random_tensor(SMALL, 2)
    data = encoded(codec, SMALL, tensor, base)
    for end in range(len(data)):
        with pytest.raises(BadEncoding):
            decoded(codec, SMALL, [data[:end]], base)
    with pytest.raises(BadEncoding, match="artifact x: bytes are left"):
        decoded(codec, SMALL, [data, b"\x00"], base)


@pytest.mark.parametrize("codec", names())
def test_bytes_of_an_empty_tensor_are_none(codec: str) -> None:
    spec = TensorSpec("w", "F32", (0,))
    with pytest.raises(BadEncoding, match="left"):
        decoded(codec, spec, [b"\x00"], None)


@pytest.mark.parametrize("codec", names())
@settings(max_examples=60)
@given(data=st.binary(max_size=200))
def test_noise_decodes_to_as_many_elements_or_is_an_error(codec: str, data: bytes) -> None:
    try:
        found = decoded(codec, SMALL, [data], None)
    except BadEncoding:
        return
    assert len(found) == SMALL.size_bytes


@pytest.mark.parametrize("codec", names())
def test_booleans_stay_booleans(codec: str) -> None:
    spec = TensorSpec("mask", "BOOL", (3,))
    base = torch.tensor([True, True, False])
    data = bytearray(encoded(codec, spec, torch.tensor([True, False, True]), base))
    assert decoded(codec, spec, [bytes(data)], base) == b"\x01\x00\x01"
    data[-1] = 77
    with pytest.raises(BadEncoding, match="boolean"):
        decoded(codec, spec, [bytes(data)], base)


@pytest.mark.parametrize("codec", names())
def test_base_of_another_length_is_an_error(codec: str) -> None:
    tensor = torch.arange(BIG.elements, dtype=torch.float32)
    short = TensorSpec("w", "F32", (BLOCK_ELEMENTS,))
    other = tensor[:BLOCK_ELEMENTS]
    with pytest.raises(BadTensor, match="the base has no block of 3 elements"):
        list(create(codec).encode(BIG, blocks(BIG, tensor), blocks(short, other)))
    with pytest.raises(BadTensor, match="no block of 3 elements"):
        list(create(codec).encode(BIG, blocks(short, other), None))
    with pytest.raises(BadTensor, match="more than its 1048576 elements"):
        list(create(codec).encode(short, blocks(BIG, tensor), None))
    data = encoded(codec, BIG, tensor, tensor)
    with pytest.raises(BadTensor, match="the base has no block of 3 elements"):
        list(create(codec).decode(BIG, ByteStream([data], "x"), blocks(short, other)))


def test_parts_stay_valid_until_the_next() -> None:
    """What `encode` yields is written before the next part is made."""
    tensor = random_tensor(BIG)
    parts = [bytes(part) for part in create("raw").encode(BIG, blocks(BIG, tensor), None)]
    assert b"".join(parts) == bytes(bytes_of(tensor))


def test_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(UnknownCodec, match="did you mean 'lossless'"):
        create("losless")
    with pytest.raises(UnknownCodec, match="lossless, raw"):
        create("gzip9000")
