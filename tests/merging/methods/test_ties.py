from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import cuts_of, facts_of
from tests.references.ties import ties
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import BadOption, CannotMerge, NonFinite, OutOfBound
from weft.merging.method import Extent, Facts
from weft.merging.methods.ties import Ties
from weft.merging.precision import Precision

DELTAS = [
    torch.tensor([1.0, -4.0, 2.0, 0.5, -3.0], dtype=torch.float64),
    torch.tensor([-3.0, 3.0, 4.0, 0.25, 3.0], dtype=torch.float64),
    torch.tensor([2.5, -1.0, 0.5, -0.5, 1.0], dtype=torch.float64),
]


def merged(
    method: Ties, weights: list[float] | None = None, deltas: list[Tensor] = DELTAS
) -> list[float]:
    return merged_with(method, facts_of(deltas, weights, method), deltas)


def merged_with(method: Ties, facts: list[Facts], deltas: list[Tensor]) -> list[float]:
    shape = tuple(deltas[0].shape)
    block = Block(name="w", tensor_shape=shape, shape=shape)
    result: list[float] = merge_block(method, block, deltas, facts).tolist()
    return result


def test_by_hand() -> None:
    # floor(0.4 * 5) = 2, so the third smallest magnitude is the threshold: 2, 3, 1; the
    # ties with it stay. Trimmed:
    #    0  -4   2   0  -3
    #   -3   3   4   0   3
    #   2.5  -1  0   0   1
    # Sums: -0.5, -2, 6, 0, 1.
    assert merged(Ties(density=0.4)) == [-3.0, -2.5, 3.0, 0.0, 2.0]


def test_the_sum_of_those_that_agree() -> None:
    assert merged(Ties(density=0.4, disjoint="sum")) == [-3.0, -5.0, 6.0, 0.0, 4.0]


def test_the_scale_is_a_factor() -> None:
    assert merged(Ties(density=0.4, scale=-0.5)) == [1.5, 1.25, -1.5, 0.0, -1.0]


def test_weights_count_in_the_election_and_in_the_mean() -> None:
    # Sums: 0 - 3 + 2 * 2.5 = 2, -4 + 3 - 2 = -3, 6, 0, 2.
    result = merged(Ties(density=0.4), [1.0, 1.0, 2.0])
    assert result == [2.5, (-4 - 2) / 3, 3.0, 0.0, (3 + 2) / 3]


def test_a_negative_weight_turns_round() -> None:
    turned = [DELTAS[0], -DELTAS[1], DELTAS[2]]
    assert merged(Ties(density=0.4), [1.0, -2.0, 1.0]) == merged(
        Ties(density=0.4), [1.0, 2.0, 1.0], turned
    )


def test_a_sum_of_exactly_zero_leaves_the_base() -> None:
    deltas = [torch.tensor([5.0, 1.0]).double(), torch.tensor([-5.0, 1.0]).double()]
    assert merged(Ties(density=1.0), None, deltas) == [0.0, 1.0]


def test_turning_everything_round_turns_the_result_round() -> None:
    turned = merged(Ties(density=0.4), None, [-delta for delta in DELTAS])
    assert turned == [-value for value in merged(Ties(density=0.4))]


def test_one_is_trimmed_only() -> None:
    assert merged(Ties(density=0.2), None, [DELTAS[0]]) == [0.0, -4.0, 0.0, 0.0, -3.0]
    assert not Ties().gives_back_one


def test_one_untrimmed_is_given_back() -> None:
    method = Ties(density=1)
    assert method.gives_back_one
    assert not Ties(density=1, scale=0.5).gives_back_one
    assert not Ties(density=1, disjoint="sum").gives_back_one
    facts = in_proportion(method, facts_of([DELTAS[0]], [1e-6], method))
    found = torch.tensor(merged_with(method, facts, [DELTAS[0]])).double()
    torch.testing.assert_close(found, DELTAS[0], rtol=1e-12, atol=0)


def test_equal_task_vectors_are_their_trimmed_self() -> None:
    assert merged(Ties(density=0.2), None, [DELTAS[0]] * 3) == [0.0, -4.0, 0.0, 0.0, -3.0]


@pytest.mark.parametrize(
    ("density", "elements", "rank"),
    [(0.2, 10, 8), (0.2, 9, 8), (0.2, 4, 4), (0.5, 1, 1), (0.25, 8, 6)],
)
def test_the_rank_of_the_threshold(density: float, elements: int, rank: int) -> None:
    (cut,) = Ties(density=density).cuts
    assert cut.rank(elements) == rank


def test_no_threshold_is_looked_for_where_all_is_kept() -> None:
    assert Ties(density=1.0).cuts == ()


def test_the_extent_of_the_threshold() -> None:
    assert Ties().cuts[0].extent is Extent.MODEL
    assert Ties(extent="tensor").cuts[0].extent is Extent.TENSOR


@pytest.mark.parametrize("disjoint", ["mean", "sum"])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("weights", [None, [0.5, 1.5, 1.0, 0.25]])
def test_as_the_reference_tensor_by_tensor(
    disjoint: str, density: float, weights: list[float] | None
) -> None:
    base, models = random_models(1, 4)
    method = Ties(density=density, extent="tensor", disjoint=disjoint, scale=0.7)
    expected = ties(
        base,
        models,
        density=density,
        extent="tensor",
        disjoint=disjoint,
        scale=0.7,
        weights=weights,
    )
    assert_same_models(merged_model(method, base, models, weights), expected)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7])
def test_as_the_reference_over_the_model(density: float) -> None:
    base, models = random_models(2, 5)
    models = [{**model, "scale": base["scale"] + 9.0} for model in models]
    method = Ties(density=density)
    wholes = [torch.cat([(m[n] - base[n]).flatten() for n in base]) for m in models]
    cuts = [cuts_of(method, whole) for whole in wholes]
    found = {}
    for name, start in base.items():
        deltas = [model[name] - start for model in models]
        facts = [replace(fact, cuts=cut) for fact, cut in zip(facts_of(deltas), cuts, strict=True)]
        shape = tuple(start.shape)
        block = Block(name=name, tensor_shape=shape, shape=shape)
        found[name] = start + merge_block(method, block, deltas, facts)
    assert_same_models(found, ties(base, models, density=density))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused_and_not_trimmed(value: float) -> None:
    facts = facts_of(DELTAS, None, Ties())
    spoiled = DELTAS[1].clone()
    spoiled[3] = value
    with pytest.raises(NonFinite, match=r"node-1, tensor 'w': .* expected finite numbers"):
        merged_with(Ties(), facts, [DELTAS[0], spoiled, DELTAS[2]])


def test_what_is_too_large_for_the_sums_is_refused() -> None:
    with pytest.raises(OutOfBound, match="node-0"):
        merged(Ties(bound=2.0), None)


def test_a_cut_is_needed() -> None:
    with pytest.raises(CannotMerge, match="n, tensor 'w': its cut by magnitude was not given"):
        merged_with(Ties(), [Facts(contribution="n")], [DELTAS[0]])


def test_one_unit_of_weight_does_not_make_a_mean_explode() -> None:
    method = Ties(density=1.0)
    facts = facts_of(DELTAS[:2], [1.0, 2.0**-60], method)
    lone = [torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.0]).double() * 2.0**30]
    assert abs(merged_with(method, facts, lone)[0]) <= 2.0**30


@pytest.mark.parametrize("precision", [Precision.FLOAT64, Precision.FLOAT32])
def test_fast_sums_trim_alike(precision: Precision) -> None:
    method = Ties(density=0.4)
    deltas = [delta.to(precision.dtype) for delta in DELTAS]
    block = Block(name="w", tensor_shape=(5,), shape=(5,), precision=precision)
    result = merge_block(method, block, deltas, facts_of(deltas, None, method))
    assert result.tolist() == [-3.0, -2.5, 3.0, 0.0, 2.0]


def test_only_a_mean_goes_by_proportions() -> None:
    assert Ties().proportional
    assert not Ties(disjoint="sum").proportional


@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.0},
        {"density": 1.1},
        {"density": torch.nan},
        {"extent": "layer"},
        {"disjoint": "max"},
        {"scale": torch.inf},
        {"bound": 3.0},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        Ties(**options)  # type: ignore[arg-type]
