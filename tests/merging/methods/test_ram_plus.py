import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.ram_plus import ram_plus
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import BadOption
from weft.merging.method import Scope
from weft.merging.methods.ram import Ram
from weft.merging.methods.ram_plus import RamPlus
from weft.merging.precision import Precision

DELTAS = [
    torch.tensor([1.0, -4.0, 8.0, 16.0, 2.0, 2.0, 0.0], dtype=torch.float64),
    torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], dtype=torch.float64),
]


def merged(
    method: Ram | RamPlus, deltas: list[Tensor], weights: list[float] | None = None
) -> list[float]:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    facts = in_proportion(method, facts_of(deltas, weights))
    result: list[float] = merge_block(method, block, deltas, facts).tolist()
    return result


def test_by_hand() -> None:
    # The first shares 1 entry and has 5 alone, the second shares 1 and has 1 alone: ratios
    # 0.2 and, cut off, 0.5. Factors 1 + 0.5 * 0.2 and 1 + 0.5 * 0.5.
    method = RamPlus(rate=0.5, ceiling=0.5)
    expected = [2.0, -4.4, 8.8, 17.6, 2.2, 2.2, -1.25]
    assert merged(method, DELTAS) == pytest.approx(expected, rel=1e-11)


def test_the_ceiling_cuts_the_ratio_off() -> None:
    method = RamPlus(rate=0.5, ceiling=0.1)
    assert merged(method, DELTAS)[1] == pytest.approx(-4.0 * 1.05, rel=1e-11)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"ceiling": 0.0}], ids=str)
def test_without_ratio_it_is_ram(options: dict[str, float]) -> None:
    assert merged(RamPlus(**options), DELTAS) == merged(Ram(), DELTAS)


def test_weights_count_where_entries_are_shared() -> None:
    one, two = merged(RamPlus(), DELTAS, [1.0, 3.0]), merged(RamPlus(), DELTAS)
    assert one[0] == 2.5
    assert one[1:] == two[1:]


def test_a_negative_weight_turns_round() -> None:
    turned = [DELTAS[0], -DELTAS[1]]
    assert merged(RamPlus(), DELTAS, [1.0, -1.0]) == merged(RamPlus(), turned)


def sparse_models(seed: int) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    base, models = random_models(seed, 3)
    for index, model in enumerate(models):
        for name, start in base.items():
            moved = (model[name] - start).abs() > 0.1 + 0.02 * index
            model[name] = torch.where(moved, model[name], start)
    return base, models


@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("ceiling", [0.2, 5.0])
def test_as_the_reference(rate: float, ceiling: float) -> None:
    base, models = sparse_models(1)
    found = merged_model(RamPlus(rate=rate, ceiling=ceiling), base, models)
    assert_same_models(found, ram_plus(base, models, rate=rate, ceiling=ceiling))


def test_who_shares_everything_has_nothing_to_raise() -> None:
    assert merged(RamPlus(rate=1.0, ceiling=9.0), [DELTAS[0]] * 2) == DELTAS[0].tolist()


def test_one_is_given_back_to_within_the_threshold() -> None:
    assert RamPlus().gives_back_one
    assert not RamPlus(threshold=0.1).gives_back_one
    assert merged(RamPlus(), DELTAS[:1]) == DELTAS[0].tolist()


def test_it_sees_whole_tensors_twice() -> None:
    assert RamPlus().scope("w", (4, 4)) is Scope.MATRIX
    assert RamPlus().phases == 2


def test_fast_sums_count_alike() -> None:
    deltas = [delta.float() for delta in DELTAS]
    block = Block(name="w", tensor_shape=(7,), shape=(7,), precision=Precision.FLOAT32)
    result = merge_block(RamPlus(rate=0.5, ceiling=0.5), block, deltas, facts_of(deltas))
    assert result.tolist() == pytest.approx([2.0, -4.4, 8.8, 17.6, 2.2, 2.2, -1.25], rel=1e-6)


@pytest.mark.parametrize("name", ["rate", "ceiling", "threshold"])
def test_bad_options(name: str) -> None:
    with pytest.raises(BadOption, match=name):
        RamPlus(**{name: -1.0})
