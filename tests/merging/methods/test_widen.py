import math

import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.merging.whole import facts_of
from tests.references import widen as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts, Need, Scope
from weft.merging.methods.widen import Widen


def widened(
    method: Widen,
    base: Tensor,
    *deltas: Tensor,
    name: str = "w",
    weights: list[float] | None = None,
) -> Tensor:
    shape = tuple(base.shape)
    block = Block(name=name, tensor_shape=shape, shape=shape, base=base)
    return merge_block(method, block, deltas, facts_of(deltas, weights))


def doubles(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_a_matrix_by_hand() -> None:
    base = doubles([1.0, 1.0], [0.0, 0.0])
    # The first lengthens its second column only, the second turns its first one only.
    first, second = doubles([0.0, 1.0], [0.0, 0.0]), doubles([0.0, 0.0], [0.5, 0.0])
    # Ranks of length: first (0, 1/2); second: |(1, .5)| = 1.118 moved, so (1/2, 0).
    # Ranks of direction: first has not turned: equal, from the left, (0, 1/2); second
    # (1/2, 0). Those above the mean, 1/4, score 1; the others softmax(0, 1/2).
    small = 1 / (1 + math.exp(0.5))
    found = widened(Widen(), base, first, second)
    assert found.tolist() == [[0.0, 1.0], [0.5, 0.0]]
    # Nothing is above four times the mean: 1 / (1 + e^-1/2) for the one that moved.
    found = widened(Widen(above_average=4.0), base, first, second)
    assert found.flatten().tolist() == pytest.approx([0.0, 1 - small, 0.5 * (1 - small), 0.0])
    found = widened(Widen(calibration=3.0), base, first, second)
    assert found.tolist() == [[0.0, 3.0], [1.5, 0.0]]


def test_length_and_direction_are_scored_for_themselves() -> None:
    base = doubles([1.0, 1.0], [0.0, 0.0])
    # Column one turns and keeps its length; column two lengthens and does not turn.
    delta = doubles([-1.0, 1.0], [1.0, 0.0])
    # Alone, a softmax is 1: with s = 0 what is left is what is not above the mean.
    found = widened(Widen(calibration=0.0), base, delta)
    assert found.tolist() == [[-0.5, 0.5], [0.5, 0.0]]


def test_a_vector_by_hand() -> None:
    first, second = torch.tensor([0.0, 3.0]).double(), torch.tensor([-1.0, -1.0]).double()
    # Means 1.5 and 1: only the 3 is above (1 is not above 1).
    found = widened(Widen(calibration=0.5), torch.zeros(2).double(), first, second)
    e, e3 = math.e, math.exp(3)
    expected = [-1.0 * e / (1 + e), 3.0 * 0.5 - e / (e3 + e)]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 2.0), (1.7, 0.25), (0.0, 1.0)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_as_the_reference(t: float, s: float, count: int) -> None:
    base, models = random_models(count, count)
    found = merged_model(Widen(above_average=t, calibration=s), base, models)
    expected = reference.merge(base, models, t=t, s=s, transposed={"embed.weight"})
    assert_same_models(found, expected)


def test_only_tables_of_embeddings_are_transposed() -> None:
    base, delta = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    method = Widen(calibration=0.0)
    plain = widened(method, base, delta, name="lm_head.weight")
    table = widened(method, base, delta, name="model.embed_tokens.weight")
    assert not torch.equal(plain, table)
    turned = widened(method, base.T.contiguous(), delta.T.contiguous(), name="fc.weight")
    assert torch.equal(table, turned.T)
    within = widened(method, base, delta, name="time_embedding.linear_1.weight")
    assert torch.equal(within, plain)
    chosen = Widen(calibration=0.0, embeddings=r"^lm_head\.")
    assert torch.equal(widened(chosen, base, delta, name="lm_head.weight"), table)


def test_more_dimensions_are_columns_of_the_first() -> None:
    base, deltas = torch.randn(4, 3, 2).double(), list(torch.randn(2, 4, 3, 2).double())
    found = widened(Widen(), base, *deltas)
    flat = widened(Widen(), base.reshape(4, 6), *[delta.reshape(4, 6) for delta in deltas])
    assert torch.equal(found, flat.reshape(4, 3, 2))
    assert Widen().scope("conv", (4, 3, 2)) is Scope.MATRIX
    assert Widen().scope("b", (4,)) is Widen().scope("s", ()) is Scope.ELEMENT


def test_tiny_changes_are_ranked_where_a_cosine_would_round_them_away() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn((30, 8), generator=generator, dtype=torch.float64)
    turn = torch.randn((30, 8), generator=generator, dtype=torch.float64)
    turn -= base * (base * turn).sum(0) / base.square().sum(0)
    turn *= base.norm(dim=0) / turn.norm(dim=0)
    # Angles of 1e-9 to 8e-9, whose cosines are all 1 in float64, from right to left.
    delta = turn * torch.arange(8, 0, -1) * 1e-9
    found = widened(Widen(calibration=0.0, above_average=1.0), base, delta)
    kept = (found.norm(dim=0) / delta.norm(dim=0)).tolist()
    # A column above the mean of its directions has lost that half of its score.
    assert max(kept[:4]) <= 0.5 + 1e-9
    assert min(kept[4:]) >= 0.5 - 1e-9


def test_columns_of_zeros() -> None:
    base, delta = (
        doubles([0.0, 1.0, 2.0], [0.0, 1.0, 0.0]),
        doubles([1.0, -1.0, 0.0], [0.0, -1.0, 0.0]),
    )
    found = widened(Widen(), base, delta)
    assert torch.equal(found, delta)
    assert torch.equal(widened(Widen(), base, torch.zeros_like(base)), torch.zeros_like(base))
    for shape in ((0, 3), (3, 0), (0,)):
        empty = torch.zeros(shape, dtype=torch.float64)
        assert widened(Widen(), empty, empty).shape == shape


def test_weights_only_say_who_is_there() -> None:
    base = torch.randn(4, 5).double()
    deltas = list(torch.randn(3, 4, 5).double())
    found = widened(Widen(), base, *deltas, weights=[0.1, 0.0, 7.0])
    assert torch.equal(found, widened(Widen(), base, deltas[0], deltas[2]))


def test_a_vector_without_its_sums_is_refused() -> None:
    assert {Need.BASE, Need.SUMS} == Widen.needs
    with pytest.raises(CannotMerge, match="a, tensor 'w': no sums"):
        Widen().merge("w", [torch.ones(2)], [Facts(contribution="a")], None)


def test_options() -> None:
    assert not Widen(calibration=0.9).gives_back_one
    with pytest.raises(BadOption, match="above_average is -1"):
        Widen(above_average=-1.0)
    with pytest.raises(BadOption, match=r"embeddings is '\(', expected a regular expression"):
        Widen(embeddings="(")
