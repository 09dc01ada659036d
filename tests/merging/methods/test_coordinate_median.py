import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import coordinate_median as reference
from weft.merging.errors import NonFinite
from weft.merging.method import Facts
from weft.merging.methods.coordinate_median import CoordinateMedian


def median(*rows: list[float]) -> list[float]:
    facts = [Facts(contribution=f"n{i}") for i in range(len(rows))]
    blocks = [torch.tensor(row, dtype=torch.float64) for row in rows]
    result: list[float] = CoordinateMedian().merge("w", blocks, facts, None).tolist()
    return result


def test_by_hand() -> None:
    assert median([1.0, -5.0], [3.0, 0.0], [2.0, 7.0]) == [2.0, 0.0]
    assert median([1.0, -5.0], [3.0, 0.0], [2.0, 7.0], [100.0, 1.0]) == [2.5, 0.5]
    assert median([4.0, 1.0], [2.0, -1.0]) == [3.0, 0.0]
    assert median([4.0, 4.0], [4.0, -1.0], [1.0, 4.0]) == [4.0, 4.0]


def test_weights_only_say_who_is_there() -> None:
    base, models = random_models(0, 4)
    found = merged_model(CoordinateMedian(), base, models, [0.1, 0.0, 5.0, 1.0])
    assert_same_models(found, reference.merge(base, [models[0], models[2], models[3]]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_as_the_reference(count: int) -> None:
    base, models = random_models(count, count)
    found = merged_model(CoordinateMedian(), base, models)
    assert_same_models(found, reference.merge(base, models))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(3, 9), size=st.floats(0, 30))
def test_fewer_than_half_leave_each_element_among_the_honest(
    seed: int, count: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = list(torch.randn((count, 40), generator=generator, dtype=torch.float64))
    bad = (count - 1) // 2
    for block in blocks[:bad]:
        block *= 10.0**size
    facts = [Facts(contribution=f"n{i}") for i in range(count)]
    found = CoordinateMedian().merge("w", blocks, facts, None)
    honest = torch.stack(blocks[bad:])
    assert bool((found >= honest.amin(0)).all())
    assert bool((found <= honest.amax(0)).all())


def test_a_nan_is_refused() -> None:
    with pytest.raises(NonFinite, match="n1, tensor 'w': nan found, expected finite numbers"):
        median([1.0], [torch.nan], [2.0])


def test_zeros_of_either_sign_are_zero() -> None:
    facts = [Facts(contribution=name) for name in "abc"]
    for count in (1, 3):
        blocks = [torch.tensor([-0.0])] * count
        result = CoordinateMedian().merge("w", blocks, facts[:count], None)
        assert not bool(result.signbit())
