import math

import pytest
import torch

from weft.merging.deltas import GramSum, cosines, delta_norm

DELTAS = torch.tensor([[3.0, 4.0, 0.0], [4.0, -3.0, 0.0], [6.0, 8.0, 0.0]], dtype=torch.float64)


def test_values_by_hand() -> None:
    sums = GramSum(3)
    assert sums.add(DELTAS).tolist() == [25.0, 25.0, 100.0]
    assert sums.gram().tolist() == [[25.0, 0.0, 50.0], [0.0, 25.0, 0.0], [50.0, 0.0, 100.0]]
    assert sums.norms().tolist() == [5.0, 5.0, 10.0]
    assert cosines(sums.gram()).tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]


def test_blocks_add_up() -> None:
    torch.manual_seed(0)
    deltas = torch.randn(4, 1001, dtype=torch.float64)
    sums = GramSum(4)
    for block in torch.tensor_split(deltas, 11, dim=1):
        sums.add(block)
    torch.testing.assert_close(sums.gram(), deltas @ deltas.T, rtol=1e-13, atol=0)
    assert torch.equal(sums.gram(), sums.gram().T)
    assert delta_norm(torch.tensor_split(deltas[1], 77)) == pytest.approx(
        float(sums.norms()[1]), rel=1e-14
    )


def test_what_is_not_finite_spoils_its_own_row_and_column_only() -> None:
    spoiled = DELTAS.clone()
    spoiled[1, 1] = math.nan
    sums = GramSum(3)
    sums.add(spoiled)
    clean = [0, 2]
    assert bool(sums.gram()[1].isnan().all())
    assert sums.gram()[clean][:, clean].tolist() == [[25.0, 50.0], [50.0, 100.0]]


def test_a_zero_vector_has_no_angle() -> None:
    gram = torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert cosines(gram).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_norms_of_any_dtype_and_of_nothing() -> None:
    assert delta_norm([torch.tensor([[3.0], [4.0]], dtype=torch.bfloat16)]) == 5.0
    assert delta_norm([]) == 0.0
    assert math.isinf(delta_norm([torch.tensor([math.inf])]))
