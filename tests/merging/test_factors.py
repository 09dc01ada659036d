import math

import pytest
import torch
from torch import Tensor

from weft.merging.errors import BadOption, CannotMerge
from weft.merging.factors import (
    LowRank,
    concatenated,
    from_dense,
    norm,
    require_one_shape,
    truncated,
)


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def some(seed: int, out: int, rank: int, inner: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn((out, rank), generator=generator, dtype=torch.float64),
        torch.randn((rank, inner), generator=generator, dtype=torch.float64),
    )


def best(dense: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    cut: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return cut


def test_the_product_by_hand() -> None:
    factors = LowRank(matrix([1.0], [2.0]), matrix([3.0, 0.0, -1.0]))
    assert factors.dense().tolist() == [[3.0, 0.0, -1.0], [6.0, 0.0, -2.0]]
    assert (factors.rank, factors.shape) == (1, (2, 3))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.zeros(2, 3).double(), torch.zeros(2, 3).double()),
        (torch.zeros(2).double(), torch.zeros(2, 3).double()),
        (torch.zeros(2, 1), torch.zeros(1, 3).double()),
        (torch.zeros(2, 1), torch.zeros(1, 3)),
    ],
)
def test_factors_that_do_not_fit_are_refused(left: Tensor, right: Tensor) -> None:
    with pytest.raises(CannotMerge, match=r"expected \(out, r\) and \(r, in\) of float64"):
        LowRank(left, right)


def test_concatenation_by_hand() -> None:
    one = LowRank(matrix([1.0], [0.0]), matrix([1.0, 2.0]))
    two = LowRank(matrix([0.0], [4.0]), matrix([-1.0, 0.5]))
    together = concatenated([one, two], [2.0, -0.5])
    assert together.B.tolist() == [[2.0, 0.0], [0.0, -2.0]]
    assert together.A.tolist() == [[1.0, 2.0], [-1.0, 0.5]]
    assert together.dense().tolist() == [[2.0, 4.0], [2.0, -1.0]]


def test_concatenation_is_the_weighted_sum_for_unlike_ranks() -> None:
    parts = [some(1, 6, 2, 5), some(2, 6, 3, 5), some(3, 6, 1, 5)]
    weights = [0.25, -1.5, 3.0]
    together = concatenated(parts, weights)
    direct = sum((w * part.dense() for w, part in zip(weights, parts, strict=True)), torch.zeros(1))
    assert together.rank == 6
    torch.testing.assert_close(together.dense(), direct.double(), rtol=1e-12, atol=1e-12)


def test_concatenation_keeps_its_inputs() -> None:
    part = some(1, 3, 2, 4)
    before = (part.B.clone(), part.A.clone())
    together = concatenated([part], [1.0])
    together.B.zero_()
    together.A.zero_()
    assert torch.equal(part.B, before[0])
    assert torch.equal(part.A, before[1])


def test_only_one_shape_can_be_added() -> None:
    with pytest.raises(CannotMerge, match=r"shape \(2, 5\) do not fit those of \(2, 4\)"):
        concatenated([some(1, 2, 1, 4), some(1, 2, 1, 5)], [1.0, 1.0])
    with pytest.raises(CannotMerge, match="no factors"):
        require_one_shape([])


@pytest.mark.parametrize(("out", "rank", "inner"), [(9, 4, 7), (6, 4, 11), (4, 5, 6), (5, 3, 3)])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_truncation_is_the_best_of_its_rank(out: int, rank: int, inner: int, kept: int) -> None:
    factors = some(out * inner, out, rank, inner)
    cut = truncated(factors, kept)
    assert cut.rank == kept
    torch.testing.assert_close(cut.dense(), best(factors.dense(), kept), rtol=1e-10, atol=1e-10)


def test_truncation_to_a_rank_not_lower_changes_nothing() -> None:
    factors = some(4, 8, 3, 9)
    for rank in (3, 4, 100):
        cut = truncated(factors, rank)
        assert cut.rank == 3
        torch.testing.assert_close(cut.dense(), factors.dense(), rtol=1e-12, atol=1e-12)


def test_truncation_finds_the_rank_that_there_is() -> None:
    part = some(5, 8, 2, 9)
    doubled = concatenated([part, part], [1.0, 1.0])
    assert doubled.rank == 4
    cut = truncated(doubled, 4)
    assert cut.rank == 2
    torch.testing.assert_close(cut.dense(), 2 * part.dense(), rtol=1e-12, atol=1e-12)


def test_small_singular_values_survive_the_small_core() -> None:
    # By way of the Gram matrix, 1e-9 of the largest would be lost.
    thin = LowRank(matrix([1.0, 0.0], [0.0, 1e-9], [0.0, 0.0]), matrix([1.0, 0, 0], [0, 1.0, 0]))
    cut = truncated(thin, 2)
    assert cut.rank == 2
    assert cut.dense()[1, 1].item() == pytest.approx(1e-9, rel=1e-6)


def test_nothing_stays_nothing() -> None:
    nothing = from_dense(torch.zeros(4, 3))
    assert (nothing.rank, nothing.shape) == (0, (4, 3))
    assert not nothing.dense().any()
    assert truncated(nothing, 2).rank == 0
    assert truncated(some(1, 9, 2, 9), 0).rank == 0
    assert concatenated([nothing, nothing], [1.0, 1.0]).dense().shape == (4, 3)


def test_from_dense_has_the_numerical_rank_and_is_balanced() -> None:
    dense = some(6, 7, 3, 5).dense()
    factors = from_dense(dense)
    assert factors.rank == 3
    torch.testing.assert_close(factors.dense(), dense, rtol=1e-10, atol=1e-10)
    columns, rows = factors.B.norm(dim=0), factors.A.norm(dim=1)
    torch.testing.assert_close(columns, rows, rtol=1e-10, atol=1e-10)
    assert columns.tolist() == sorted(columns.tolist(), reverse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_dense_takes_any_float(dtype: torch.dtype) -> None:
    dense = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=dtype)
    factors = from_dense(dense, 1)
    assert factors.B.dtype == torch.float64
    expected = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(factors.dense(), expected, rtol=0, atol=1e-12)
    assert abs(float(factors.B[0, 0])) == pytest.approx(math.sqrt(4.0))


def test_a_negative_rank_is_refused() -> None:
    with pytest.raises(BadOption, match="rank is -1, expected a whole number at least 0"):
        truncated(some(1, 3, 1, 3), -1)
    with pytest.raises(BadOption, match="rank is -2"):
        from_dense(torch.eye(2), -2)


@pytest.mark.parametrize(("out", "rank", "inner"), [(9, 4, 7), (4, 6, 3), (3, 0, 5), (1, 1, 1)])
def test_the_norm_is_that_of_the_product(out: int, rank: int, inner: int) -> None:
    part = some(8, out, rank, inner)
    assert norm(part) == pytest.approx(float(part.dense().norm()), rel=1e-12)


def test_the_norm_of_what_cancels_is_nothing() -> None:
    part = some(9, 7, 3, 5)
    assert norm(concatenated([part, part], [1.0, -1.0])) < 1e-14 * norm(part)
