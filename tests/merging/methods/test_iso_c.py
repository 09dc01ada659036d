from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import iso_c as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite, OutOfBound
from weft.merging.method import Scope
from weft.merging.methods.iso_c import IsoC


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def merged(method: IsoC, deltas: list[Tensor], *weights: float, name: str = "fc.weight") -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name=name, tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, matrix(*rows), rtol=0, atol=1e-12)


def test_by_hand() -> None:
    deltas = [matrix([3.0, 0.0], [0.0, 0.0]), matrix([0.0, 0.0], [0.0, 1.0])]
    close(merged(IsoC(), deltas), [2.0, 0.0], [0.0, 2.0])
    close(merged(IsoC(scale=1.5), deltas), [3.0, 0.0], [0.0, 3.0])
    turned = [matrix([0.0, 1.0], [1.0, 0.0]), matrix([0.0, -3.0], [3.0, 0.0])]
    # The sum is [0 -2; 4 0], with singular values 4 and 2.
    close(merged(IsoC(), turned), [0.0, -3.0], [3.0, 0.0])


def test_a_direction_that_is_not_there_is_not_lifted() -> None:
    delta = matrix([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0])
    close(merged(IsoC(), [delta, delta]), [2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0])


def test_small_directions_are_left_out_where_asked_for() -> None:
    delta = matrix([8.0, 0.0], [0.0, 0.01])
    close(merged(IsoC(), [delta]), [4.005, 0.0], [0.0, 4.005])
    close(merged(IsoC(rank_tolerance=0.01), [delta]), [8.0, 0.0], [0.0, 0.0])


def test_only_proportions_of_weights_matter() -> None:
    deltas = [matrix([3.0, 0.0], [0.0, 0.0]), matrix([0.0, 0.0], [0.0, 1.0])]
    # Weights 1.5 and 0.5: the sum is diag(4.5, 0.5).
    close(merged(IsoC(), deltas, 3.0, 1.0), [2.5, 0.0], [0.0, 2.5])
    close(merged(IsoC(), deltas, 0.75, 0.25), [2.5, 0.0], [0.0, 2.5])
    # 3 and -1: diag(9, -1).
    close(merged(IsoC(), deltas, 1.5, -0.5), [5.0, 0.0], [0.0, -5.0])


def test_others_are_averaged() -> None:
    deltas = [torch.tensor([1.0, 2.0]).double(), torch.tensor([5.0, 2.0]).double()]
    assert merged(IsoC(scale=9.0), deltas, 3.0, 1.0).tolist() == [2.0, 2.0]
    tables = [matrix([1.0, 2.0], [0.0, 4.0])] * 2
    close(merged(IsoC(), tables, name="wte.weight"), [1.0, 2.0], [0.0, 4.0])
    method = IsoC(tables="^fc")
    assert method.scope("fc.weight", (2, 2)) is Scope.ELEMENT
    assert method.scope("wte.weight", (2, 2)) is Scope.MATRIX
    close(merged(method, tables), [1.0, 2.0], [0.0, 4.0])


def test_what_cancels_is_zero() -> None:
    delta = matrix([3.0, 1.0], [0.0, 2.0])
    assert not merged(IsoC(), [delta, -delta]).any()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, 0.9], [2.0, -0.5, 1.0]])
@pytest.mark.parametrize("rank", [None, 1])
def test_as_the_reference(weights: list[float], rank: int | None) -> None:
    base, models = some_models(1, 3, rank)
    expected = reference.merge(base, models, weights=weights, scale=0.7, averaged=AVERAGED)
    assert_same(merge_models(IsoC(scale=0.7), base, models, weights), expected)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 50.0])
@pytest.mark.parametrize("shape", [(48, 48), (64, 24), (24, 64)], ids=str)
def test_precision_whatever_the_size(size: float, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    deltas = [torch.randn(shape, generator=generator).double() * size for _ in range(4)]
    left, values, right = torch.linalg.svd(torch.stack(deltas).sum(0), full_matrices=False)
    expected = left @ right * values.mean()
    error = (merged(IsoC(), deltas) - expected).norm() / expected.norm()
    assert float(error) < 1e-9


def test_what_cannot_be_merged_is_refused() -> None:
    delta = matrix([3.0, 1.0], [0.0, 2.0])
    with pytest.raises(CannotMerge, match=r"'fc.weight': the weights of 2 .* sum to -1"):
        merged(IsoC(), [delta, delta], 1.0, -2.0)
    with pytest.raises(OutOfBound, match=r"node-0, tensor 'fc.weight': 30000 .* larger `bound`"):
        merged(IsoC(), [delta * 1e4])
    with pytest.raises(NonFinite, match=r"node-0, tensor 'fc.weight': inf found"):
        merged(IsoC(), [delta * torch.inf])


@pytest.mark.parametrize(
    "options", [{"scale": "big"}, {"rank_tolerance": -1e-3}, {"rank_tolerance": 1}, {"bound": 3.0}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"iso_c: {next(iter(options))} is"):
        IsoC(**options)
