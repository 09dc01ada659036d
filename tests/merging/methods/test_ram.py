import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.ram import ram
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.methods.ram import Ram

DELTAS = [
    torch.tensor([1.0, -4.0, 0.0, 0.0, 1e-5, 0.25], dtype=torch.float64),
    torch.tensor([3.0, 0.0, 2.0, 0.0, 5e-6, -0.25], dtype=torch.float64),
    torch.tensor([-1.0, 0.0, 1e-6, 0.0, -1e-5, 0.5], dtype=torch.float64),
]


def merged(method: Ram, deltas: list[Tensor], weights: list[float] | None = None) -> list[float]:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    facts = in_proportion(method, facts_of(deltas, weights))
    result: list[float] = merge_block(method, block, deltas, facts).tolist()
    return result


def test_by_hand() -> None:
    # Means of those that changed it; what one alone changed is whole; 1e-5 is no change.
    assert merged(Ram(), DELTAS) == [1.0, -4.0, 2.0, 0.0, 0.0, 0.5 / 3]


def test_the_threshold_itself_is_no_change() -> None:
    # Of the last 0.5 alone is beyond it, and so unique.
    assert merged(Ram(threshold=0.25), DELTAS) == [1.0, -4.0, 2.0, 0.0, 0.0, 0.5]
    assert merged(Ram(threshold=0.0), DELTAS)[4] == pytest.approx(5e-6 / 3, rel=1e-6)


def test_weights_count_where_entries_are_shared() -> None:
    # (1 + 2 * 3 - 1) / 4, and -4 and 2 whole, and (0.25 - 0.5 + 0.5) / 4.
    assert merged(Ram(), DELTAS, [1.0, 2.0, 1.0]) == [1.5, -4.0, 2.0, 0.0, 0.0, 0.0625]


def test_a_negative_weight_turns_round() -> None:
    turned = [DELTAS[0], -DELTAS[1], DELTAS[2]]
    assert merged(Ram(), DELTAS, [1.0, -1.0, 1.0]) == merged(Ram(), turned)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.25]])
def test_as_the_reference(weights: list[float] | None) -> None:
    base, models = random_models(1, 4)
    found = merged_model(Ram(threshold=0.1), base, models, weights)
    assert_same_models(found, ram(base, models, threshold=0.1, weights=weights))


def test_equal_ones_are_given_back() -> None:
    assert merged(Ram(), [DELTAS[0]] * 3)[:4] == DELTAS[0].tolist()[:4]


def test_one_is_given_back_to_within_the_threshold() -> None:
    assert Ram().gives_back_one
    assert not Ram(threshold=0.1).gives_back_one
    assert merged(Ram(), DELTAS[:1]) == [1.0, -4.0, 0.0, 0.0, 0.0, 0.25]


def test_a_nan_is_refused() -> None:
    with pytest.raises(NonFinite, match="node-0, tensor 'w'"):
        merged(Ram(), [torch.tensor([torch.nan], dtype=torch.float64)])


def test_bad_options() -> None:
    with pytest.raises(BadOption, match="threshold"):
        Ram(threshold=-1.0)
