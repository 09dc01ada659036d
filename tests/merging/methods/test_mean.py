import pytest
import torch

from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge
from weft.merging.method import Facts
from weft.merging.methods.mean import Mean

BLOCK = Block(name="w", tensor_shape=(2,), shape=(2,))
DELTAS = [
    torch.tensor([1.0, -2.0], dtype=torch.float64),
    torch.tensor([5.0, 6.0], dtype=torch.float64),
]


def mean(*weights: float) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    result: list[float] = merge_block(Mean(), BLOCK, DELTAS, facts).tolist()
    return result


def test_by_hand() -> None:
    assert mean(1.0, 1.0) == [3.0, 2.0]
    # (3 * 1 + 1 * 5) / 4 and (3 * -2 + 1 * 6) / 4
    assert mean(3.0, 1.0) == [2.0, 0.0]
    # 2 * 1 - 5 and 2 * -2 - 6: an extrapolation
    assert mean(2.0, -1.0) == [-3.0, -10.0]


@pytest.mark.parametrize("weights", [(1.0, -1.0), (1.0, -2.0)])
def test_weights_must_sum_to_more_than_zero(weights: tuple[float, float]) -> None:
    with pytest.raises(CannotMerge, match=r"weights of 2 contributions sum to -?\d"):
        mean(*weights)


def test_against_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    deltas = torch.randn(16, 500, generator=generator, dtype=torch.float64)
    weights = torch.rand(16, generator=generator, dtype=torch.float64)
    facts = [Facts(contribution=str(i), weight=float(w)) for i, w in enumerate(weights)]
    block = Block(name="w", tensor_shape=(500,), shape=(500,))
    result = merge_block(Mean(), block, list(deltas), facts)
    reference = (weights[:, None] * deltas).sum(0) / weights.sum()
    # Sixteen roundings to the grid, over a sum of weights of about eight.
    torch.testing.assert_close(result, reference, rtol=0, atol=16 * 2.0**-40 / float(weights.sum()))
