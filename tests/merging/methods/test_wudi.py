import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import wudi as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite, OutOfBound
from weft.merging.folding import FoldState
from weft.merging.methods.wudi import Wudi
from weft.merging.precision import Precision


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def merged(method: Wudi, deltas: list[Tensor], *weights: float) -> Tensor:
    shape = tuple(deltas[0].shape)
    block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts_of(deltas, weights or None, method))


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Both move input 1 only, where C = 2: from 2 + 6 to (2 + 6) / 2.
    deltas = [matrix([2.0, 0.0], [0.0, 0.0]), matrix([6.0, 0.0], [0.0, 0.0])]
    close(merged(Wudi(filter="none"), deltas), matrix([4.0, 0.0], [0.0, 0.0]))
    close(merged(Wudi(filter="truncate"), deltas), matrix([4.0, 0.0], [0.0, 0.0]))
    close(merged(Wudi(), deltas), matrix([4.0, 0.0], [0.0, 0.0]))
    # exp(-2 t) = 1/2: half the way.
    half = Wudi(time=math.log(2) / 2)
    close(merged(half, deltas), matrix([6.0, 0.0], [0.0, 0.0]))
    close(merged(Wudi(time=math.log(2) / 2, scale=0.1), deltas), matrix([0.6, 0.0], [0.0, 0.0]))
    # Weights of 1.5 and 0.5 make 3 and 3 of them.
    close(merged(half, deltas, 3.0, 1.0), matrix([4.5, 0.0], [0.0, 0.0]))


def test_by_hand_on_the_smaller_side() -> None:
    # One output that both move, over all inputs: C = 2, R = S, from S half the way to S / 2.
    deltas = [matrix([2.0, 0.0, 0.0], [0.0] * 3), matrix([0.0, 6.0, 0.0], [0.0] * 3)]
    half = math.log(2) / 2
    close(merged(Wudi(side="smaller", time=half), deltas), matrix([1.5, 4.5, 0.0], [0.0] * 3))
    close(merged(Wudi(time=half), deltas), deltas[0] + deltas[1])
    high = [matrix([2.0, 0.0], [0.0] * 2, [0.0] * 2), matrix([0.0, 6.0], [0.0] * 2, [0.0] * 2)]
    close(merged(Wudi(side="smaller", time=half), high), high[0] + high[1])


def test_ridge_by_hand() -> None:
    # R = 2 + 6 where C = 2, and 1 / time = 2: 8 / 4. One alone: 2 / (1 + 2).
    deltas = [matrix([2.0, 0.0], [0.0, 0.0]), matrix([6.0, 0.0], [0.0, 0.0])]
    ridge = Wudi(filter="ridge", time=0.5)
    close(merged(ridge, deltas), matrix([2.0, 0.0], [0.0, 0.0]))
    close(merged(ridge, deltas, 3.0, 1.0), matrix([1.5, 0.0], [0.0, 0.0]))
    close(merged(ridge, deltas[:1]), matrix([2 / 3, 0.0], [0.0, 0.0]))
    close(merged(Wudi(filter="ridge", time=0.5, scale=0.1), deltas), deltas[0] * 0.1)
    assert not ridge.gives_back_one


@pytest.mark.parametrize("kind", ["exponential", "truncate", "none", "ridge"])
def test_a_wide_weight_is_merged_like_its_transpose(kind: str) -> None:
    deltas = [model["wide.weight"] for model in some_models(9, 3)[1]]
    turned = merged(Wudi(filter=kind), [delta.T.contiguous() for delta in deltas])
    close(merged(Wudi(filter=kind, side="smaller"), deltas), turned.T)


@pytest.mark.parametrize("shape", [(7, 4), (6, 6)])
def test_the_input_is_the_smaller_side_where_it_is_not_larger(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(10)
    deltas = [torch.randn(shape, generator=generator).double() for _ in range(3)]
    assert torch.equal(merged(Wudi(side="smaller"), deltas), merged(Wudi(), deltas))


@pytest.mark.parametrize("kind", ["exponential", "truncate", "none"])
def test_who_moved_other_inputs_does_not_interfere(kind: str) -> None:
    deltas = [matrix([2.0, 0.0], [1.0, 0.0]), matrix([0.0, 5.0], [0.0, 6.0])]
    close(merged(Wudi(filter=kind), deltas), deltas[0] + deltas[1])


def test_truncation_by_hand() -> None:
    # (10 + 1 + 0.1)^2 / (100 + 1 + 0.01) = 1.22, so two directions of three go all the way.
    delta = diagonal(10.0, 1.0, 0.1)
    close(merged(Wudi(filter="truncate"), [delta, delta]), diagonal(10.0, 1.0, 0.2))
    close(merged(Wudi(filter="none"), [delta, delta]), diagonal(10.0, 1.0, 0.1))
    close(merged(Wudi(filter="none", keep=0.34), [delta, delta]), diagonal(10.0, 1.0, 0.2))
    close(merged(Wudi(filter="none", keep=1 / 3), [delta, delta]), diagonal(10.0, 2.0, 0.2))
    close(merged(Wudi(filter="truncate", keep=0.1), [delta, delta]), diagonal(10.0, 2.0, 0.2))


def test_equal_eigenvalues_are_all_of_the_rank() -> None:
    # (3 * 1)^2 / 3 is 3, and no rounding error makes it 4 or 2.
    one = torch.eye(3, 5, dtype=torch.float64)
    close(merged(Wudi(filter="truncate"), [one, one]), one)


@pytest.mark.parametrize("kind", ["exponential", "truncate", "none", "ridge"])
@pytest.mark.parametrize("time", [2.0, 300.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.4, 1.7, 0.9], [2.0, -0.5, 1.0]])
@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("side", ["input", "smaller"])
def test_as_the_reference(
    kind: str, time: float, weights: list[float], rank: int | None, side: str
) -> None:
    base, models = some_models(1, 3, rank)
    expected = reference.merge(
        base,
        models,
        weights=weights,
        filter=kind,
        time=time,
        keep=1.0,
        scale=0.7,
        side=side,
        averaged=AVERAGED,
    )
    method = Wudi(filter=kind, time=time, scale=0.7, side=side)
    assert_same(merge_models(method, base, models, weights), expected)


@pytest.mark.parametrize("kind", ["exponential", "none"])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.85])
def test_a_part_of_the_directions_as_the_reference(kind: str, keep: float) -> None:
    base, models = some_models(2, 3)
    options: dict[str, Any] = {"filter": kind, "time": 7.0, "keep": keep, "scale": 1.0}
    expected = reference.merge(base, models, weights=[1.0] * 3, averaged=AVERAGED, **options)
    assert_same(merge_models(Wudi(**options), base, models, [1.0] * 3), expected)


def test_the_longer_the_flow_the_less_interference() -> None:
    deltas = [model["tall.weight"] for model in some_models(3, 4)[1]]
    times = [Wudi(time=time) for time in (0.1, 1.0, 10.0, 1000.0)]
    found = [merged(method, deltas) for method in [*times, Wudi(filter="none")]]
    left = [float(reference.objective(result, deltas)) for result in found]
    assert left == sorted(left, reverse=True)
    assert left[0] > 1.5 * left[-1]


def test_a_contribution_that_did_not_move_changes_nothing() -> None:
    deltas = [model["wide.weight"] for model in some_models(4, 2)[1]]
    zero = torch.zeros_like(deltas[0])
    close(merged(Wudi(), [*deltas, zero]), merged(Wudi(), deltas))


def test_one_is_given_back_only_unscaled() -> None:
    delta = some_models(5, 1)[1][0]["wide.weight"]
    for kind in ("exponential", "truncate", "none"):
        assert torch.equal(merged(Wudi(filter=kind), [delta], 0.5), delta)
    assert not Wudi(scale=0.2).gives_back_one


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 50.0])
@pytest.mark.parametrize("kind", ["exponential", "truncate", "none", "ridge"])
def test_precision_whatever_the_size(size: float, kind: str) -> None:
    generator = torch.Generator().manual_seed(6)
    base = {"w": torch.zeros(40, 30, dtype=torch.float64)}
    models = [{"w": torch.randn(40, 30, generator=generator).double() * size} for _ in range(4)]
    expected = reference.merge(
        base, models, weights=[1.0] * 4, filter=kind, time=300.0, keep=1.0, scale=1.0
    )["w"]
    found = merged(Wudi(filter=kind), [model["w"] for model in models])
    assert float((found - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("kind", ["exponential", "truncate", "none", "ridge"])
@pytest.mark.parametrize("side", ["input", "smaller"])
def test_float32_sums_of_low_rank_stay_near(kind: str, side: str) -> None:
    # Where no contribution has inputs, rounding errors must not be taken for some.
    deltas = [
        model["wide.weight"] - base["wide.weight"]
        for base, models in [some_models(7, 3, 1)]
        for model in models
    ]
    block = Block(name="fc.weight", tensor_shape=(5, 9), shape=(5, 9), precision=Precision.FLOAT32)
    method = Wudi(filter=kind, side=side)
    fast = merge_block(method, block, [delta.float() for delta in deltas], facts_of(deltas))
    torch.testing.assert_close(fast.double(), merged(method, deltas), rtol=0, atol=5e-4)


def test_the_state_is_what_the_docstring_says() -> None:
    assert Wudi().state_bytes("fc.weight", (20, 30)) == 16 * (2 * 20 + 30) * 30
    assert Wudi(side="smaller").state_bytes("fc.weight", (20, 30)) == 16 * (2 * 20 * 30 + 20**2)
    assert Wudi(side="smaller").state_bytes("fc.weight", (30, 20)) == 16 * (2 * 30 + 20) * 20
    ridge = Wudi(filter="ridge", side="smaller")
    assert ridge.state_bytes("fc.weight", (20, 30)) == 16 * (20 * 30 + 20**2)
    assert Wudi().state_bytes("bias", (20,)) == 8 * 20


def test_giving_back_one_of_many_leaves_the_merge_of_the_others() -> None:
    deltas = [model["tall.weight"] for model in some_models(8, 3)[1]]
    facts = facts_of(deltas)
    state = FoldState.zero(Wudi(), "fc.weight", (7, 4))
    for delta, fact in zip(deltas, facts, strict=True):
        state.add(delta, fact)
    state.remove(deltas[1], facts[1])
    assert torch.equal(state.finish(), merged(Wudi(), [deltas[0], deltas[2]]))


def test_what_cannot_be_merged_is_refused() -> None:
    delta = diagonal(1.0, 2.0)
    with pytest.raises(CannotMerge, match=r"the weights of 2 contributions sum to -1"):
        merged(Wudi(), [delta, delta], 1.0, -2.0)
    with pytest.raises(OutOfBound, match=r"node-0, tensor 'fc.weight': 10000 is beyond the bound"):
        merged(Wudi(), [delta * 1e4])
    assert bool(merged(Wudi(bound=2.0**20), [delta * 1e4]).any())
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': nan found"):
        merged(Wudi(), [delta, delta * torch.nan])


@pytest.mark.parametrize(
    "options",
    [
        {"filter": "hard"},
        {"side": "output"},
        {"time": 0.0},
        {"keep": 0.0},
        {"keep": 1.1},
        {"bound": 5.0},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"wudi: {next(iter(options))} is"):
        Wudi(**options)
