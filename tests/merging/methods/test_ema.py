import pytest
import torch

from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption
from weft.merging.method import Facts
from weft.merging.methods.ema import Ema

BLOCK = Block(name="w", tensor_shape=(2,), shape=(2,))
ONE = torch.tensor([4.0, -8.0], dtype=torch.float64)
TWO = torch.tensor([2.0, 6.0], dtype=torch.float64)


def merged(method: Ema, *steps: tuple[torch.Tensor, float]) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=w) for i, (_, w) in enumerate(steps)]
    result: list[float] = merge_block(method, BLOCK, [d for d, _ in steps], facts).tolist()
    return result


def test_by_hand() -> None:
    assert merged(Ema(rate=0.25), (ONE, 1.0)) == [1.0, -2.0]
    # 0.75 * 1 + 0.25 * 2 and 0.75 * -2 + 0.25 * 6
    assert merged(Ema(rate=0.25), (ONE, 1.0), (TWO, 1.0)) == [1.25, 0.0]


def test_order_matters() -> None:
    assert merged(Ema(rate=0.25), (TWO, 1.0), (ONE, 1.0)) == [1.375, -0.875]


def test_a_weight_of_two_is_twice() -> None:
    once = merged(Ema(rate=0.25), (TWO, 1.0), (ONE, 2.0))
    assert once == pytest.approx(merged(Ema(rate=0.25), (TWO, 1.0), (ONE, 1.0), (ONE, 1.0)))
    assert merged(Ema(rate=0.25), (ONE, 2.0)) == [1.75, -3.5]


def test_rate_one_keeps_the_newest() -> None:
    assert Ema(rate=1.0).gives_back_one
    assert merged(Ema(rate=1.0), (ONE, 1.0), (TWO, 0.3)) == [2.0, 6.0]


def test_negative_weights_are_refused() -> None:
    with pytest.raises(BadOption, match="n0: weight -1; a moving average needs a positive one"):
        merged(Ema(), (ONE, -1.0))


def test_a_stream_can_be_taken_up_again() -> None:
    method = Ema(rate=0.25)
    state = method.init("w", (2,), None)
    state = method.absorb("w", state, ONE, Facts(contribution="a"))
    stored = {name: tensor.clone() for name, tensor in state.items()}
    later = method.absorb("w", stored, TWO, Facts(contribution="b"))
    assert later["average"].tolist() == [1.25, 0.0]
    assert stored["average"].tolist() == state["average"].tolist() == [1.0, -2.0]
