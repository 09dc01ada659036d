import pytest
import torch

from weft.merging.adam import Adam


@pytest.mark.parametrize("rate", [1e-3, 0.5])
def test_as_torch_has_it(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    mine, theirs = start.clone(), start.clone().requires_grad_()
    adam, other = Adam(rate), torch.optim.Adam([theirs], lr=rate)
    for _ in range(20):
        gradient = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        kept = gradient.clone()
        adam.step(mine, gradient)
        assert torch.equal(kept, gradient)
        theirs.grad = gradient
        other.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=1e-12)


def test_no_gradient_no_step() -> None:
    values = torch.ones(3)
    Adam(0.1).step(values, torch.zeros(3))
    assert values.tolist() == [1.0, 1.0, 1.0]
