import pytest
import torch

from tests.references.larv import larv
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.layer_scores import rank_contrast
from weft.merging.layers import layers
from weft.merging.matrices import is_linear
from weft.merging.method import Facts, Need
from weft.merging.methods.larv import Larv


def test_by_hand() -> None:
    facts = Facts(contribution="n0", scale=1.5)
    assert Larv().apply("w", torch.tensor([2.0, -1.0]), facts).tolist() == [3.0, -1.5]


def test_scales_are_dealt_by_contrast() -> None:
    contrasts = {"h.0.q": 1.0, "h.1.q": 3.0, "h.2.q": 2.0}
    found = Larv(low=0.5, high=2.0).scales(contrasts, layers([*contrasts, "wte"]))
    assert found == {"h.0.q": 0.5, "h.1.q": 2.0, "h.2.q": 1.0, "wte": 1.0}
    # One layer alone, or none at all, is no reason to scale.
    assert Larv().scales({"h.0.q": 1.0}, layers(["h.0.q", "h.1.b"])) == {"h.0.q": 1.0, "h.1.b": 1.0}
    assert Larv().scales({}, layers(["h.0.b", "h.1.b"])) == {"h.0.b": 1.0, "h.1.b": 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_against_the_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    stack = [[f"h.{index}.q", f"h.{index}.mlp", f"h.{index}.bias"] for index in range(7)]
    shapes: dict[str, tuple[int, ...]] = {"q": (6, 6), "mlp": (8, 5), "bias": (6,)}
    base, model = (
        {
            name: torch.randn(shapes[name.split(".")[2]], generator=generator).double()
            for names in stack
            for name in names
        }
        for _ in range(2)
    )
    expected = larv(base, model, stack, low=0.8, high=1.3)
    deltas = {name: model[name] - base[name] for name in base}
    linear = [name for name in base if is_linear(name, tuple(base[name].shape))]
    contrasts = {name: rank_contrast(base[name], deltas[name]) for name in linear}
    method = Larv(low=0.8, high=1.3)
    scales = method.scales(contrasts, layers(base))
    assert sorted(scales[f"h.{index}.q"] for index in range(7)) == [0.8] * 2 + [1.0] * 3 + [1.3] * 2
    for name, start in base.items():
        facts = Facts(contribution="n0", scale=scales[name])
        result = start + method.apply(name, deltas[name], facts)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


def test_the_scale_is_needed() -> None:
    assert Larv().needs == {Need.SCALE}
    with pytest.raises(CannotMerge, match="n0, tensor 'w': the method needs a scale, none given"):
        Larv().apply("w", torch.ones(1), Facts(contribution="n0"))


def test_bad_factors() -> None:
    with pytest.raises(BadOption, match=r"larv: low is 1.2, expected at most high, 1.1"):
        Larv(low=1.2)
    with pytest.raises(BadOption, match=r"larv: low is -0.1, expected a number at least 0"):
        Larv(low=-0.1)
