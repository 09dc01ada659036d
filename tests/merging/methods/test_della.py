import numpy as np
import pytest
import torch
from torch import Tensor

from tests.references.della import della
from weft.merging.draws import uniform16
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts, Need, Scope
from weft.merging.methods.della import Della

FACTS = Facts(contribution="n0", key=b"content")


def test_by_hand() -> None:
    # Draws of key "content" and tensor "fc.weight", in shares of 65536:
    #   49726, 4372, 46350 | 62233, 34943, 63318  =  .759, .067, .707 | .950, .533, .966
    # With density 0.6 and epsilon 0.2, ranks 0, 1, 2 are kept with 0.4, 0.6, 0.8.
    delta = torch.tensor([[-9.0, 3.0, 6.0], [2.0, -1.5, 1.0]], dtype=torch.float64)
    result = Della(density=0.6, epsilon=0.2).apply("fc.weight", delta, FACTS)
    # Row 0: -9 has rank 2, .759 < 0.8, kept; 3 rank 0, .067 < 0.4, kept; 6 rank 1, dropped.
    # Row 1: 2 rank 2, .950 dropped; -1.5 rank 1, .533 < 0.6 kept; 1 rank 0, dropped.
    # 0.4, 0.6 and 0.8 are 26214, 39322 and 52429 steps of 65536.
    assert result[0].tolist() == pytest.approx(
        [-9 * 65536 / 52429, 3 * 65536 / 26214, 0], rel=1e-15
    )
    assert result[1].tolist() == pytest.approx([0, -1.5 * 65536 / 39322, 0], rel=1e-15)


def test_of_equal_magnitudes_the_earlier_is_the_lower() -> None:
    # Draws .759, .067, .707: with 0.5, 0.6, 0.7 only the second is kept; the third misses
    # by a hair, and would be kept as the last of 0.72.
    ties = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    near = Della(density=0.6, epsilon=0.1).apply("fc.weight", ties, FACTS)
    assert (near != 0).tolist() == [[False, True, False]]
    far = Della(density=0.6, epsilon=0.12).apply("fc.weight", ties, FACTS)
    assert (far != 0).tolist() == [[False, True, True]]


def test_a_vector_is_one_row_and_one_element_has_the_mean_share() -> None:
    vector = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
    row = Della().apply("w", vector, FACTS)
    assert torch.equal(Della().apply("w", vector[0], FACTS), row[0])
    one = torch.tensor([[3.0]], dtype=torch.float64)
    # .759 of 65536.
    assert Della(density=0.76).apply("fc.weight", one, FACTS).item() == 3 * 65536 / 49807
    assert Della(density=0.75).apply("fc.weight", one, FACTS).item() == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_against_the_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"a": (6, 7), "b": (50,), "c": (2, 3, 4), "d": (5, 1)}
    base, model = (
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    uniform = {
        name: torch.from_numpy(uniform16(b"content", name, 0, start.numel()) / 65536)
        for name, start in base.items()
    }
    expected = della(base, model, uniform, density=0.4, epsilon=0.3)
    method = Della(density=0.4, epsilon=0.3)
    for name, start in base.items():
        delta = model[name] - start
        rows = delta.flatten(1) if delta.ndim > 1 else delta.reshape(1, -1)
        result = start + method.apply(name, rows, FACTS).reshape(start.shape)
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-12)


def test_shares_rise_with_the_rank() -> None:
    magnitudes = torch.rand((1, 50), generator=torch.Generator().manual_seed(1)).sort().values
    rows = magnitudes.expand(20_000, 50)
    shares = (Della().apply("w", rows, FACTS) != 0).double().mean(0).numpy()
    error = (0.25 / 20_000) ** 0.5
    assert np.abs(shares - np.linspace(0.35, 0.65, 50)).max() < 5 * error


def test_without_epsilon_every_share_is_the_same() -> None:
    delta = torch.randn((30, 40), generator=torch.Generator().manual_seed(1))
    result = Della(density=0.25, epsilon=0).apply("w", delta, FACTS)
    kept = result != 0
    assert torch.equal(result[kept], delta[kept] * 4)
    assert torch.equal(
        kept.flatten(), torch.from_numpy(uniform16(b"content", "w", 0, 1200) < 16384)
    )


def test_all_may_be_kept_at_the_upper_end() -> None:
    row = torch.arange(1.0, 11.0)
    for key in (b"a", b"b", b"c", b"d", b"e"):
        facts = Facts(contribution="n", key=key)
        assert Della(density=0.75, epsilon=0.25).apply("w", row, facts)[-1] == 10.0


def apply_nothing(facts: Facts) -> Tensor:
    return Della().apply("w", torch.ones(1, 3), facts)


def test_scope_and_needs() -> None:
    assert Della().needs == {Need.KEY}
    assert Della().scope("w", (3, 3)) is Della().scope("b", (3,)) is Scope.ROW
    with pytest.raises(CannotMerge, match="n0, tensor 'w': the method needs a key, none given"):
        apply_nothing(Facts(contribution="n0"))


@pytest.mark.parametrize(("density", "epsilon"), [(0.15, 0.15), (0.1, 0.2), (0.9, 0.15)])
def test_probabilities_lie_between_none_and_all(density: float, epsilon: float) -> None:
    with pytest.raises(BadOption, match=r"della: density .* expected above 0 and at most 1"):
        Della(density=density, epsilon=epsilon)


def test_bad_options() -> None:
    with pytest.raises(BadOption, match=r"della: epsilon is -0.1"):
        Della(epsilon=-0.1)
    with pytest.raises(BadOption, match="della: density is 0"):
        Della(density=0)
