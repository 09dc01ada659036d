import pytest
import torch

from tests.references.lines import lines
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.layers import layers
from weft.merging.method import Facts, Layer, Need
from weft.merging.methods.lines import Lines


def factor(method: Lines, index: int | None, count: int) -> float:
    facts = Facts(contribution="n0", layer=Layer(index=index, count=count))
    return float(method.apply("w", torch.tensor([1.0], dtype=torch.float64), facts))


def test_by_hand() -> None:
    method = Lines(alpha=0.25, beta=1.5)
    assert [factor(method, index, 4) for index in range(4)] == [0.25, 0.75, 1.25, 1.75]
    assert factor(method, None, 4) == 0.25
    delta = torch.tensor([2.0, -4.0])
    facts = Facts(contribution="n0", layer=Layer(index=2, count=4))
    assert method.apply("w", delta, facts).tolist() == [2.5, -5.0]


def test_the_defaults_leave_the_last_block_and_halve_the_first() -> None:
    assert [factor(Lines(), index, 12) for index in (0, 11, None)] == [0.5, 1.0, 0.5]


def test_models_without_depth_get_alpha() -> None:
    assert factor(Lines(alpha=0.3, beta=2.0), 0, 1) == 0.3
    assert factor(Lines(alpha=0.3, beta=2.0), None, 0) == 0.3


def test_against_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    names = ["wte", *(f"h.{index}.{part}" for index in range(5) for part in "ab"), "head"]
    base, model = (
        {name: torch.randn(6, generator=generator).double() for name in names} for _ in range(2)
    )
    blocks = {name: int(name[2]) + 1 for name in names if name.startswith("h.")}
    expected = lines(base, model, blocks, alpha=0.2, beta=0.7, count=5)
    places = layers(names)
    method = Lines(alpha=0.2, beta=0.7)
    for name, start in base.items():
        facts = Facts(contribution="n0", layer=places[name])
        result = start + method.apply(name, model[name] - start, facts)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


def test_the_layer_is_needed() -> None:
    assert Lines().needs == {Need.LAYER}
    with pytest.raises(CannotMerge, match="n0, tensor 'w': the method needs a layer, none given"):
        Lines().apply("w", torch.ones(1), Facts(contribution="n0"))


def test_factors_are_finite() -> None:
    with pytest.raises(BadOption, match="lines: alpha is nan"):
        Lines(alpha=float("nan"))
    with pytest.raises(BadOption, match="lines: beta is inf"):
        Lines(beta=float("inf"))
