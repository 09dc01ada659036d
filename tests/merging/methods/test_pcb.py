import math

import pytest
import torch
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import pcb as reference
from weft.merging.errors import BadOption
from weft.merging.method import Facts, Need, Scope
from weft.merging.methods.pcb import Pcb


def merged(method: Pcb, *rows: list[float], weights: list[float] | None = None) -> list[float]:
    weights = weights or [1.0] * len(rows)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    blocks = [torch.tensor(row, dtype=torch.float64) for row in rows]
    result: list[float] = method.merge("w", blocks, facts, None).tolist()
    return result


def test_one_by_hand() -> None:
    # q = (0, 1/2, 1, 1/2); scores exp(q^2) tanh(D^2). r = 1/2 of four: the third smallest
    # is raised to, the largest alone is above it.
    assert merged(Pcb(ratio=0.5), [1.0, 2.0, 3.0, -2.0]) == pytest.approx([0.0, 0.0, 3.6, 0.0])
    # r = 1: the smallest is out, the others are as large as they are.
    found = merged(Pcb(ratio=1.0, scale=1.0), [1.0, 2.0, 3.0, -2.0])
    assert found == pytest.approx([0.0, 2.0, 3.0, -2.0])


def test_two_by_hand() -> None:
    one, two = [1.0, 0.0], [0.5, 2.0]
    # Sums (1.5, 2). Of one: q = (1, 0), scores e^2 tanh(1.5) and 0: u = (1, 0).
    # Of two: q = (0, 1), scores tanh(0.75) and e^2 tanh(4): u = (0, 1).
    assert merged(Pcb(ratio=1.0, scale=1.0), one, two) == pytest.approx([1.0, 2.0])
    three = [0.5, 1.0, 2.0]
    # Against two zeros, with n = 2: q = (0, 1/3, 1) and u by hand; the other's are zero.
    scores = [
        math.exp(2 * q * q) * math.tanh(d * d) for q, d in zip([0, 1 / 3, 1], three, strict=True)
    ]
    assert scores[0] < scores[1] < scores[2]
    assert merged(Pcb(ratio=1.0, scale=1.0), three, [0.0] * 3) == pytest.approx([0.0, 1.0, 2.0])


def test_scores_weigh_the_models() -> None:
    one, two = [4.0, 0.1, 0.2, 2.0], [0.0, 0.1, 2.0, 4.0]
    found = merged(Pcb(ratio=1.0, scale=1.0), one, two)
    # At the last place one has u = exp(2 (q^2 - 1)) tanh(12) / ..., q = 1.9 / 3.9; two has 1.
    total = [a + b for a, b in zip(one, two, strict=True)]
    raw = [
        math.exp(2 * ((d - 0.1) / 3.9) ** 2) * math.tanh(d * s)
        for d, s in zip(one, total, strict=True)
    ]
    u = (raw[3] - min(raw)) / (max(raw) - min(raw))
    assert found[3] == pytest.approx((2.0 * u + 4.0) / (u + 1))


def test_a_weight_is_the_models_own_factor() -> None:
    found = merged(Pcb(ratio=1.0, scale=1.0), [1.0, 0.0], [0.5, 2.0], weights=[3.0, 0.5])
    assert found == pytest.approx([3.0, 1.0])


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("ratio", [0.1, 0.35, 1.0])
def test_as_the_reference(count: int, ratio: float) -> None:
    base, models = random_models(count, count)
    # One element has no range.
    for model in (base, *models):
        del model["scale"]
    weights = [1.0 + 0.2 * index for index in range(count)]
    found = merged_model(Pcb(ratio=ratio, scale=0.9), base, models, weights)
    expected = reference.merge(base, models, weights=weights, ratio=ratio, scale=0.9)
    assert_same_models(found, expected)


@pytest.mark.parametrize("elements", [9_999, 10_000, 10_001, 20_000])
def test_large_tensors_are_clamped_as_the_reference_does(elements: int) -> None:
    generator = torch.Generator().manual_seed(elements)

    def drawn() -> dict[str, Tensor]:
        values = torch.randn(elements, generator=generator, dtype=torch.float64)
        values[:3] *= 1000
        return {"w": values}

    base, models = drawn(), [drawn() for _ in range(3)]
    found = merged_model(Pcb(), base, models)
    expected = reference.merge(base, models, weights=[1.0] * 3, ratio=0.1, scale=1.2)
    assert_same_models(found, expected)


def test_a_zero_that_is_clamped_stays_zero() -> None:
    # Magnitudes are raised to their quantile; zero has no sign, and so adds nothing.
    one, two = torch.arange(20_000.0) / 1000, torch.arange(20_000.0) / 2000
    facts = [Facts(contribution="a"), Facts(contribution="b")]
    two[0] = 1.0
    found = Pcb(ratio=1.0, scale=1.0).merge("w", [one.double(), two.double()], facts, None)
    base = {"w": torch.zeros(20_000).double()}
    models = [{"w": one.double()}, {"w": two.double()}]
    expected = reference.merge(base, models, weights=[1.0, 1.0], ratio=1.0, scale=1.0)
    torch.testing.assert_close(found, expected["w"], rtol=1e-9, atol=1e-12)
    assert Pcb(ratio=1.0).merge("w", [one, -one], facts, None)[0] == 0


def test_where_all_are_the_same_all_compete_if_they_agree() -> None:
    assert merged(Pcb(scale=1.0), [2.0], [4.0]) == [3.0]
    # One against the sum is out.
    assert merged(Pcb(scale=1.0), [-1.0], [4.0]) == [4.0]
    assert merged(Pcb(scale=1.0), [1.0, 1.0], [1.0, 1.0]) == [1.0, 1.0]
    assert merged(Pcb(), [0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]
    assert merged(Pcb(), []) == []


def test_the_largest_stays_in_whatever_the_ratio() -> None:
    assert merged(Pcb(ratio=0.001, scale=1.0), [1.0, -5.0, 2.0]) == [0.0, -5.0, 0.0]


def test_many_models_do_not_overflow() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = list(torch.randn((200, 50), generator=generator))
    facts = [Facts(contribution=f"n{i:03}") for i in range(200)]
    found = Pcb().merge("w", blocks, facts, None)
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_what_it_says_of_itself() -> None:
    assert Need.BASE in Pcb.needs
    assert Pcb().scope("b", (5,)) is Scope.MATRIX
    for options in ({"ratio": 0.0}, {"ratio": 1.1}):
        with pytest.raises(BadOption, match="ratio is"):
            Pcb(**options)
