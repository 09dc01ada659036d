"""The functional forms give the very bits of torch.optim's classes, without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from weft.simulations.errors import BadOption
from weft.simulations.tasks.optimizers import Slots, build_optimizer

PROBE = """
import sys, torch
from torch import nn
from weft.simulations.tasks.optimizers import build_optimizer
for name in ("sgd", "adam"):
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    build_optimizer(name, model, {}, momentum=0.5).step(0.1)
print("torch._dynamo" in sys.modules)
"""


def model_with_two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def run(name: str, steps: int, *, restart_after: int | None = None) -> list[torch.Tensor]:
    model, slots = model_with_two_layers(), Slots()
    optimizer = build_optimizer(name, model, slots, momentum=0.5)
    for step in range(steps):
        if step == restart_after:
            optimizer = build_optimizer(name, model, optimizer.slots, momentum=0.5)
        torch.manual_seed(step)
        model(torch.randn(8, 5)).square().sum().backward()
        optimizer.step(0.01)
    return [tensor.detach() for tensor in model.parameters()]


def run_with_class(name: str, steps: int) -> list[torch.Tensor]:
    model = model_with_two_layers()
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, foreach=False)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, foreach=False)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()
    return [tensor.detach() for tensor in model.parameters()]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_same_bits_as_torch_optim(name: str) -> None:
    for ours, theirs in zip(run(name, 5), run_with_class(name, 5), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_goes_on_from_its_slots(name: str) -> None:
    for whole, in_two in zip(run(name, 4), run(name, 4, restart_after=2), strict=True):
        assert torch.equal(whole, in_two)


def test_slots_given_are_copied() -> None:
    model = model_with_two_layers()
    model(torch.ones(1, 5)).sum().backward()
    first = build_optimizer("sgd", model, {}, momentum=0.5)
    first.step(0.1)
    before = {name: tensor.clone() for name, tensor in first.slots["momentum"].items()}
    second = build_optimizer("sgd", model, first.slots, momentum=0.5)
    model(torch.ones(1, 5)).sum().backward()
    second.step(0.1)
    assert all(torch.equal(first.slots["momentum"][name], before[name]) for name in before)


def test_gradients_are_used_up() -> None:
    model = model_with_two_layers()
    model(torch.ones(1, 5)).sum().backward()
    build_optimizer("adam", model, {}, momentum=0).step(0.1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_without_gradient_stay() -> None:
    model = model_with_two_layers()
    before = [tensor.clone() for tensor in model.parameters()]
    build_optimizer("sgd", model, {}, momentum=0.5).step(0.1)
    assert all(map(torch.equal, before, model.parameters()))


def test_unknown_name() -> None:
    with pytest.raises(BadOption, match="no optimizer 'sdg'; known are sgd and adam"):
        build_optimizer("sdg", nn.Linear(1, 1), {}, momentum=0)


def test_the_compiler_is_not_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "False"
