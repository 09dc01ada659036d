import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references.varm import varm
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, OutOfBound
from weft.merging.method import Facts
from weft.merging.methods.varm import Varm
from weft.merging.precision import Precision

# Energies 2 and 4.
ONE = torch.tensor([2.0, 0.0], dtype=torch.float64)
TWO = torch.tensor([-2.0, 2.0], dtype=torch.float64)


def merged(deltas: list[Tensor], weights: list[float] | None = None) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    return merge_block(Varm(), block, deltas, facts_of(deltas, weights))


def test_by_hand() -> None:
    # (2 * 2 - 4 * 2) / 6 and (0 + 4 * 2) / 6.
    expected = torch.tensor([-4 / 6, 8 / 6], dtype=torch.float64)
    torch.testing.assert_close(merged([ONE, TWO]), expected, rtol=1e-15, atol=0)


def test_weights_multiply_the_energies() -> None:
    # Energies 6 and 4.
    expected = torch.tensor([0.4, 0.8], dtype=torch.float64)
    torch.testing.assert_close(merged([ONE, TWO], [3.0, 1.0]), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.0]])
def test_as_the_reference(weights: list[float] | None) -> None:
    base, models = random_models(1, 4)
    found = merged_model(Varm(), base, models, weights)
    assert_same_models(found, varm(base, models, weights=weights))


@pytest.mark.parametrize(
    ("size", "rtol"), [(1e-3, 1e-14), (1e-6, 1e-14), (1e-7, 1e-12), (1e-8, 1e-9), (1e-9, 1e-7)]
)
def test_small_task_vectors_keep_their_digits(size: float, rtol: float) -> None:
    # Their energies, times themselves, are far below the unit of a sum of one limb.
    expected = merged([ONE, TWO]) * size
    torch.testing.assert_close(merged([ONE * size, TWO * size]), expected, rtol=rtol, atol=0)


def test_a_smaller_bound_reaches_further_down() -> None:
    small, block = [ONE * 1e-12, TWO * 1e-12], Block(name="w", tensor_shape=(2,), shape=(2,))
    found = merge_block(Varm(bound=2.0**-16), block, small, facts_of(small))
    torch.testing.assert_close(found, merged([ONE, TWO]) * 1e-12, rtol=1e-3, atol=0)


def test_the_energy_is_that_of_the_tensor_not_of_the_block() -> None:
    facts = facts_of([ONE, TWO])
    block = Block(name="w", tensor_shape=(2,), shape=(1,))
    parts = [merge_block(Varm(), block, [ONE[i : i + 1], TWO[i : i + 1]], facts) for i in range(2)]
    assert torch.equal(torch.cat(parts), merged([ONE, TWO]))


def test_who_did_not_move_has_no_say() -> None:
    assert merged([ONE, torch.zeros_like(ONE)]).tolist() == ONE.tolist()
    assert merged([torch.zeros_like(ONE)] * 2).tolist() == [0.0, 0.0]


def test_a_tensor_without_elements() -> None:
    assert merged([torch.zeros(0, dtype=torch.float64)] * 2).shape == (0,)


def test_weights_that_cancel_are_refused() -> None:
    with pytest.raises(CannotMerge, match="2 contributions come to 0 in sum"):
        merged([ONE, ONE.flip(0)], [1.0, -1.0])
    with pytest.raises(CannotMerge, match="come to -2 in sum"):
        merged([ONE, TWO], [1.0, -1.0])


def test_sums_are_needed() -> None:
    block = Block(name="w", tensor_shape=(2,), shape=(2,))
    with pytest.raises(CannotMerge, match="n, tensor 'w': its sums over the tensor were not given"):
        merge_block(Varm(), block, [ONE], [Facts(contribution="n")])


def test_large_ones_say_what_helps() -> None:
    with pytest.raises(OutOfBound, match="larger `bound`"):
        merged([ONE * 1e3])


def test_fast_sums_hold_small_products() -> None:
    deltas = [(ONE * 1e-6).float(), (TWO * 1e-6).float()]
    block = Block(name="w", tensor_shape=(2,), shape=(2,), precision=Precision.FLOAT32)
    result = merge_block(Varm(), block, deltas, facts_of(deltas))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), merged([ONE, TWO]) * 1e-6, rtol=1e-6, atol=0)


def test_bad_options() -> None:
    with pytest.raises(BadOption, match="bound"):
        Varm(bound=3.0)
