import math

import pytest
import torch
from torch import Tensor

from weft.merging.spectra import RANK_TOLERANCE, levelled, polar, thin_svd

SHAPES = [(30, 30), (40, 17), (17, 40), (1, 6), (6, 1), (1, 1)]


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthonormal(seed: int, rows: int, columns: int) -> Tensor:
    basis: Tensor = torch.linalg.qr(noise(seed, rows, columns))[0]
    return basis


def with_values(rows: int, columns: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix of these singular values, and its polar factor."""
    left = orthonormal(1, rows, len(values))
    right = orthonormal(2, columns, len(values)).T
    return (left * values) @ right, left @ right


def require_factors(matrix: Tensor, tolerance: float = 1e-9) -> Tensor:
    """The factors are those of a singular value decomposition; gives the values."""
    left, values, right = thin_svd(matrix)
    rank = len(values)
    assert left.shape == (matrix.shape[0], rank)
    assert right.shape == (rank, matrix.shape[1])
    assert {left.dtype, values.dtype, right.dtype} == {torch.float64}
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=tolerance)
    torch.testing.assert_close(right @ right.T, eye, rtol=0, atol=tolerance)
    assert bool((values[:-1] >= values[1:]).all())
    expected = torch.linalg.svdvals(matrix.double())
    torch.testing.assert_close(values, expected[:rank], rtol=tolerance, atol=0)
    whole = (left * values) @ right
    assert float((whole - matrix).norm()) <= 1e-12 * float(expected[0])
    return values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_as_a_decomposition_of_the_matrix_itself(shape: tuple[int, int], seed: int) -> None:
    matrix = noise(seed, *shape)
    assert len(require_factors(matrix)) == min(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(polar(matrix), left @ right, rtol=0, atol=1e-9)


def test_by_hand() -> None:
    matrix = torch.tensor([[0.0, 2.0, 0.0], [-3.0, 0.0, 0.0]])
    left, values, right = thin_svd(matrix)
    assert values.tolist() == pytest.approx([3.0, 2.0], rel=1e-15)
    torch.testing.assert_close((left * values) @ right, matrix.double())
    expected = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(polar(matrix), expected)
    torch.testing.assert_close(levelled(matrix), 2.5 * expected)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (40, 40)], ids=str)
@pytest.mark.parametrize("least", [1e-2, 1e-4, 1e-6])
def test_ill_conditioned(shape: tuple[int, int], least: float) -> None:
    # One Gram matrix alone would be off by 1e-16 / least^2, up to 1e-4, in the last ones.
    values = torch.logspace(0, math.log10(least), 40, dtype=torch.float64)
    matrix, isometry = with_values(*shape, values)
    assert len(require_factors(matrix)) == 40
    torch.testing.assert_close(polar(matrix), isometry, rtol=0, atol=1e-9)
    torch.testing.assert_close(levelled(matrix), isometry * values.mean(), rtol=0, atol=1e-9)


def test_steps_far_apart() -> None:
    values = torch.tensor([1.0] * 10 + [3e-4] * 10 + [2e-7] * 10, dtype=torch.float64)
    matrix, isometry = with_values(50, 30, values)
    found = thin_svd(matrix)[1]
    torch.testing.assert_close(found, values, rtol=1e-8, atol=0)
    torch.testing.assert_close(polar(matrix), isometry, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (40, 40)], ids=str)
@pytest.mark.parametrize("rank", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    # Rounding a product to float32 leaves singular values of about 1e-8 of the largest.
    values = torch.linspace(1.0, 0.3, rank, dtype=torch.float64)
    matrix, isometry = with_values(*shape, values)
    rounded = matrix.to(dtype)
    assert len(thin_svd(rounded)[1]) == rank
    near = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(polar(rounded), isometry, rtol=0, atol=near)
    torch.testing.assert_close(levelled(rounded), isometry * values.mean(), rtol=0, atol=near)


def test_what_counts_as_zero() -> None:
    values = torch.tensor([1.0, 1.1 * RANK_TOLERANCE, 0.9 * RANK_TOLERANCE], dtype=torch.float64)
    matrix, _ = with_values(9, 5, values)
    assert len(thin_svd(matrix)[1]) == 2
    assert len(thin_svd(matrix, tolerance=1e-3)[1]) == 1
    assert len(thin_svd(matrix, tolerance=1e-9)[1]) == 3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    one = left[:, :1] @ right[:1]
    torch.testing.assert_close(polar(matrix, tolerance=1e-3), one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tolerance", [0.01, 0.3])
def test_a_tolerance_above_what_one_round_takes(tolerance: float) -> None:
    values = torch.tensor([1.0, 0.9, 0.2, 0.005], dtype=torch.float64)
    matrix, _ = with_values(6, 4, values)
    rank = int((values > tolerance).sum())
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    isometry = left[:, :rank] @ right[:rank]
    assert len(thin_svd(matrix, tolerance)[1]) == rank
    torch.testing.assert_close(polar(matrix, tolerance), isometry, rtol=0, atol=1e-9)
    expected = isometry * values[:rank].mean()
    torch.testing.assert_close(levelled(matrix, tolerance), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (0, 3), (3, 0)], ids=str)
def test_zeros(shape: tuple[int, int]) -> None:
    matrix = torch.zeros(shape)
    left, values, right = thin_svd(matrix)
    assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (0, shape[1]))
    assert polar(matrix).shape == shape
    assert not polar(matrix).any()
    assert not levelled(matrix).any()


def test_alike_values() -> None:
    matrix = 3 * orthonormal(6, 9, 5)
    assert require_factors(matrix).tolist() == pytest.approx([3.0] * 5)
    torch.testing.assert_close(polar(matrix), matrix / 3, rtol=0, atol=1e-14)
    torch.testing.assert_close(levelled(matrix), matrix, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1e-250, 1e-30, 1e30, 1e250])
def test_neither_over_nor_underflow(size: float) -> None:
    matrix = noise(7, 8, 6)
    found = thin_svd(matrix * size)[1] / size
    torch.testing.assert_close(found, torch.linalg.svdvals(matrix), rtol=1e-12, atol=0)
    torch.testing.assert_close(polar(matrix * size), polar(matrix), rtol=0, atol=1e-12)


@pytest.mark.parametrize("most", [0, 1, 3, 8, 20])
def test_only_the_leading_ones(most: int) -> None:
    values = torch.logspace(0, -6, 8, dtype=torch.float64)
    matrix, _ = with_values(12, 8, values)
    whole = thin_svd(matrix)
    part = thin_svd(matrix, most=most)
    assert len(part[1]) == min(most, 8)
    torch.testing.assert_close(part[1], whole[1][:most], rtol=1e-9, atol=0)
    torch.testing.assert_close(
        (part[0] * part[1]) @ part[2],
        (whole[0][:, :most] * whole[1][:most]) @ whole[2][:most],
        rtol=0,
        atol=1e-12,
    )


def test_inputs_are_kept() -> None:
    for matrix in (noise(8, 5, 3), noise(8, 3, 5) * 1e200):
        before = matrix.clone()
        for function in (polar, levelled):
            function(matrix).zero_()
        thin_svd(matrix)[0].zero_()
        assert torch.equal(matrix, before)
