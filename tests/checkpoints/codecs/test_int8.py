"""Eight bits an element: how far off, how many bytes, and what is refused.

The laws of every codec are in `test_codec.py`; mutated bytes in `tests/fuzz`.
"""

import struct
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.checkpoints.codecs.test_codec import decoded, encoded
from tests.checkpoints.crafted import bits
from weft.checkpoints.codecs.codec import ByteStream
from weft.checkpoints.codecs.int8 import GROUP, LARGEST, Int8
from weft.checkpoints.codecs.registry import create
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import BadEncoding, BadTensor
from weft.checkpoints.schema import BLOCK_ELEMENTS, FLOATING, TensorSpec

THREE = TensorSpec("w", "F32", (3,))


def values_of(data: bytes, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype)


def test_bytes_by_hand() -> None:
    """A largest step of 127 makes a step of one; halves go to the even neighbour."""
    tensor, base = torch.tensor([128.0, -2.0, 3.5]), torch.tensor([1.0, 0.5, 1.0])
    expected = struct.pack("<f3b", 1.0, 127, -2, 2)
    assert encoded("int8", THREE, tensor, base) == expected
    found = values_of(decoded("int8", THREE, [expected], base))
    assert found.tolist() == [128.0, -1.5, 3.0]


def test_nothing_moved_is_nothing() -> None:
    tensor = torch.tensor([1.0, -3.0, 0.1])
    data = encoded("int8", THREE, tensor, tensor)
    assert data == bytes(4 + 3)
    assert decoded("int8", THREE, [data], tensor) == bits(tensor)


@settings(max_examples=150, deadline=None)
@given(
    deltas=st.lists(
        st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30),
        min_size=1,
        max_size=3 * GROUP,
    )
)
def test_off_by_half_a_step_at_most(deltas: list[float]) -> None:
    tensor = torch.tensor(deltas, dtype=torch.float32)
    spec = TensorSpec("w", "F32", (len(deltas),))
    data = encoded("int8", spec, tensor, None)
    found = values_of(decoded("int8", spec, [data], None)).double()
    for start in range(0, len(deltas), GROUP):
        group = tensor[start : start + GROUP].double()
        half = group.abs().max() / LARGEST / 2
        # The step itself, and what is decoded, are rounded to float32.
        off = (found[start : start + GROUP] - group).abs().max()
        assert off <= half * (1 + 1e-5)


@pytest.mark.parametrize("dtype", sorted(FLOATING))
def test_every_float_is_near(dtype: str) -> None:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(1000, generator=generator).to(TORCH_DTYPES[dtype])
    step = 0.25 * torch.randn(1000, generator=generator)
    tensor = (base.float() + step).to(TORCH_DTYPES[dtype])
    spec = TensorSpec("w", dtype, (1000,))
    data = encoded("int8", spec, tensor, base)
    assert len(data) == Int8().bound_bytes(spec) == 1000 + 8 * 4
    found = values_of(decoded("int8", spec, [data], base), TORCH_DTYPES[dtype])
    delta = tensor.double() - base.double()
    half = float(delta.abs().max()) / LARGEST / 2
    epsilon = torch.finfo(TORCH_DTYPES[dtype]).eps
    rounding = epsilon * float(tensor.double().abs().max())
    assert float((found.double() - tensor.double()).abs().max()) <= half + rounding


def test_what_was_decoded_is_coded_the_same_again() -> None:
    """Against a base of nothing; so keeping what is kept costs nothing more."""
    generator = torch.Generator().manual_seed(4)
    spec = TensorSpec("w", "F32", (1000,))
    tensor = torch.randn(1000, generator=generator)
    first = encoded("int8", spec, tensor, None)
    again = values_of(decoded("int8", spec, [first], None))
    assert decoded("int8", spec, [encoded("int8", spec, again, None)], None) == bits(again)


def test_every_block_decodes_by_itself() -> None:
    spec = TensorSpec("w", "BF16", (2 * BLOCK_ELEMENTS + 5,))
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(spec.elements, generator=generator).bfloat16()
    tensor = (base.float() + 0.01 * torch.randn(spec.elements, generator=generator)).bfloat16()
    data = encoded("int8", spec, tensor, base)
    whole, codec, offset = decoded("int8", spec, [data], base), Int8(), 0
    for start in range(0, spec.elements, BLOCK_ELEMENTS):
        length = min(BLOCK_ELEMENTS, spec.elements - start)
        size = codec.block_bytes(spec, length, offset, lambda at, n: data[at : at + n])
        one = TensorSpec("w", "BF16", (length,))
        part = data[offset : offset + size]
        mine = base[start : start + length]
        found = decoded("int8", one, [part], mine)
        assert found == whole[2 * start : 2 * (start + length)]
        assert encoded("int8", one, tensor[start : start + length], mine) == part
        offset += size
    assert offset == len(data)


def test_a_quarter_of_what_raw_takes() -> None:
    spec = TensorSpec("w", "F32", (BLOCK_ELEMENTS,))
    assert Int8().bound_bytes(spec) < 0.26 * create("raw").bound_bytes(spec)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 200])
def test_what_is_not_finite_has_no_step(value: float, place: int) -> None:
    tensor = torch.zeros(300)
    tensor[place] = value
    with pytest.raises(BadTensor, match="tensor w: int8 codes finite numbers only"):
        encoded("int8", TensorSpec("w", "F32", (300,)), tensor, None)


def test_a_difference_beyond_float32_is_refused() -> None:
    spec = TensorSpec("w", "F64", (1,))
    with pytest.raises(BadTensor, match="finite"):
        encoded("int8", spec, torch.tensor([1e300], dtype=torch.float64), None)


@pytest.mark.parametrize("step", [-1.0, float("nan"), float("inf"), -float("inf")])
def test_steps_that_no_encoder_writes(step: float) -> None:
    data = struct.pack("<f3b", step, 1, 2, 3)
    with pytest.raises(BadEncoding, match="a step that is negative, or no finite number"):
        list(Int8().decode(THREE, ByteStream([data], "x"), None))


def test_minus_zero_and_the_least_integer_are_read() -> None:
    """No encoder writes them; what they say is plain, so nothing is gained by refusing."""
    data = struct.pack("<f3b", -0.0, 1, 2, 3)
    assert values_of(decoded("int8", THREE, [data], None)).abs().tolist() == [0.0] * 3
    data = struct.pack("<f3b", 2.0, -128, 0, 0)
    assert values_of(decoded("int8", THREE, [data], None))[0] == -256.0


def test_memory_is_that_of_the_spec() -> None:
    """Whatever the bytes claim: there is nothing that they could claim."""
    data = bytes(10**6)
    tracemalloc.start()
    with pytest.raises(BadEncoding, match="left"):
        decoded("int8", THREE, [data], None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**18


def test_integers_and_booleans_are_as_they_are() -> None:
    spec, tensor = TensorSpec("n", "I64", (3,)), torch.tensor([2**62, -1, 0])
    data = encoded("int8", spec, tensor, tensor)
    assert data == bits(tensor)
    assert decoded("int8", spec, [data], tensor) == bits(tensor)
