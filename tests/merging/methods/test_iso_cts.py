from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import iso_cts as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Method
from weft.merging.methods.iso_c import IsoC
from weft.merging.methods.iso_cts import IsoCts


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def merged(method: Method, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Common: 10 e1 e1 and 6 e2 e2. Beside that, one has 2 e3 e3, the other 1 e4 e4.
    deltas = [diagonal(5.0, 3.0, 2.0, 0.0), diagonal(5.0, 3.0, 0.0, 1.0)]
    close(merged(IsoCts(common=0.5), deltas), diagonal(4.75, 4.75, 4.75, 4.75))
    close(merged(IsoCts(common=0.5, scale=2.0), deltas), diagonal(9.5, 9.5, 9.5, 9.5))


def test_directions_that_overlap_by_hand() -> None:
    # Common: 6 e1 e1. One has 5 e2 (3 4 0)/5 beside, the other 4 e3 e3; the mean is 5. The
    # nearest orthonormal rows to e1 and (3 4 0)/5 are (3 -1 0) and (1 3 0), over sqrt 10.
    one = matrix([3.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 0.0])
    two = matrix([3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 0.0, 4.0])
    root = 10**0.5
    expected = matrix([3.0, -1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, root]) * (5 / root)
    close(merged(IsoCts(common=0.4), [one, two]), expected)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, 0.9], [2.0, -0.5, 1.0]])
@pytest.mark.parametrize("common", [0.2, 0.5, 0.8, 1.0])
def test_as_the_reference(weights: list[float], common: float) -> None:
    base, models = some_models(1, 3)
    expected = reference.merge(
        base, models, weights=weights, common=common, scale=0.7, averaged=AVERAGED
    )
    assert_same(merge_models(IsoCts(common=common, scale=0.7), base, models, weights), expected)


@pytest.mark.parametrize("shape", [(20, 20), (31, 20), (20, 31), (20, 60)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4, 7])
@pytest.mark.parametrize("common", [0.2, 0.3, 0.8])
def test_larger_as_the_reference(shape: tuple[int, int], count: int, common: float) -> None:
    generator = torch.Generator().manual_seed(count)
    deltas = [torch.randn(shape, generator=generator).double() for _ in range(count)]
    expected = reference.iso_cts([delta.numpy() for delta in deltas], common)
    found = merged(IsoCts(common=common), deltas)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-9)


def test_all_in_common_is_iso_c() -> None:
    _, models = some_models(2, 3)
    deltas = [model["wide.weight"] for model in models]
    close(merged(IsoCts(common=1.0), deltas), merged(IsoC(), deltas))


def test_with_as_many_as_there_are_directions() -> None:
    # No room of their own: 9 contributions, 5 directions.
    _, models = some_models(3, 9)
    deltas = [model["wide.weight"] for model in models]
    close(merged(IsoCts(), deltas), merged(IsoC(), deltas))
    assert bool(merged(IsoCts(common=0.0), deltas[:5]).any())


def test_who_has_nothing_of_its_own_adds_nothing() -> None:
    delta = diagonal(4.0, 2.0, 0.0, 0.0)
    close(merged(IsoCts(common=0.5), [delta, delta]), diagonal(6.0, 6.0, 0.0, 0.0))
    zero = torch.zeros_like(delta)
    close(merged(IsoCts(common=0.5), [delta, zero]), diagonal(3.0, 3.0, 0.0, 0.0))


def test_what_cancels_leaves_each_its_own() -> None:
    # The sum is zero, so nothing is common; 4 e1 e1 and -4 e1 e1 remain, and they cancel.
    delta = diagonal(4.0, 0.0, 0.0, 0.0)
    assert float(merged(IsoCts(common=0.5), [delta, -delta]).abs().max()) < 1e-12


def test_what_cannot_be_merged_is_refused() -> None:
    delta = diagonal(1.0, 2.0)
    with pytest.raises(CannotMerge, match=r"the weights of 2 contributions sum to -1"):
        merged(IsoCts(), [delta, delta], 1.0, -2.0)
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': nan found, expected finite"):
        merged(IsoCts(), [delta, delta * torch.nan])


@pytest.mark.parametrize("options", [{"common": -0.1}, {"common": 1.1}, {"rank_tolerance": 1.0}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"iso_cts: {next(iter(options))} is"):
        IsoCts(**options)
