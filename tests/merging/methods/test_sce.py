import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.sce import sce
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts, Scope
from weft.merging.methods.sce import Sce
from weft.merging.precision import Precision

DELTAS = [
    torch.tensor([1.0, -4.0, 2.0, 0.0], dtype=torch.float64),
    torch.tensor([-3.0, 5.0, 2.0, 4.0], dtype=torch.float64),
    torch.tensor([1.0, 3.0, -2.0, 0.0], dtype=torch.float64),
]


def merged(method: Sce, deltas: list[Tensor], weights: list[float] | None = None) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    facts = in_proportion(method, facts_of(deltas, weights))
    return merge_block(method, block, deltas, facts)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand() -> None:
    # What one alone has is whole; the last sums to -3, so the 1 is erased.
    deltas = [vector(2.0, 1.0, 0.0, 1.0), vector(0.0, 0.0, 0.0, -4.0)]
    assert merged(Sce(), deltas).tolist() == [2.0, 1.0, 0.0, -4.0]
    deltas = [vector(2.0, 2.0), vector(4.0, -8.0)]
    # Energies 4 and 40; sums 6 and -6.
    expected = vector((4 * 2 + 40 * 4) / 44, -8.0)
    torch.testing.assert_close(merged(Sce(), deltas), expected, rtol=1e-14, atol=0)


def test_a_sum_of_zero_is_positive() -> None:
    assert merged(Sce(), [vector(1.0, 3.0), vector(-1.0, 3.0)]).tolist() == [1.0, 3.0]


def test_weights_multiply() -> None:
    deltas = [vector(2.0, 2.0), vector(4.0, -8.0)]
    # Sums 4 * 2 + 4 and 4 * 2 - 8, which is positive; energies 4 * 4 and 40.
    expected = vector((16 * 2 + 40 * 4) / 56, 2.0)
    torch.testing.assert_close(merged(Sce(), deltas, [4.0, 1.0]), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("select", [1.0, 0.5])
def test_a_negative_weight_turns_round(select: float) -> None:
    turned = [DELTAS[0], -DELTAS[1], DELTAS[2]]
    method = Sce(select=select)
    found, expected = merged(method, DELTAS, [1.0, -1.0, 1.0]), merged(method, turned)
    assert torch.equal(found, expected)


def test_selection_by_hand() -> None:
    # Variances 1, 0, 4, 0.25 and 9 of five, four of which vary: half of four are two, the
    # third and the last. Selected, the energies are (16 + 1) / 5 and 25 / 5.
    deltas = [vector(2.0, 1.0, 4.0, 1.0, -1.0), vector(0.0, 1.0, 0.0, 2.0, 5.0)]
    assert merged(Sce(select=0.5), deltas).tolist() == [0.0, 0.0, 4.0, 0.0, 5.0]
    deltas = [vector(2.0, 1.0, 4.0, 1.0, 1.0), vector(0.0, 1.0, 8.0, 2.0, 7.0)]
    # Energies 17 / 5 and 113 / 5 of what is selected.
    expected = vector(0.0, 0.0, (17 * 4 + 113 * 8) / 130, 0.0, (17 * 1 + 113 * 7) / 130)
    found = merged(Sce(select=0.5), deltas)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_a_tie_is_selected() -> None:
    deltas = [vector(2.0, 2.0, 1.0, 0.0), vector(0.0, 0.0, 0.0, 0.0)]
    assert merged(Sce(select=0.4), deltas).tolist() == [2.0, 2.0, 0.0, 0.0]


def test_too_small_a_share_selects_nothing() -> None:
    assert merged(Sce(select=0.2), DELTAS).tolist() == [0.0] * 4


def test_what_does_not_vary_is_not_selected() -> None:
    same = DELTAS[0] * 1e-4
    assert merged(Sce(select=0.99), [same, same, same]).tolist() == [0.0] * 4
    assert merged(Sce(select=0.99), [same]).tolist() == [0.0] * 4


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_what_sums_round_is_no_variance(count: int, size: float) -> None:
    """Squares are sums on a grid, of which the smallest elements fill a few units."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 50, generator=generator, dtype=torch.float64)
    # Some elements are as small as the grid itself.
    same = values * size * 10.0 ** -torch.randint(0, 12, (40, 50), generator=generator)
    assert not merged(Sce(select=0.5), [same] * count).any()
    weights = [float(place % 3 + 1) for place in range(count)]
    assert not merged(Sce(select=0.5), [same] * count, weights).any()


def test_of_elements_that_vary_and_others_the_share_is_of_the_former() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = list(torch.randn(3, 2000, generator=generator, dtype=torch.float64) * 1e-7)
    alike = torch.rand(2000, generator=generator) < 0.5
    deltas = [torch.where(alike, deltas[0], delta) for delta in deltas]
    chosen = int(0.5 * int((~alike).sum()))
    assert int(merged(Sce(select=0.5), deltas).count_nonzero()) == chosen


@pytest.mark.parametrize("select", [0.05, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.25]])
def test_as_the_reference(select: float, weights: list[float] | None) -> None:
    base, models = random_models(1, 4)
    found = merged_model(Sce(select=select), base, models, weights)
    assert_same_models(found, sce(base, models, select=select, weights=weights))


@pytest.mark.parametrize("select", [0.5, 1.0])
@pytest.mark.parametrize("exponent", [-14, -24, -27])
def test_small_task_vectors_keep_their_digits(select: float, exponent: int) -> None:
    """2^-27 is 7e-9: cubes of it are 4e-25."""
    method, size = Sce(select=select), 2.0**exponent
    small = merged(method, [delta * size for delta in DELTAS])
    expected = merged(method, DELTAS) * size
    torch.testing.assert_close(small, expected, rtol=1e-9, atol=0)


def test_a_smaller_bound_reaches_further_down() -> None:
    small = [delta * 2.0**-44 for delta in DELTAS]
    found = merged(Sce(bound=2.0**-16), small)
    torch.testing.assert_close(found, merged(Sce(), DELTAS) * 2.0**-44, rtol=1e-3, atol=0)
    assert not merged(Sce(), small).any()


def test_a_smaller_bound_leaves_fast_sums_what_they_hold() -> None:
    zeros = [torch.zeros(4), torch.zeros(4)]
    block = Block(name="w", tensor_shape=(4,), shape=(4,), precision=Precision.FLOAT32)
    found = merge_block(Sce(bound=2.0**-32), block, zeros, facts_of(zeros))
    assert found.tolist() == [0.0] * 4


@pytest.mark.parametrize("select", [0.5, 1.0])
@pytest.mark.parametrize("precision", [Precision.FLOAT64, Precision.FLOAT32])
def test_fast_sums_are_near(select: float, precision: Precision) -> None:
    deltas = [delta.to(precision.dtype) for delta in DELTAS]
    block = Block(name="w", tensor_shape=(4,), shape=(4,), precision=precision)
    found = merge_block(Sce(select=select), block, deltas, facts_of(deltas))
    assert found.dtype == precision.dtype
    expected = merged(Sce(select=select), DELTAS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_without_selection_one_is_given_back() -> None:
    assert Sce().gives_back_one
    assert not Sce(select=0.5).gives_back_one
    torch.testing.assert_close(merged(Sce(), DELTAS[:1]), DELTAS[0], rtol=1e-14, atol=0)


def test_selection_needs_whole_tensors_twice() -> None:
    assert (Sce().scope("w", (3, 3)), Sce().phases) == (Scope.ELEMENT, 1)
    assert (Sce(select=0.5).scope("w", (3, 3)), Sce(select=0.5).phases) == (Scope.MATRIX, 2)


@pytest.mark.parametrize("select", [0.5, 1.0])
def test_zero_task_vectors_leave_the_base(select: float) -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    assert merged(Sce(select=select), [zeros, zeros]).tolist() == [0.0] * 3


def test_sums_are_needed() -> None:
    block = Block(name="w", tensor_shape=(4,), shape=(4,))
    with pytest.raises(CannotMerge, match="sums over the tensor were not given"):
        merge_block(Sce(), block, DELTAS[:1], [Facts(contribution="n")])


@pytest.mark.parametrize("select", [0.0, 1.5, -0.1])
def test_bad_options(select: float) -> None:
    with pytest.raises(BadOption, match="select"):
        Sce(select=select)
