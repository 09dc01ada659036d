import math

import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.delta_guided import delta_guided
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts
from weft.merging.methods.delta_guided import DeltaGuided
from weft.merging.methods.varm import Varm
from weft.merging.registry import entry

# Mean magnitudes 3.5 and 1; norms 5 and sqrt(2); squares 25 and 2.
ONE = torch.tensor([3.0, 4.0], dtype=torch.float64)
TWO = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def merged(method: DeltaGuided | Varm, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None))


@pytest.mark.parametrize(
    ("measure", "invert", "share"),
    [
        ("l1", False, 3.5 / 4.5),
        ("l1", True, 1 / 4.5),
        ("l2", False, 5 / (5 + math.sqrt(2))),
        ("l2", True, math.sqrt(2) / (5 + math.sqrt(2))),
        ("l2sq", False, 25 / 27),
        ("l2sq", True, 2 / 27),
    ],
)
def test_by_hand(measure: str, invert: bool, share: float) -> None:
    found = merged(DeltaGuided(measure=measure, invert=invert), [ONE, TWO])
    torch.testing.assert_close(found, share * ONE + (1 - share) * TWO, rtol=1e-14, atol=1e-15)


def test_weights_multiply() -> None:
    found = merged(DeltaGuided(), [ONE, TWO], 1.0, 3.5)
    torch.testing.assert_close(found, (ONE + TWO) / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("measure", ["l1", "l2", "l2sq"])
@pytest.mark.parametrize("invert", [False, True])
def test_as_the_reference(measure: str, invert: bool) -> None:
    base, models = random_models(1, 4)
    found = merged_model(DeltaGuided(measure=measure, invert=invert), base, models)
    assert_same_models(found, delta_guided(base, models, measure=measure, invert=invert))


def test_squares_are_varm() -> None:
    one = merged(DeltaGuided(measure="l2sq"), [ONE, TWO])
    assert torch.equal(one, merged(Varm(), [ONE, TWO]))


@pytest.mark.parametrize("invert", [False, True])
def test_who_did_not_move_has_no_say(invert: bool) -> None:
    still = torch.zeros_like(ONE)
    assert merged(DeltaGuided(invert=invert), [ONE, still]).tolist() == ONE.tolist()
    assert merged(DeltaGuided(invert=invert), [still, still]).tolist() == [0.0, 0.0]


def test_a_tensor_without_elements() -> None:
    assert merged(DeltaGuided(), [torch.zeros(0, dtype=torch.float64)]).shape == (0,)


def test_negative_sums_of_weights_are_refused() -> None:
    with pytest.raises(CannotMerge, match="a mean needs more than zero"):
        merged(DeltaGuided(), [ONE, TWO], -1.0, 1.0)


def test_sums_are_needed() -> None:
    block = Block(name="w", tensor_shape=(2,), shape=(2,))
    with pytest.raises(CannotMerge, match="sums over the tensor were not given"):
        merge_block(DeltaGuided(), block, [ONE], [Facts(contribution="n")])


def test_it_is_marked_as_experimental() -> None:
    assert entry("delta_guided").experimental


def test_bad_options() -> None:
    with pytest.raises(BadOption, match="measure"):
        DeltaGuided(measure="l3")
    with pytest.raises(BadOption, match="invert"):
        DeltaGuided(invert=1)  # type: ignore[arg-type]
