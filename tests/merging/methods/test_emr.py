import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.emr import emr
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NotRemovable
from weft.merging.folding import FoldState
from weft.merging.methods.emr import Emr

DELTAS = [
    torch.tensor([1.0, -4.0, 2.0, 0.0, -0.5, 3.0], dtype=torch.float64),
    torch.tensor([2.0, 3.0, -9.0, 0.0, -0.25, -3.0], dtype=torch.float64),
    torch.tensor([-2.5, 2.0, 1.0, 0.0, -0.125, 0.0], dtype=torch.float64),
]


def merged(method: Emr, deltas: list[Tensor], weights: list[float] | None = None) -> list[float]:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    result: list[float] = merge_block(method, block, deltas, facts_of(deltas, weights)).tolist()
    return result


def test_by_hand() -> None:
    # Sums 0.5, 1, -6, 0, -0.875 and 0; of the last, which is a tie, the negative side.
    assert merged(Emr(), DELTAS) == [2.0, 3.0, -9.0, 0.0, -0.5, -3.0]


def test_the_scale_is_a_factor() -> None:
    assert merged(Emr(scale=-0.5), DELTAS) == [-1.0, -1.5, 4.5, 0.0, 0.25, 1.5]


def test_weights_only_say_who_is_there() -> None:
    assert merged(Emr(), DELTAS, [0.1, -7.0, 2.0]) == merged(Emr(), DELTAS)
    assert merged(Emr(), DELTAS, [1.0, 0.0, 1.0]) == [-2.5, -4.0, 2.0, 0.0, -0.5, 3.0]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_as_the_reference(scale: float) -> None:
    base, models = random_models(1, 5)
    assert_same_models(merged_model(Emr(scale=scale), base, models), emr(base, models, scale=scale))


def test_equal_ones_are_given_back() -> None:
    assert merged(Emr(), [DELTAS[0]] * 4) == DELTAS[0].tolist()


def test_one_is_given_back_unscaled() -> None:
    assert Emr().gives_back_one
    assert not Emr(scale=0.5).gives_back_one
    assert merged(Emr(), DELTAS[:1]) == DELTAS[0].tolist()


def test_an_extreme_cannot_be_forgotten() -> None:
    state = FoldState.zero(Emr(), "w", (6,))
    facts = facts_of(DELTAS)
    state.add(DELTAS[0], facts[0])
    with pytest.raises(NotRemovable):
        state.remove(DELTAS[0], facts[0])


def test_bad_options() -> None:
    with pytest.raises(BadOption, match="scale"):
        Emr(scale=torch.inf)
    with pytest.raises(BadOption, match="bound"):
        Emr(bound=0.0)
