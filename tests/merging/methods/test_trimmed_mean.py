import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import trimmed_mean as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Facts
from weft.merging.methods.trimmed_mean import TrimmedMean

BLOCK = Block(name="w", tensor_shape=(3,), shape=(3,))
DELTAS = [
    torch.tensor(row, dtype=torch.float64)
    for row in ([1.0, -1.0, 0.0], [2.0, -2.0, 0.0], [30.0, -30.0, 0.0], [4.0, -4.0, -0.0])
]


def merged(method: TrimmedMean, *weights: float) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    result: list[float] = merge_block(method, BLOCK, DELTAS[: len(weights)], facts).tolist()
    return result


def test_by_hand() -> None:
    # Without 1 and 30: (2 + 4) / 2.
    assert merged(TrimmedMean(count=1), 1.0, 1.0, 1.0, 1.0) == [3.0, -3.0, 0.0]
    assert merged(TrimmedMean(share=0.25), 1.0, 1.0, 1.0, 1.0) == [3.0, -3.0, 0.0]


def test_a_share_is_rounded_down() -> None:
    assert merged(TrimmedMean(), 1.0, 1.0, 1.0, 1.0) == [9.25, -9.25, 0.0]
    assert merged(TrimmedMean(share=1 / 3), 1.0, 1.0, 1.0) == [2.0, -2.0, 0.0]


def test_weights_only_say_who_is_there() -> None:
    assert merged(TrimmedMean(count=1), 0.1, 9.0, 5.0, 0.0) == [2.0, -2.0, 0.0]


def test_shares_mean_what_they_say() -> None:
    # 0.29 * 100 is 28.999999999999996.
    blocks = [torch.tensor([float(i)]) for i in range(100)]
    facts = [Facts(contribution=f"n{i:02}") for i in range(100)]
    blocks[28], blocks[71] = torch.tensor([-1e6]), torch.tensor([1e6])
    result = TrimmedMean(share=0.29).merge("w", blocks, facts, None)
    # Left out: -1e6, 0 to 27, and 72 to 99, 1e6; the mean of 29 to 70.
    assert result.tolist() == [49.5]


@pytest.mark.parametrize(("count", "trim"), [(1, 0), (3, 1), (5, 1), (5, 2), (8, 3)])
def test_as_the_reference(count: int, trim: int) -> None:
    base, models = random_models(count, count)
    found = merged_model(TrimmedMean(count=trim, share=0.0), base, models)
    assert_same_models(found, reference.merge(base, models, trim=trim))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), trim=st.integers(1, 3), size=st.floats(0, 30))
def test_as_many_hostile_ones_leave_each_element_among_the_honest(
    seed: int, trim: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = list(torch.randn((9, 40), generator=generator, dtype=torch.float64))
    for block in blocks[:trim]:
        block *= 10.0**size
    facts = [Facts(contribution=f"n{i}") for i in range(9)]
    found = TrimmedMean(count=trim).merge("w", blocks, facts, None)
    honest = torch.stack(blocks[trim:])
    assert bool((found >= honest.amin(0) - 1e-12).all())
    assert bool((found <= honest.amax(0) + 1e-12).all())


@pytest.mark.parametrize(("count", "models"), [(1, 1), (1, 2), (2, 4)])
def test_nothing_left_is_refused(count: int, models: int) -> None:
    with pytest.raises(CannotMerge, match=rf"tensor 'w': without {count} .* least {2 * count + 1}"):
        merged(TrimmedMean(count=count), *[1.0] * models)


def test_a_nan_that_would_be_trimmed_is_refused() -> None:
    blocks = [*DELTAS[:2], torch.tensor([1.0, torch.inf, 1.0], dtype=torch.float64)]
    facts = [Facts(contribution=name) for name in "abc"]
    with pytest.raises(NonFinite, match="c, tensor 'w': inf found, expected finite numbers"):
        TrimmedMean(count=1).merge("w", blocks, facts, None)


def test_zeros_of_either_sign_are_zero() -> None:
    blocks = [torch.tensor([-0.0]) for _ in range(3)]
    facts = [Facts(contribution=name) for name in "abc"]
    result = TrimmedMean(count=1).merge("w", blocks, facts, None)
    assert torch.equal(result.signbit(), torch.tensor([False]))


@pytest.mark.parametrize("options", [{"share": 0.5}, {"share": -0.1}, {"count": -1}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        TrimmedMean(**options)  # type: ignore[arg-type]
    assert TrimmedMean().gives_back_one
    assert not TrimmedMean(count=1).gives_back_one
