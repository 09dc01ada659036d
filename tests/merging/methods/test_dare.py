from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.references.dare import dare
from weft.merging.draws import uniform16
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts, Need, Scope
from weft.merging.methods.dare import Dare

FACTS = Facts(contribution="n0", key=b"content")
# The first eight draws of key "content" and tensor "fc.weight"; the others are at least 0.5.
#   49726, 4372, 46350, 62233, 34943, 63318, 2727, 26977
DELTA = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0], dtype=torch.float64)


def changed(method: Dare, delta: Tensor = DELTA) -> list[float]:
    result: list[float] = method.apply("fc.weight", delta, FACTS).tolist()
    return result


def test_by_hand() -> None:
    assert changed(Dare()) == [0, 4.0, 0, 0, 0, 0, 14.0, -16.0]
    assert changed(Dare(rescale="none")) == [0, 2.0, 0, 0, 0, 0, 7.0, -8.0]
    # 36 of 17 are left.
    expected = [0, 2.0 * 36 / 17, 0, 0, 0, 0, 7.0 * 36 / 17, -8.0 * 36 / 17]
    assert changed(Dare(rescale="l1")) == pytest.approx(expected, rel=1e-15)


def test_the_bound_of_a_draw_is_sharp() -> None:
    # The second draw is 4372: kept from 4373 / 65536 on.
    assert changed(Dare(density=4372 / 65536, rescale="none"))[1] == 0.0
    assert changed(Dare(density=4373 / 65536, rescale="none"))[1] == 2.0


def test_the_share_is_rounded_and_divided_by_as_rounded() -> None:
    # 0.1 is 6554 steps of 65536.
    assert changed(Dare(density=0.1)) == [0, 2.0 * (65536 / 6554), 0, 0, 0, 0, 7 * 65536 / 6554, 0]


def test_all_is_kept() -> None:
    for rescale in ("exact", "l1", "none"):
        result = Dare(density=1, rescale=rescale).apply("fc.weight", DELTA, FACTS)
        assert torch.equal(result, DELTA)
        assert result.data_ptr() != DELTA.data_ptr()


def test_l1_of_what_is_all_dropped_is_nothing() -> None:
    assert changed(Dare(density=1e-9, rescale="l1")) == [0.0] * 8


def parameters() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes: Mapping[str, tuple[int, ...]] = {"a": (6, 7), "b": (50,), "c": (2, 3, 4), "d": ()}
    base, model = (
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    return base, model


@pytest.mark.parametrize("rescale", ["exact", "l1", "none"])
def test_against_the_reference(rescale: str) -> None:
    base, model = parameters()
    dropped = {}
    for name, tensor in base.items():
        draws = uniform16(b"content", name, 0, tensor.numel())
        dropped[name] = torch.from_numpy(draws >= 0.375 * 65536).reshape(tensor.shape)
    expected = dare(base, model, dropped, p=0.625, rescale=rescale)
    method = Dare(density=0.375, rescale=rescale)
    for name, start in base.items():
        result = start + method.apply(name, model[name] - start, FACTS)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("density", [0.03, 0.5, 0.9])
def test_the_share_is_kept(density: float) -> None:
    kept = Dare(density=density).apply("w", torch.ones(100_000), FACTS) != 0
    error = (density * (1 - density) / 100_000) ** 0.5
    assert abs(float(kept.double().mean()) - density) < 5 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_keeps_the_norm_at_every_draw(dtype: torch.dtype) -> None:
    delta = torch.randn((40, 50), generator=torch.Generator().manual_seed(2)).to(dtype)
    result = Dare(density=0.2, rescale="l1").apply("w", delta, FACTS)
    norms = [float(tensor.double().abs().sum()) for tensor in (delta, result)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert 0.1 < float((result != 0).double().mean()) < 0.3


def test_blocks_need_not_be_contiguous() -> None:
    delta = torch.randn((6, 5), dtype=torch.float64)
    method = Dare()
    assert torch.equal(method.apply("w", delta.T, FACTS), method.apply("w", delta.T.clone(), FACTS))


def test_contributions_are_dropped_for_themselves() -> None:
    masks = [
        (Dare().apply("w", torch.ones(10_000), Facts(contribution="n", key=key)) != 0).numpy()
        for key in (b"one", b"two")
    ]
    assert abs(np.mean(masks[0] == masks[1]) - 0.5) < 0.03


def test_scope_and_needs() -> None:
    assert Dare().needs == {Need.KEY}
    for rescale in ("exact", "none"):
        assert Dare(rescale=rescale).scope("w", (3, 3)) is Scope.ELEMENT
    assert Dare(rescale="l1").scope("w", (3, 3)) is Scope.MATRIX


def test_without_a_key_all_would_drop_the_same() -> None:
    with pytest.raises(CannotMerge, match="n0, tensor 'w': the method needs a key, none given"):
        Dare().apply("w", DELTA, Facts(contribution="n0"))


@pytest.mark.parametrize("density", [0.0, -0.5, 1.1, float("nan")])
def test_bad_densities(density: float) -> None:
    with pytest.raises(BadOption, match=r"dare: density is .*, expected a number above 0"):
        Dare(density=density)


def test_bad_rescaling() -> None:
    with pytest.raises(
        BadOption, match="dare: rescale is 'l2', expected 'exact' or 'l1' or 'none'"
    ):
        Dare(rescale="l2")
