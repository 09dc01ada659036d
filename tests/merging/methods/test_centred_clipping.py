import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import centred_clipping as reference
from weft.merging.errors import BadOption
from weft.merging.method import Extent, Facts, Need
from weft.merging.methods.centred_clipping import CenteredClipping

laws = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31)


def clipped(rows: Tensor, method: CenteredClipping, weights: list[float] | None = None) -> Tensor:
    weights = weights or [1.0] * len(rows)
    facts = [Facts(contribution=f"n{i}", weight=weight) for i, weight in enumerate(weights)]
    return torch.tensor(method.coefficients(rows @ rows.T, facts), dtype=torch.float64) @ rows


def points(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def drawn(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((count, 20), generator=generator, dtype=torch.float64)
    return rows * 10.0 ** (torch.randn((count, 1), generator=generator).double() * 2)


def test_by_hand() -> None:
    rows = points([3.0, 4.0], [0.0, 1.0])
    # Radius 2: 5 is cut to 2, (1.2, 1.6); 1 stays. Half of both.
    once = CenteredClipping(radius=2.0, iterations=1)
    assert clipped(rows, once).tolist() == pytest.approx([0.6, 1.3])
    # From (0.6, 1.3): (2.4, 2.7) cut to 2, (-0.6, -0.3) as it is.
    long = (2.4**2 + 2.7**2) ** 0.5
    twice = [0.6 + (2.4 * 2 / long - 0.6) / 2, 1.3 + (2.7 * 2 / long - 0.3) / 2]
    assert clipped(rows, CenteredClipping(radius=2.0, iterations=2)).tolist() == pytest.approx(
        twice
    )


def test_without_a_radius_it_is_the_lower_median_of_the_norms() -> None:
    rows = points([1.0, 0.0], [0.0, 3.0], [0.0, -100.0], [2.0, 0.0])
    one = clipped(rows, CenteredClipping(iterations=1))
    assert torch.equal(one, clipped(rows, CenteredClipping(iterations=1, radius=2.0)))
    assert one.tolist() == pytest.approx([0.75, 0.0])


def test_where_most_moved_nothing_the_base_stays() -> None:
    assert clipped(points([0.0], [0.0], [5.0]), CenteredClipping()).tolist() == [0.0]


def test_a_long_radius_is_the_weighted_mean() -> None:
    rows = points([1.0, 5.0], [3.0, 1.0])
    found = clipped(rows, CenteredClipping(radius=1e6), [1.0, 3.0])
    assert found.tolist() == pytest.approx([2.5, 2.0])


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_as_the_reference(iterations: int) -> None:
    base, models = random_models(iterations, 5)
    weights = [1.0, 2.0, 0.5, 1.0, 3.0]
    found = merged_model(CenteredClipping(radius=0.7, iterations=iterations), base, models, weights)
    expected = reference.merge(base, models, weights=weights, radius=0.7, iterations=iterations)
    assert_same_models(found, expected)


@laws
@given(
    seed=seeds, count=st.integers(1, 8), iterations=st.integers(1, 6), radius=st.floats(0.01, 50)
)
def test_it_goes_no_further_than_radius_an_iteration_nor_beyond_the_longest(
    seed: int, count: int, iterations: int, radius: float
) -> None:
    rows = drawn(seed, count)
    found = float(clipped(rows, CenteredClipping(radius=radius, iterations=iterations)).norm())
    assert found <= iterations * radius * (1 + 1e-6)
    assert found <= float(rows.norm(dim=1).max()) * (1 + 1e-6)


@laws
@given(seed=seeds, bad=st.integers(1, 4), iterations=st.integers(1, 5), size=st.floats(-3, 9))
def test_the_bad_move_it_by_no_more_than_their_share_of_the_radius(
    seed: int, bad: int, iterations: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((6, 20), generator=generator, dtype=torch.float64)
    rows[:bad] *= 10.0**size
    radius, share = 2.0, bad / 6
    found = clipped(rows, CenteredClipping(radius=radius, iterations=iterations))
    # The same, where the bad ones send what the centre is at each step: they pull nowhere.
    centre = torch.zeros(20, dtype=torch.float64)
    for _ in range(iterations):
        apart = rows[bad:] - centre
        lengths = apart.norm(dim=1, keepdim=True)
        centre = centre + (apart * (radius / lengths).clamp(max=1)).sum(0) / 6
    assert float((found - centre).norm()) <= iterations * share * radius * (1 + 1e-6)


@laws
@given(seed=seeds, size=st.floats(0, 9))
def test_with_its_own_radius_it_is_as_short_as_the_good_ones(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((6, 20), generator=generator, dtype=torch.float64)
    rows[:3] *= 10.0**size
    longest = float(rows[3:].norm(dim=1).max())
    found = clipped(rows, CenteredClipping(iterations=1))
    assert float(found.norm()) <= longest * (1 + 1e-9)


def test_what_it_says_of_itself() -> None:
    assert CenteredClipping().gives_back_one
    assert not CenteredClipping(radius=1.0).gives_back_one
    assert CenteredClipping.span is Extent.MODEL
    assert Need.BASE in CenteredClipping.needs


@pytest.mark.parametrize("options", [{"radius": -1.0}, {"iterations": 0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        CenteredClipping(**options)  # type: ignore[arg-type]
