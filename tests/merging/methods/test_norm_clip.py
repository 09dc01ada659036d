import pytest
import torch

from tests.references.norm_clip import norm_clip
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Facts, Need
from weft.merging.methods.norm_clip import NormClip

DELTA = torch.tensor([3.0, -4.0], dtype=torch.float64)


def changed(longest: float, norm: float | None) -> list[float]:
    facts = Facts(contribution="n0", norm=norm)
    result: list[float] = NormClip(longest=longest).apply("w", DELTA, facts).tolist()
    return result


def test_by_hand() -> None:
    assert changed(2.5, 5.0) == [1.5, -2.0]
    # The norm is the model's: another tensor holds the rest of it.
    assert changed(2.5, 50.0) == pytest.approx([0.15, -0.2])
    assert changed(5.0, 5.0) == [3.0, -4.0]
    assert changed(6.0, 5.0) == [3.0, -4.0]
    assert changed(1.0, 0.0) == [3.0, -4.0]


def test_a_copy_is_given_back() -> None:
    result = NormClip(longest=9.0).apply("w", DELTA, Facts(contribution="n0", norm=5.0))
    assert result.data_ptr() != DELTA.data_ptr()


@pytest.mark.parametrize("longest", [0.1, 5.0, 1000.0])
def test_against_the_reference(longest: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"a": (6, 7), "b": (5,)}
    base, model = (
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    expected = norm_clip(base, model, longest=longest)
    deltas = {name: model[name] - base[name] for name in base}
    norm = float(torch.cat([delta.flatten() for delta in deltas.values()]).norm())
    facts = Facts(contribution="n0", norm=norm)
    result = {name: NormClip(longest=longest).apply(name, deltas[name], facts) for name in base}
    for name, start in base.items():
        torch.testing.assert_close(start + result[name], expected[name], rtol=1e-9, atol=1e-12)
    after = float(torch.cat([delta.flatten() for delta in result.values()]).norm())
    assert after == pytest.approx(min(norm, longest))


def test_a_norm_is_needed() -> None:
    assert NormClip().needs == {Need.NORM}
    with pytest.raises(CannotMerge, match="n0, tensor 'w': the method needs a norm, none given"):
        changed(1.0, None)


@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_a_norm_beyond_numbers_is_refused(norm: float) -> None:
    # Clipped to nothing, the contribution would be left out and nobody told.
    with pytest.raises(NonFinite, match=f"n0, tensor 'w': its norm over the model is {norm}"):
        changed(1.0, norm)


@pytest.mark.parametrize("longest", [0.0, -1.0, float("inf")])
def test_bad_lengths(longest: float) -> None:
    with pytest.raises(BadOption, match=r"norm_clip: longest is .*, expected a number above 0"):
        NormClip(longest=longest)
