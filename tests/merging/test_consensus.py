import pytest
import torch
from torch import Tensor

from weft.merging.consensus import elected_mean, require_finite, total_weight, weighted_mean
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Facts


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def facts(*weights: float) -> list[Facts]:
    return [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]


def test_the_mean_by_hand() -> None:
    assert weighted_mean("w", [row(1, 2), row(5, -2)], facts(3, 1)).tolist() == [2.0, 1.0]


def test_a_mean_needs_more_than_zero() -> None:
    with pytest.raises(CannotMerge, match="tensor 'w': the weights of 2 contributions sum to 0"):
        weighted_mean("w", [row(1), row(2)], facts(1, -1))
    assert total_weight("w", facts(0.1, 0.2, 0.7)) == 1.0


def test_the_elected_by_hand() -> None:
    # At each place: all agree; the majority by sum; a zero does not count; none; a tie.
    one, two, three = row(1, 3, 4, 0, 2), row(2, -1, 0, 0, -2), row(6, -1, 2, 0, 0)
    assert elected_mean([one, two, three], [1, 1, 1]).tolist() == [3.0, 3.0, 3.0, 0.0, 0.0]


def test_the_elected_by_weight() -> None:
    # 3 - 5 * 1 < 0, so the second has it alone; (1 * 2 + 5 * 8) / 6.
    assert elected_mean([row(3, 2), row(-1, 8)], [1, 5]).tolist() == [-1.0, 7.0]


def test_a_negative_weight_turns_over() -> None:
    assert elected_mean([row(4, 1), row(-2, 3)], [1, -1]).tolist() == [3.0, -3.0]


def test_the_elected_keeps_inputs_and_dtype() -> None:
    blocks = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])]
    before = [block.clone() for block in blocks]
    assert elected_mean(blocks, [1.0, 2.0]).dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(blocks, before, strict=True))
    assert elected_mean([torch.zeros(0, 3)], [1.0]).shape == (0, 3)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(NonFinite, match=r"n1, tensor 'w': -?(inf|nan) found, expected finite num"):
        require_finite("w", [row(1, 2), row(0, value)], facts(1, 1))
    require_finite("w", [row(1, 2), torch.zeros(0)], facts(1, 1))
