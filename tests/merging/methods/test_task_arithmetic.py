import pytest
import torch

from weft.merging.blocks import Block, merge_block
from weft.merging.method import Facts
from weft.merging.methods.task_arithmetic import TaskArithmetic

BLOCK = Block(name="w", tensor_shape=(2,), shape=(2,))
DELTAS = [
    torch.tensor([1.0, -2.0], dtype=torch.float64),
    torch.tensor([5.0, 6.0], dtype=torch.float64),
]


def merged(method: TaskArithmetic, *weights: float) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    result: list[float] = merge_block(method, BLOCK, DELTAS, facts).tolist()
    return result


def test_by_hand() -> None:
    assert merged(TaskArithmetic(scale=0.5), 1.0, 1.0) == [3.0, 2.0]
    assert merged(TaskArithmetic(scale=0.25), 2.0, 1.0) == [1.75, 0.5]
    assert merged(TaskArithmetic(scale=-1.0), 1.0, 0.0) == [-1.0, 2.0]


def test_the_default_is_the_usual_one() -> None:
    assert merged(TaskArithmetic(), 1.0, 1.0) == pytest.approx([1.8, 1.2], abs=1e-12)


def test_one_over_n_is_the_mean() -> None:
    assert merged(TaskArithmetic(scale=1 / 2), 1.0, 1.0) == [3.0, 2.0]
