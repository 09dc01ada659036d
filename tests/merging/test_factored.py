from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.merging.whole import facts_of
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.factored import FactoredJoint, mean_of_factors, sum_of_factors
from weft.merging.factors import LowRank
from weft.merging.method import Facts, Method, Scope
from weft.merging.methods.knots import Knots
from weft.merging.methods.lora_lego import LoraLego
from weft.merging.methods.lora_svd import LoraSvd
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic

METHODS = [Knots(), LoraSvd(), LoraSvd(combine="sum"), LoraSvd(rank=1), LoraLego(rank=2)]
WEIGHTS = [0.5, 2.0, 1.25]


def adapters(seed: int, ranks: Sequence[int] = (2, 1, 3)) -> list[LowRank]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [LowRank(noise(8, rank), noise(rank, 6)) for rank in ranks]


def facts(*weights: float) -> list[Facts]:
    return [Facts(contribution=f"node-{i}", weight=weight) for i, weight in enumerate(weights)]


def merged(method: Method, deltas: Sequence[Tensor], name: str = "fc.weight") -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name=name, tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, WEIGHTS, method))


def test_the_mean_of_factors_is_the_mean() -> None:
    parts = adapters(1)
    together = mean_of_factors("fc.weight", parts, facts(*WEIGHTS))
    dense = merged(Mean(), [part.dense() for part in parts])
    assert together.rank == 6
    torch.testing.assert_close(together.dense(), dense, rtol=0, atol=1e-11)


def test_the_sum_of_factors_is_task_arithmetic() -> None:
    parts = adapters(2)
    together = sum_of_factors("fc.weight", parts, facts(*WEIGHTS), scale=0.4)
    dense = merged(TaskArithmetic(scale=0.4), [part.dense() for part in parts])
    torch.testing.assert_close(together.dense(), dense, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", METHODS[:4], ids=repr)
def test_factors_and_dense_task_vectors_merge_alike(method: FactoredJoint) -> None:
    # Not so LoRA-LEGO, which clusters the units of the factors that it is given.
    parts = adapters(3)
    factored = method.merge_factors("fc.weight", parts, facts(*WEIGHTS))
    dense = merged(method, [part.dense() for part in parts])
    torch.testing.assert_close(factored.dense(), dense, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_factors_are_kept(method: FactoredJoint) -> None:
    parts = adapters(4)
    before = [(part.B.clone(), part.A.clone()) for part in parts]
    result = method.merge_factors("fc.weight", parts, facts(*WEIGHTS))
    assert result.shape == (8, 6)
    result.B.zero_()
    result.A.zero_()
    for part, (left, right) in zip(parts, before, strict=True):
        assert torch.equal(part.B, left)
        assert torch.equal(part.A, right)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_is_no_linear_weight_is_averaged(method: FactoredJoint) -> None:
    vectors = [torch.tensor([1.0, -2.0]).double() * i for i in (1, 2, 3)]
    tables = [torch.ones(4, 2).double() * i for i in (1, 2, 3)]
    for deltas, name in ((vectors, "fc.bias"), (tables, "embed.weight")):
        assert method.scope(name, tuple(deltas[0].shape)) is Scope.ELEMENT
        torch.testing.assert_close(
            merged(method, deltas, name), merged(Mean(), deltas, name), rtol=0, atol=1e-11
        )
    assert method.scope("fc.weight", (4, 2)) is Scope.MATRIX


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_does_not_fit_is_refused(method: FactoredJoint) -> None:
    parts = adapters(5)
    odd = LowRank(torch.zeros(8, 1).double(), torch.zeros(1, 7).double())
    with pytest.raises(CannotMerge, match=r"shape \(8, 7\) do not fit those of \(8, 6\)"):
        method.merge_factors("fc.weight", [parts[0], odd], facts(1, 1))
    with pytest.raises(CannotMerge, match="no factors"):
        method.merge_factors("fc.weight", [], [])


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["fc.weight", "embed.weight"])
def test_what_is_not_finite_is_refused(method: FactoredJoint, value: float, name: str) -> None:
    parts = adapters(6)
    dense = [part.dense() for part in parts]
    dense[1][2, 3] = value
    with pytest.raises(NonFinite, match=rf"node-1, tensor '{name}': \w+ found, expected finite"):
        merged(method, dense, name)
    parts[2].A[0, 0] = value
    with pytest.raises(NonFinite, match=r"node-2, tensor 'fc.weight': \w+ found, expected finite"):
        method.merge_factors("fc.weight", parts, facts(*WEIGHTS))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_empty_and_zero_adapters_do_nothing(method: FactoredJoint) -> None:
    empty = LowRank(torch.zeros(8, 0).double(), torch.zeros(0, 6).double())
    fresh = LowRank(torch.zeros(8, 2).double(), torch.ones(2, 6).double())
    result = method.merge_factors("fc.weight", [empty, fresh], facts(1, 1))
    assert result.shape == (8, 6)
    assert not result.dense().any()


def test_all_weights_that_cancel_make_no_mean() -> None:
    parts = adapters(7, ranks=(1, 1))
    with pytest.raises(CannotMerge, match="sum to 0"):
        mean_of_factors("fc.weight", parts, facts(1, -1))
