import torch

from weft.merging.blocks import Block, merge_block
from weft.merging.method import Facts
from weft.merging.methods.magmax import MagMax

BLOCK = Block(name="w", tensor_shape=(5,), shape=(5,))
DELTAS = [
    torch.tensor([1.0, -4.0, 2.0, 0.0, -0.5], dtype=torch.float64),
    torch.tensor([-3.0, 3.0, -2.0, 0.0, -0.25], dtype=torch.float64),
    torch.tensor([2.0, 1.0, 1.0, 0.0, -0.125], dtype=torch.float64),
]


def merged(method: MagMax, *weights: float) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    result: list[float] = merge_block(method, BLOCK, DELTAS, facts).tolist()
    return result


def test_by_hand() -> None:
    # Of the tie 2, -2 the positive wins.
    assert merged(MagMax(scale=1.0), 1.0, 1.0, 1.0) == [-3.0, -4.0, 2.0, 0.0, -0.5]


def test_the_default_halves() -> None:
    assert merged(MagMax(), 1.0, 1.0, 1.0) == [-1.5, -2.0, 1.0, 0.0, -0.25]


def test_weights_only_say_who_is_there() -> None:
    assert merged(MagMax(scale=1.0), 0.1, 0.0, 9.0) == [2.0, -4.0, 2.0, 0.0, -0.5]


def test_unscaled_gives_one_back() -> None:
    assert MagMax(scale=1).gives_back_one
    assert not MagMax().gives_back_one
    assert merged(MagMax(scale=1), 1.0, 0.0, 0.0) == DELTAS[0].tolist()
