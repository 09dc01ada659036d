import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.consensus import consensus
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.methods.consensus import Consensus
from weft.merging.precision import Precision

DELTAS = [
    torch.tensor([1.0, 8.0, 1.0, 0.0, 1.0], dtype=torch.float64),
    torch.tensor([1.0, 1.0, 2.0, 0.0, -1.0], dtype=torch.float64),
    torch.tensor([1.0, -1.0, -3.0, 0.0, 4.0], dtype=torch.float64),
]


def merged(
    method: Consensus, deltas: list[Tensor], weights: list[float] | None = None
) -> list[float]:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    result: list[float] = merge_block(method, block, deltas, facts_of(deltas, weights)).tolist()
    return result


def test_by_hand() -> None:
    # Sums 3, 8, 0, 0, 4. An entry d of a sum s is wanted where |d| >= |s - d| / 2:
    #   1 of 3: 1 >= 1 three times;            8, 1, -1 of 8: 8 >= 0, 1 < 3.5, 1 < 4.5;
    #   1, 2, -3 of 0: always;                  1, -1, 4 of 4: 1 < 1.5, 1 < 2.5, 4 >= 0.
    assert merged(Consensus(share=0.5, scale=1.0), DELTAS) == [3.0, 0.0, 0.0, 0.0, 0.0]
    assert merged(Consensus(share=0.5, scale=1.0, models=1), DELTAS) == [3.0, 8.0, 0.0, 0.0, 4.0]


def test_the_number_that_must_want_it() -> None:
    assert merged(Consensus(share=0.5, scale=1.0, models=3), DELTAS)[0] == 3.0
    assert merged(Consensus(share=0.5, scale=1.0, models=4), DELTAS) == [0.0] * 5


def test_equality_is_enough() -> None:
    # The authors' code wants more; the paper's formula does not.
    assert merged(Consensus(share=0.5 + 2.0**-40, scale=1.0), DELTAS)[0] == 0.0


def test_the_scale_is_a_factor() -> None:
    assert merged(Consensus(share=0.5, scale=-2.0), DELTAS)[0] == -6.0


def test_weights_multiply_task_vectors() -> None:
    weights = [0.5, 2.0, 1.0]
    scaled = [weight * delta for weight, delta in zip(weights, DELTAS, strict=True)]
    method = Consensus(share=0.3)
    assert merged(method, DELTAS, weights) == merged(method, scaled)


def test_one_alone_is_not_enough() -> None:
    assert merged(Consensus(), DELTAS[:1]) == [0.0] * 5
    assert merged(Consensus(models=1, scale=1.0), DELTAS[:1]) == DELTAS[0].tolist()


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
@pytest.mark.parametrize("models", [1, 2, 4])
@pytest.mark.parametrize("weights", [None, [0.5, 1.5, -1.0, 0.25]])
def test_as_the_reference(share: float, models: int, weights: list[float] | None) -> None:
    base, experts = random_models(1, 4)
    found = merged_model(Consensus(share=share, models=models), base, experts, weights)
    expected = consensus(base, experts, share=share, models_wanted=models, weights=weights)
    assert_same_models(found, expected)


@pytest.mark.parametrize("precision", list(Precision))
def test_all_precisions_want_the_same(precision: Precision) -> None:
    deltas = [delta.to(precision.dtype) for delta in DELTAS]
    block = Block(name="w", tensor_shape=(5,), shape=(5,), precision=precision)
    result = merge_block(Consensus(share=0.5, scale=1.0, models=1), block, deltas, facts_of(deltas))
    assert result.tolist() == [3.0, 8.0, 0.0, 0.0, 4.0]


def test_a_nan_is_refused() -> None:
    spoiled = DELTAS[1].clone()
    spoiled[0] = torch.nan
    with pytest.raises(NonFinite, match="node-1, tensor 'w'"):
        merged(Consensus(), [DELTAS[0], spoiled])


@pytest.mark.parametrize(
    "options", [{"share": 0.0}, {"models": 0}, {"models": 1.5}, {"scale": torch.nan}], ids=str
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        Consensus(**options)  # type: ignore[arg-type]
