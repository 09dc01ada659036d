"""Decompositions against LAPACK's; matrices that are empty, or zero in part."""

import pytest
import torch
from torch import Tensor

from weft.merging.spectra import levelled, polar, right_svd, thin_svd

EMPTY = [(0, 0), (3, 0), (0, 3), (1, 0), (0, 1)]


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sparse(rows: int, columns: int, zero_rows: list[int], zero_columns: list[int]) -> Tensor:
    matrix = normal(rows, columns)
    matrix[zero_rows] = 0
    matrix[:, zero_columns] = 0
    return matrix


def check(matrix: Tensor) -> None:
    """Orthonormal factors, LAPACK's values, and the matrix again."""
    left, values, right = thin_svd(matrix)
    expected = torch.linalg.svdvals(matrix)
    rank = int((expected > 1e-7 * expected.max()).sum())
    assert (left.shape, right.shape) == ((len(matrix), rank), (rank, matrix.shape[1]))
    near = 1e-10 * float(expected.max())
    torch.testing.assert_close(values, expected[:rank], rtol=0, atol=near)
    torch.testing.assert_close((left * values) @ right, matrix, rtol=0, atol=near)
    identity = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(left.T @ left, identity, rtol=0, atol=1e-9)
    torch.testing.assert_close(right @ right.T, identity, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1), (1, 1)])
def test_any_shape(shape: tuple[int, int]) -> None:
    check(normal(*shape))


@pytest.mark.parametrize("zero_rows", [[], [0], [1, 4], [0, 1, 2, 3]])
@pytest.mark.parametrize("zero_columns", [[], [2], [0, 1]])
@pytest.mark.parametrize("shape", [(6, 4), (5, 7)])
def test_rows_and_columns_of_zeros(
    shape: tuple[int, int], zero_rows: list[int], zero_columns: list[int]
) -> None:
    matrix = sparse(*shape, zero_rows, zero_columns)
    check(matrix)
    left, _, right = thin_svd(matrix)
    assert float(left[zero_rows].abs().sum()) < 1e-9
    assert float(right[:, zero_columns].abs().sum()) < 1e-9
    torch.testing.assert_close(polar(matrix), left @ right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", EMPTY)
def test_matrices_without_rows_or_columns(shape: tuple[int, int]) -> None:
    for most in (None, 0, 2):
        left, values, right = thin_svd(torch.zeros(shape), most=most)
        assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (0, shape[1]))
    assert polar(torch.zeros(shape)).shape == shape
    assert levelled(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 1)])
def test_matrices_of_zeros_have_rank_zero(shape: tuple[int, int]) -> None:
    left, values, right = thin_svd(torch.zeros(shape))
    assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (0, shape[1]))
    assert not polar(torch.zeros(shape)).any()
    assert not levelled(torch.zeros(shape)).any()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_any_scale(scale: float) -> None:
    check(sparse(6, 4, [1], [2]) * scale)


@pytest.mark.parametrize("most", [0, 1, 3, 99])
def test_leading_ones_only(most: int) -> None:
    matrix = sparse(7, 5, [0], [])
    whole, some = thin_svd(matrix), thin_svd(matrix, most=most)
    count = min(most, 5)
    assert len(some[1]) == count
    torch.testing.assert_close(some[1], whole[1][:count], rtol=1e-12, atol=0)


def test_small_values_survive_the_gram_matrix() -> None:
    values = torch.tensor([1.0, 1e-3, 1e-5], dtype=torch.float64)
    left, right = torch.linalg.qr(normal(6, 3)).Q, torch.linalg.qr(normal(5, 3)).Q
    check((left * values) @ right.T)


@pytest.mark.parametrize("shape", [(300, 260), (1000, 300), (7, 7), (9, 1)], ids=str)
@pytest.mark.parametrize("rank", [None, 1])
def test_left_vectors_are_left_out_where_a_product_gives_them(
    shape: tuple[int, int], rank: int | None
) -> None:
    matrix = normal(*shape)
    if rank is not None:
        matrix = matrix[:, :1] @ normal(1, shape[1])
    left, values, right = right_svd(matrix)
    full, expected, turned = thin_svd(matrix)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)
    assert (left is None) == (len(values) == shape[1])
    made = matrix @ (right / values) if left is None else left
    torch.testing.assert_close(made * (full * made).sum(0).sign(), full, rtol=0, atol=1e-9)
    torch.testing.assert_close((made * values) @ right.T, matrix, rtol=0, atol=1e-9)
    assert turned.shape == right.T.shape
