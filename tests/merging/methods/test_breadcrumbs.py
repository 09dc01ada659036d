import pytest
import torch
from torch import Tensor

from tests.merging.whole import cuts_of
from tests.references.breadcrumbs import breadcrumbs
from weft.merging.errors import BadOption
from weft.merging.method import Extent, Facts
from weft.merging.methods.breadcrumbs import Breadcrumbs


def changed(method: Breadcrumbs, delta: Tensor, ranked: Tensor | None = None) -> Tensor:
    cuts = cuts_of(method, delta if ranked is None else ranked)
    return method.apply("w", delta, Facts(contribution="n0", cuts=cuts))


def listed(method: Breadcrumbs, values: list[float]) -> list[float]:
    result: list[float] = changed(method, torch.tensor(values, dtype=torch.float64)).tolist()
    return result


def test_by_hand() -> None:
    values = [1.0, -5.0, 2.0, 0.5, -3.0, 4.0, 0.1, -0.2, 0.3, 0.4]
    # The largest, 5, goes; of the rest 4, 3 and 2 stay.
    kept = [0, 0, 2.0, 0, -3.0, 4.0, 0, 0, 0, 0]
    assert listed(Breadcrumbs(density=0.3, gamma=0.1), values) == kept
    assert listed(Breadcrumbs(density=0.1, gamma=0.2), values) == [0, 0, 0, 0, -3.0, *[0] * 5]
    assert listed(Breadcrumbs(density=0.1, gamma=0), values) == [0, -5.0, *[0] * 8]
    assert listed(Breadcrumbs(density=1, gamma=0), values) == values
    assert listed(Breadcrumbs(density=0.9, gamma=0.1), values) == [1.0, 0, *values[2:]]


def test_at_least_one_is_kept() -> None:
    assert listed(Breadcrumbs(), [-1e-30]) == [-1e-30]
    assert listed(Breadcrumbs(density=0.01, gamma=0.4), [1.0, -5.0, 2.0]) == [0, 0, 2.0]
    assert listed(Breadcrumbs(density=0.001, gamma=0.999), [1.0, -5.0]) == [1.0, 0]


def test_ties_at_either_end_are_kept() -> None:
    assert listed(Breadcrumbs(density=0.5, gamma=0.25), [2.0, -2.0, 2.0, 2.0]) == [2, -2, 2, 2]
    assert listed(Breadcrumbs(density=0.25, gamma=0.25), [9.0, 3.0, -3.0, 1.0]) == [0, 3.0, -3.0, 0]


@pytest.mark.parametrize("extent", ["model", "tensor"])
@pytest.mark.parametrize(("density", "gamma"), [(0.14, 0.01), (0.9, 0.1), (0.5, 0.3), (0.2, 0.0)])
def test_against_the_reference(extent: str, density: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"a": (6, 7), "b": (150,), "c": (2, 3, 4), "d": ()}
    base, model = (
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    expected = breadcrumbs(base, model, density=density, gamma=gamma, extent=extent)
    method = Breadcrumbs(density=density, gamma=gamma, extent=extent)
    assert [cut.extent for cut in method.cuts] == [Extent(extent)] * 2
    everything = torch.cat([(model[name] - base[name]).flatten() for name in base])
    for name, start in base.items():
        ranked = everything if extent == "model" else model[name] - start
        result = start + changed(method, model[name] - start, ranked)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


def test_an_infinite_outlier_is_not_dropped_unseen() -> None:
    delta = torch.tensor([1.0, 2.0, 3.0, torch.inf])
    result = changed(Breadcrumbs(density=0.5, gamma=0.25), delta)
    assert result[:3].tolist() == [0.0, 2.0, 3.0]
    assert bool(result[3].isnan())


def test_extents_and_bad_options() -> None:
    assert Breadcrumbs().cuts[0].extent is Extent.TENSOR
    assert Breadcrumbs(density=0.7, gamma=0.3) == Breadcrumbs(density=0.7, gamma=0.3)
    with pytest.raises(BadOption, match=r"breadcrumbs: density 0.8 and gamma 0.3 are more than"):
        Breadcrumbs(density=0.8, gamma=0.3)
    with pytest.raises(BadOption, match=r"breadcrumbs: gamma is -0.1"):
        Breadcrumbs(gamma=-0.1)
    with pytest.raises(BadOption, match="breadcrumbs: extent is 'row'"):
        Breadcrumbs(extent="row")
