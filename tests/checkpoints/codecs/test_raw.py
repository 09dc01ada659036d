"""Raw deltas: the values of the task vector, as anyone would compute them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints.codecs.test_codec import decoded, encoded
from tests.checkpoints.crafted import bits
from weft.checkpoints.codecs.raw import Raw
from weft.checkpoints.schema import TensorSpec

THREE = TensorSpec("w", "F32", (3,))


def test_bytes_by_hand() -> None:
    tensor, base = torch.tensor([1.5, -2.0, 0.25]), torch.tensor([1.0, 2.0, 0.25])
    expected = bits(torch.tensor([0.5, -4.0, 0.0]))
    assert encoded("raw", THREE, tensor, base) == expected
    assert encoded("raw", THREE, tensor, None) == bits(tensor)


@pytest.mark.parametrize(
    ("dtype", "torch_dtype", "width"),
    [
        ("F16", torch.float16, 4),
        ("BF16", torch.bfloat16, 4),
        ("F8_E4M3", torch.float8_e4m3fn, 4),
        ("F32", torch.float32, 4),
        ("F64", torch.float64, 8),
        ("I16", torch.int16, 2),
        ("I64", torch.int64, 8),
        ("BOOL", torch.bool, 1),
    ],
)
def test_width_of_what_is_stored(dtype: str, torch_dtype: torch.dtype, width: int) -> None:
    spec = TensorSpec("w", dtype, (5,))
    tensor = torch.tensor([1, 0, 1, 1, 0]).to(torch_dtype)
    data = encoded("raw", spec, tensor, tensor)
    assert len(data) == 5 * width == Raw().bound_bytes(spec)


def test_integers_are_stored_as_they_are() -> None:
    spec = TensorSpec("n", "I64", (2,))
    tensor, base = torch.tensor([7, -1]), torch.tensor([3, 3])
    data = encoded("raw", spec, tensor, base)
    assert data == bits(tensor)
    assert decoded("raw", spec, [data], base) == bits(tensor)


HALVES = st.integers(-2048, 2048).map(lambda count: count / 256)


@given(st.lists(st.tuples(HALVES, HALVES), min_size=1))
def test_half_precision_comes_back_exactly(pairs: list[tuple[float, float]]) -> None:
    """The difference of two float16 of like size fits a float32."""
    spec = TensorSpec("w", "F16", (len(pairs),))
    tensor = torch.tensor([a for a, _ in pairs], dtype=torch.float16)
    base = torch.tensor([b for _, b in pairs], dtype=torch.float16)
    data = encoded("raw", spec, tensor, base)
    found = torch.frombuffer(bytearray(decoded("raw", spec, [data], base)), dtype=torch.float16)
    assert torch.equal(found, tensor)


@given(st.lists(st.tuples(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32)), min_size=1))
def test_float32_comes_back_within_half_a_unit_of_the_larger(
    pairs: list[tuple[float, float]],
) -> None:
    spec = TensorSpec("w", "F32", (len(pairs),))
    tensor, base = (torch.tensor(side) for side in zip(*pairs, strict=True))
    data = encoded("raw", spec, tensor, base)
    found = torch.frombuffer(bytearray(decoded("raw", spec, [data], base)), dtype=torch.float32)
    larger = torch.maximum(tensor.abs(), base.abs()).double() + 2.0**-126
    error = (found.double() - tensor.double()).abs()
    assert bool((error <= 2.0**-23 * larger).all())


def test_what_is_not_finite_stays_so() -> None:
    tensor, base = torch.tensor([torch.nan, torch.inf, -torch.inf]), torch.tensor([1.0, 2.0, 3.0])
    data = encoded("raw", THREE, tensor, base)
    found = torch.frombuffer(bytearray(decoded("raw", THREE, [data], base)), dtype=torch.float32)
    assert torch.isnan(found[0])
    assert found[1:].tolist() == [torch.inf, -torch.inf]
