import torch

from tests.references.negate import negate
from weft.merging.method import Facts
from weft.merging.methods.negate import Negate

FACTS = Facts(contribution="n0")


def test_by_hand_and_twice() -> None:
    delta = torch.tensor([[1.0, -2.0], [0.0, 3.5]])
    once = Negate().apply("w", delta, FACTS)
    assert once.tolist() == [[-1.0, 2.0], [0.0, -3.5]]
    assert torch.equal(Negate().apply("w", once, FACTS), delta)


def test_against_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    base, model = ({"w": torch.randn(30, generator=generator).double()} for _ in range(2))
    result = base["w"] + Negate().apply("w", model["w"] - base["w"], FACTS)
    torch.testing.assert_close(result, negate(base, model)["w"], rtol=1e-9, atol=0)
