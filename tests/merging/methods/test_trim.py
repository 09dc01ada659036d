import pytest
import torch
from torch import Tensor

from tests.merging.whole import cuts_of
from tests.references.trim import trim
from weft.merging.errors import BadOption
from weft.merging.method import Extent, Facts
from weft.merging.methods.trim import Trim


def changed(method: Trim, delta: Tensor, ranked: Tensor | None = None) -> Tensor:
    cuts = cuts_of(method, delta if ranked is None else ranked)
    return method.apply("w", delta, Facts(contribution="n0", cuts=cuts))


def listed(method: Trim, values: list[float]) -> list[float]:
    result: list[float] = changed(method, torch.tensor(values, dtype=torch.float64)).tolist()
    return result


def test_by_hand() -> None:
    values = [1.0, -5.0, 2.0, 0.5, -3.0]
    assert listed(Trim(density=0.4), values) == [0, -5.0, 0, 0, -3.0]
    assert listed(Trim(density=0.79), values) == [0, -5.0, 2.0, 0, -3.0]
    assert listed(Trim(density=1), values) == values


def test_at_least_one_is_kept() -> None:
    assert listed(Trim(density=0.01), [1.0, -5.0, 2.0]) == [0, -5.0, 0]
    assert listed(Trim(density=0.01), [-1e-30]) == [-1e-30]


def test_ties_are_kept() -> None:
    assert listed(Trim(density=0.25), [2.0, -2.0, 1.0, 2.0]) == [2.0, -2.0, 0, 2.0]
    assert listed(Trim(density=0.5), [0.0, 0.0, 0.0, 3.0]) == [0, 0, 0, 3.0]


@pytest.mark.parametrize("extent", ["model", "tensor"])
@pytest.mark.parametrize("density", [0.07, 0.2, 0.5, 1.0])
def test_against_the_reference(extent: str, density: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"a": (6, 7), "b": (50,), "c": (2, 3, 4), "d": ()}
    base, model = (
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    expected = trim(base, model, density=density, extent=extent)
    method = Trim(density=density, extent=extent)
    # Where all is kept nobody needs to look for a rank.
    assert [cut.extent for cut in method.cuts] == [Extent(extent)] * (density < 1)
    everything = torch.cat([(model[name] - base[name]).flatten() for name in base])
    for name, start in base.items():
        ranked = everything if extent == "model" else model[name] - start
        result = start + changed(method, model[name] - start, ranked)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


def test_the_share_is_kept() -> None:
    delta = torch.randn(10_000, generator=torch.Generator().manual_seed(3))
    result = changed(Trim(), delta)
    assert int((result != 0).sum()) == 2000
    kept = result != 0
    assert torch.equal(result[kept], delta[kept])
    assert float(delta[~kept].abs().max()) < float(delta[kept].abs().min())


def test_extents_and_bad_options() -> None:
    assert Trim().cuts[0].extent is Extent.MODEL
    with pytest.raises(BadOption, match="trim: extent is 'row', expected 'model' or 'tensor'"):
        Trim(extent="row")
    with pytest.raises(BadOption, match="trim: density is 0"):
        Trim(density=0)
