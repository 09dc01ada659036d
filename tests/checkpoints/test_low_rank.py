"""Ranges of a product: right to the last bit of float64, and the same however they are cut."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.checkpoints import low_rank
from weft.checkpoints.low_rank import Factors, product


def factors(rows: int, rank: int, columns: int, dtype: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(rows + 10 * rank + 100 * columns)
    left = torch.randn(rows, rank, generator=generator).to(dtype)
    return Factors(left, torch.randn(rank, columns, generator=generator).to(dtype), 0.75)


def test_golden() -> None:
    """[[1], [2]] [[3, 4]] = [[3, 4], [6, 8]], halved."""
    found = Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
    assert product(found, 0, 4).tolist() == [1.5, 2.0, 3.0, 4.0]
    assert product(found, 1, 3).tolist() == [2.0, 3.0]
    assert product(found, 2, 2).tolist() == []


def test_the_matrix_product_is_the_reference() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        found = factors(37, 5, 29, dtype)
        expected = found.left.double() @ found.right.double() * 0.75
        torch.testing.assert_close(
            product(found, 0, 37 * 29).view(37, 29), expected, rtol=1e-13, atol=1e-13
        )


@settings(max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9)),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    piece=st.integers(1, 40),
)
def test_bits_do_not_depend_on_the_range(
    shape: tuple[int, int, int], ends: tuple[float, float], piece: int
) -> None:
    found = factors(*shape)
    count = shape[0] * shape[2]
    start, stop = sorted(round(end * count) for end in ends)
    whole = product(found, 0, count)
    usual = low_rank.PIECE_ELEMENTS
    vars(low_rank)["PIECE_ELEMENTS"] = piece
    try:
        assert torch.equal(product(found, start, stop), whole[start:stop])
    finally:
        vars(low_rank)["PIECE_ELEMENTS"] = usual


def test_rows_longer_than_a_piece() -> None:
    found = factors(3, 2, low_rank.PIECE_ELEMENTS + 7)
    whole = product(found, 0, 3 * found.right.shape[1])
    assert torch.equal(product(found, 65_000, 140_000), whole[65_000:140_000])
