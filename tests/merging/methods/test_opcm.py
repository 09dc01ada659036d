import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, Model, assert_same, some_models
from tests.merging.whole import facts_of
from tests.references import opcm as reference
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import BadOption, NonFinite
from weft.merging.mean_norm import factor_to, mean_norm
from weft.merging.method import Facts
from weft.merging.methods.opcm import PROJECTIONS, Opcm

ORTHOGONAL = ("block", "rows_and_columns")
SHAPES = [(12, 7), (7, 12), (9, 9), (2, 30), (30, 2)]
ONE = Facts(contribution="one")


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def whole(
    method: Opcm, base: Model, models: Sequence[Model], weights: Sequence[float]
) -> tuple[Model, list[float]]:
    """Model by model, and at every step lambda, the norm of the sum over the mean norm."""
    states = {name: method.init(name, tuple(start.shape), start) for name, start in base.items()}
    norms, lambdas = [], []
    for model, weight in zip(models, weights, strict=True):
        deltas = {name: model[name] - start for name, start in base.items()}
        norms.append(abs(weight) * norm(deltas))
        fact = Facts(contribution="x", weight=weight)
        states = {name: method.absorb(name, states[name], deltas[name], fact) for name in base}
        lambdas.append(norm({name: state["sum"] for name, state in states.items()}))
        lambdas[-1] /= mean_norm(norms)
    factor = 1 / lambdas[-1]
    return {name: base[name] + states[name]["sum"] * factor for name in base}, lambdas


def norm(model: Model) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in model.values()))


def close(found: Tensor, expected: Tensor, bound: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def test_by_hand() -> None:
    # U = V = 1, s = 5, 3, 2: shares .5, .8, 1, so r = 1 with alpha .5 and 2 with .8.
    anchor = matrix([5.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0])
    delta = matrix([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0])
    expected = {
        ("block", 0.5): matrix([0.0, 2.0, 3.0], [4.0, 0.0, 6.0], [7.0, 8.0, 0.0]),
        ("block", 0.8): matrix([0.0, 0.0, 3.0], [0.0, 0.0, 6.0], [7.0, 8.0, 0.0]),
        ("released", 0.5): matrix([0.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]),
        ("released", 0.8): matrix([0.0, 0.0, 3.0], [0.0, 0.0, 6.0], [7.0, 8.0, 9.0]),
        ("rows_and_columns", 0.5): matrix([0.0, 0.0, 0.0], [0.0, 0.0, 6.0], [0.0, 8.0, 0.0]),
        ("rows_and_columns", 0.8): torch.zeros(3, 3).double(),
    }
    for (projection, alpha), left in expected.items():
        method = Opcm(projection=projection, alpha=alpha)
        close(method.project(anchor, delta), left)
        state = method.absorb("fc.weight", {"sum": anchor}, delta, ONE)
        close(state["sum"], anchor + left)
    half = Facts(contribution="half", weight=-0.5)
    state = Opcm().absorb("fc.weight", {"sum": anchor}, delta, half)
    close(state["sum"], anchor - expected["block", 0.5] / 2)


def test_a_rectangle_by_hand() -> None:
    # s = 2, 1: r = 0 at alpha .5; u_3 is beyond the rank, so its row stays.
    anchor = matrix([0.0, 2.0], [1.0, 0.0], [0.0, 0.0])
    delta = matrix([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    close(Opcm().project(anchor, delta), matrix([1.0, 0.0], [0.0, 4.0], [5.0, 6.0]))
    # r = 1 at alpha .7: u_1 = e1, v_1 = e2.
    close(
        Opcm(alpha=0.7, projection="rows_and_columns").project(anchor, delta),
        matrix([0.0, 0.0], [0.0, 0.0], [5.0, 0.0]),
    )


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.4, 1.7, -0.9, 2.0]])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("rank", [None, 2])
def test_the_closed_form_is_the_recursion(
    projection: str, alpha: float, weights: list[float], rank: int | None
) -> None:
    base, models = some_models(1, 4, rank)
    expected, lambdas = reference.merge(
        base, models, weights=weights, alpha=alpha, projection=projection, others=AVERAGED
    )
    found, mine = whole(Opcm(alpha=alpha, projection=projection), base, models, weights)
    assert_same(found, expected)
    assert mine == pytest.approx(lambdas, rel=1e-10)


def test_one_model_is_given_back() -> None:
    base, models = some_models(2, 1)
    found, lambdas = whole(Opcm(), base, models, [1.0])
    assert lambdas == [pytest.approx(1.0, rel=1e-14)]
    assert_same(found, models[0])


def test_the_norm_is_the_mean_of_the_norms_after_every_step() -> None:
    base, models = some_models(3, 5)
    norms = [norm({name: model[name] - base[name] for name in base}) for model in models]
    for count in range(1, 6):
        found, _ = whole(Opcm(), base, models[:count], [1.0] * count)
        merged = norm({name: found[name] - base[name] for name in base})
        assert merged == pytest.approx(mean_norm(norms[:count]), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_what_is_left_is_orthogonal_to_what_is_there(
    projection: str, shape: tuple[int, int]
) -> None:
    anchor, delta = noise(1, *shape), noise(2, *shape) + noise(1, *shape)
    left = Opcm(projection=projection, alpha=0.4).project(anchor, delta)
    cosine = float((left * anchor).sum()) / float(left.norm() * anchor.norm())
    assert (abs(cosine) < 1e-13) == (projection in ORTHOGONAL)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_it_is_a_projection(projection: str, alpha: float, shape: tuple[int, int]) -> None:
    method = Opcm(projection=projection, alpha=alpha)
    anchor, delta = noise(3, *shape), noise(4, *shape)
    left = method.project(anchor, delta)
    close(method.project(anchor, left), left, 1e-11)
    assert float(left.norm()) <= float(delta.norm()) * (1 + 1e-14)
    close(method.project(anchor, -3.0 * delta), -3.0 * left, 1e-11)
    for scale in (2.0, 1e-6, -0.7, 1e90):
        close(method.project(anchor * scale, delta), left, 1e-10)
    if projection in ORTHOGONAL or alpha == 1.0:
        close(method.project(anchor, anchor), torch.zeros(shape).double(), 1e-12)
    else:
        assert float(method.project(anchor, anchor).norm()) > 0.1


def test_a_model_merged_with_itself() -> None:
    base, models = some_models(5, 1)
    linear = {name: base[name] for name in base if name not in AVERAGED}
    found, lambdas = whole(Opcm(), linear, [models[0], models[0]], [1.0, 1.0])
    assert lambdas[1] == pytest.approx(1.0, rel=1e-12)
    assert_same(found, {name: models[0][name] for name in linear})
    # Other parameters are summed, so beside them linear weights lose: with squared norms a
    # and b the factors are 1 and 2 over sqrt((a + 4 b) / (a + b)).
    deltas = {name: models[0][name] - base[name] for name in base}
    a = norm({name: deltas[name] for name in linear}) ** 2
    b = norm(deltas) ** 2 - a
    found, _ = whole(Opcm(), base, [models[0], models[0]], [1.0, 1.0])
    for name, delta in deltas.items():
        times = (1.0 if name in linear else 2.0) / math.sqrt((a + 4 * b) / (a + b))
        close(found[name] - base[name], delta * times)


def test_who_shares_neither_rows_nor_columns_stays_whole() -> None:
    base = {"fc.weight": torch.zeros(12, 8, dtype=torch.float64)}
    models = []
    for place in range(4):
        delta = torch.zeros(12, 8, dtype=torch.float64)
        delta[3 * place : 3 * place + 3, 2 * place : 2 * place + 2] = noise(place, 3, 2)
        models.append({"fc.weight": delta / delta.norm()})
    found, lambdas = whole(Opcm(), base, models, [1.0] * 4)
    assert lambdas == pytest.approx([1.0, math.sqrt(2), math.sqrt(3), 2.0], rel=1e-14)
    close(found["fc.weight"], sum((m["fc.weight"] for m in models), base["fc.weight"]) / 2)


def test_the_energy_that_is_kept_of_noise() -> None:
    """Of independent matrices of 64 by 64: .93, .92 and .51 (seeded, so exact to a percent)."""
    anchor, delta = noise(0, 64, 64), noise(1, 64, 64)
    energy = {
        projection: float(Opcm(projection=projection).project(anchor, delta).square().sum())
        / float(delta.square().sum())
        for projection in PROJECTIONS
    }
    assert energy["released"] == pytest.approx(0.932, abs=0.01)
    assert energy["block"] == pytest.approx(0.917, abs=0.01)
    assert energy["rows_and_columns"] == pytest.approx(0.513, abs=0.03)


def test_the_energy_that_is_kept_of_what_is_half_there() -> None:
    """Singular values .9^k, of which six make the block; a newcomer at 45 degrees to them."""
    left, right = torch.linalg.qr(noise(30, 64, 64))[0], torch.linalg.qr(noise(40, 64, 64))[0]
    anchor = (left * 0.9 ** torch.arange(64).double()) @ right.T
    other = noise(50, 64, 64)
    delta = anchor / anchor.norm() + other / other.norm()
    for projection, energy, cosine in (("released", 0.62, 0.25), ("block", 0.48, 0.0)):
        kept = Opcm(projection=projection).project(anchor, delta)
        assert float(kept.square().sum() / delta.square().sum()) == pytest.approx(energy, abs=0.03)
        found = float((kept * anchor).sum() / kept.norm() / anchor.norm())
        assert found == pytest.approx(cosine, abs=0.01)
    copy = Opcm(projection="released").project(anchor, anchor)
    assert float(copy.norm() / anchor.norm()) == pytest.approx(0.9**6, abs=1e-5)


def test_alpha_at_its_ends() -> None:
    anchor, delta = noise(6, 9, 5), noise(7, 9, 5)
    left, _, right = torch.linalg.svd(anchor, full_matrices=False)
    core = left.T @ delta @ right.T
    diagonal = delta - (left * core.diagonal()) @ right
    close(Opcm(alpha=0.0).project(anchor, delta), diagonal)
    for alpha in (1.0, 7.0):
        close(Opcm(alpha=alpha).project(anchor, delta), delta - left @ core @ right)
    close(Opcm(alpha=0.0, projection="released").project(anchor, delta), delta)


def test_a_linear_weight_that_did_not_move_yet_takes_all() -> None:
    delta = noise(8, 4, 4)
    zero = torch.zeros(4, 4, dtype=torch.float64)
    method = Opcm()
    state = method.absorb("fc.weight", method.init("fc.weight", (4, 4), zero), zero, ONE)
    assert torch.equal(method.absorb("fc.weight", state, delta, ONE)["sum"], delta)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_an_anchor_of_low_rank_has_one_answer(projection: str) -> None:
    """Vectors beyond the rank are arbitrary: a turn of them must not matter."""
    anchor, delta = noise(9, 12, 2) @ noise(10, 2, 10), noise(11, 12, 10)
    method = Opcm(projection=projection, alpha=0.6)
    found = method.project(anchor, delta)
    close(
        found,
        torch.from_numpy(reference.projected(anchor.numpy(), delta.numpy(), 0.6, projection)),
        1e-11,
    )
    turn, back = torch.linalg.qr(noise(12, 12, 12))[0], torch.linalg.qr(noise(13, 10, 10))[0]
    turned = method.project(turn @ anchor @ back, turn @ delta @ back)
    close(turned, turn @ found @ back, 1e-11)
    rounded = method.project(anchor.float().double(), delta)
    close(rounded, found, 1e-5)


def test_other_parameters_are_summed() -> None:
    base, models = some_models(14, 3)
    found, lambdas = whole(Opcm(), base, models, [1.0, 1.0, 1.0])
    for name in AVERAGED:
        total = sum((model[name] - base[name] for model in models), torch.zeros_like(base[name]))
        close(found[name] - base[name], total / lambdas[-1])
    for shape in ((1, 9), (9, 1), (9,), (3, 2, 2)):
        deltas = [noise(15, *shape), noise(16, *shape)]
        block = Block(name="fc.weight", tensor_shape=shape, shape=shape)
        close(merge_block(Opcm(), block, deltas, facts_of(deltas)), deltas[0] + deltas[1])


def test_tables_are_what_the_option_says() -> None:
    first, second = noise(17, 4, 4), noise(18, 4, 4)
    plain = Opcm(tables="fc").absorb("fc.weight", {"sum": first}, second, ONE)["sum"]
    assert torch.equal(plain, first + second)
    assert not torch.equal(Opcm().absorb("fc.weight", {"sum": first}, second, ONE)["sum"], plain)


def test_a_stream_can_be_taken_up_again() -> None:
    deltas = [noise(seed, 6, 5) for seed in range(4)]
    method = Opcm()
    state = method.init("fc.weight", (6, 5), torch.zeros(6, 5))
    for delta in deltas[:2]:
        state = method.absorb("fc.weight", state, delta, ONE)
    stored = {name: tensor.clone() for name, tensor in state.items()}
    for delta in deltas[2:]:
        state = method.absorb("fc.weight", state, delta, ONE)
        stored = method.absorb("fc.weight", stored, delta, ONE)
    assert state.keys() == {"sum"}
    assert state["sum"].dtype == torch.float64
    assert torch.equal(state["sum"], stored["sum"])


def test_singular_values_of_any_size_are_exact() -> None:
    """A condition of 1e6, two values close to each other, and a scale far from one."""
    left, _ = torch.linalg.qr(noise(19, 60, 40))
    right, _ = torch.linalg.qr(noise(20, 40, 40))
    values = torch.logspace(0, -6, 40, dtype=torch.float64)
    values[21] = values[20] * (1 - 1e-4)
    anchor, delta = (left * values) @ right.T * 1e-60, noise(21, 60, 40)
    for projection in PROJECTIONS:
        expected = reference.projected(anchor.numpy(), delta.numpy(), 0.5, projection)
        close(Opcm(projection=projection).project(anchor, delta), torch.from_numpy(expected), 1e-8)


@pytest.mark.parametrize("shape", [(300, 300), (700, 300), (300, 700)], ids=str)
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("floor", [1e-2, 1e-5])
def test_larger_as_the_reference(projection: str, shape: tuple[int, int], floor: float) -> None:
    """Both ways to the left vectors, and Gram matrices in strips."""
    left, _, right = torch.linalg.svd(noise(22, *shape), full_matrices=False)
    values = torch.arange(1, 301).double() ** -0.7 + floor
    values[-5:] = floor * torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    anchor, delta = (left * values) @ right, noise(23, *shape)
    expected = reference.projected(anchor.numpy(), delta.numpy(), 0.5, projection)
    found = Opcm(projection=projection).project(anchor, delta)
    assert float((found - torch.from_numpy(expected)).norm()) < 1e-9 * float(delta.norm())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(5,), (4, 4)], ids=str)
def test_what_is_not_finite_is_refused(value: float, shape: tuple[int, ...]) -> None:
    delta = torch.ones(shape, dtype=torch.float64)
    delta.view(-1)[2] = value
    method = Opcm()
    with pytest.raises(NonFinite, match=r"one, tensor 'fc.weight': .* expected finite numbers"):
        method.absorb("fc.weight", method.init("fc.weight", shape, None), delta, ONE)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"projection": "some"}, {"tables": "("}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"opcm: {next(iter(options))} is"):
        Opcm(**options)


def test_nothing_at_all_has_no_norm_to_keep() -> None:
    assert factor_to(mean_norm([0.0, 0.0]), 0.0, "nothing") == 1.0
