"""Stacked linear layers against autograd and torch's optimizers, and against one node alone."""

import pytest
import torch
from torch import nn

from weft.simulations.engines.crew import Looped
from weft.simulations.engines.fleet import Fleet, parameters_of
from weft.simulations.engines.linear_chain import LinearLayer, linear_chain
from weft.simulations.engines.local import stack_of
from weft.simulations.engines.stacked_linear import StackedLinear, stackable, stacks
from weft.simulations.errors import BadModel, Diverged
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.tasks.classification import ClassificationTrainer


def crews(options: TaskOptions, stack: int) -> tuple[Looped, StackedLinear]:
    """One after the other and stacked, from one model."""
    task = options.dealt()
    one, other = ([options.trainer(node, task) for node in range(options.nodes)] for _ in range(2))
    model = initial_model(one[0], options.seed)
    fleets = [Fleet.alike(model, range(options.nodes)) for _ in range(2)]
    return (
        Looped(fleets[0], one, options.seed),
        StackedLinear(fleets[1], other, options.seed, stack=stack),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stack", [2, 8])
def test_equal_to_one_node_after_the_other(optimizer: str, stack: int) -> None:
    looped, stacked = crews(TaskOptions(nodes=5, steps=6, optimizer=optimizer), stack)
    for round in range(3):
        losses = looped.train(round), stacked.train(round)
        torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
        difference = (looped.fleet.parameters - stacked.fleet.parameters).abs().max()
        assert difference < 1e-5
    assert torch.equal(looped.evaluate(), stacked.evaluate())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_optimizers_that_start_afresh(optimizer: str) -> None:
    looped, stacked = crews(TaskOptions(nodes=5, steps=6, optimizer=optimizer), 2)
    for round in range(2):
        for crew in (looped, stacked):
            crew.train(round)
            crew.reset_optimizers()
    difference = (looped.fleet.parameters - stacked.fleet.parameters).abs().max()
    assert difference < 1e-5


class WithOtherNet(ClassificationTrainer):
    """The same trainer with a net of its own."""

    net: nn.Module

    def model(self) -> nn.Module:
        return self.net


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 9, bias=False), nn.Linear(9, 10)),
        nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU()),
            *(nn.Linear(7, 8), nn.Linear(8, 10, bias=False)),
        ),
    ],
    ids=["softmax", "no_relu", "deep"],
)
def test_every_chain_of_layers(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassificationTrainer, "model", lambda _: net)
    looped, stacked = crews(TaskOptions(nodes=3, steps=5, lr=0.1), 8)
    looped.train(0)
    stacked.train(0)
    torch.testing.assert_close(looped.fleet.parameters, stacked.fleet.parameters, atol=1e-5, rtol=0)


def test_stacks_follow_the_numbers_of_the_nodes() -> None:
    assert stacks(range(0, 16), 8) == [range(0, 8), range(8, 16)]
    assert stacks(range(5, 6), 8) == [range(0, 1)]
    assert stacks(range(7, 9), 8) == [range(0, 1), range(1, 2)]


def test_small_studies_are_cut_into_four() -> None:
    assert [stack_of(nodes) for nodes in (1, 7, 8, 16, 32, 1000)] == [1, 1, 2, 4, 8, 8]


def test_a_loss_that_is_not_finite_names_node_round_and_step() -> None:
    _, stacked = crews(TaskOptions(nodes=3, steps=4, lr=0.1), 2)
    stacked.fleet.parameters[2, 0] = float("nan")
    with pytest.raises(Diverged, match="node 2, round 7, step 0: found a loss of nan"):
        stacked.train(7)


def test_what_is_a_chain() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    assert linear_chain(net) == (
        LinearLayer("1.weight", "1.bias", rectified=True),
        LinearLayer("3.weight", None, rectified=False),
    )


SHARED = nn.Linear(2, 2)


@pytest.mark.parametrize(
    "net",
    [
        nn.Linear(2, 2),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.Linear(2, 2), nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Flatten(2), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
        nn.Sequential(nn.ReLU(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)),
        nn.Sequential(SHARED, nn.ReLU(), SHARED),
    ],
)
def test_what_is_none(net: nn.Module) -> None:
    assert linear_chain(net) is None
    assert not stackable(net, TaskOptions(nodes=1).trainer(0))


def test_other_trainers_and_trainers_that_differ_are_refused() -> None:
    options = TaskOptions(nodes=2)
    task = options.dealt()
    plain = options.trainer(0, task)
    model = initial_model(plain, 0)
    other = WithOtherNet(**options.of_node(1), task=task)
    slower = ClassificationTrainer(**{**options.of_node(1), "lr": 0.01}, task=task)
    apart = options.trainer(1)
    assert stackable(model, plain)
    assert not stackable(model, other)
    for second in (other, slower, apart):
        with pytest.raises(BadModel, match="take the crew Looped"):
            StackedLinear(Fleet.alike(model, range(2)), [plain, second], 0, stack=2)


def test_the_names_of_the_layers_are_those_of_the_rows() -> None:
    model = TaskOptions(nodes=1).trainer(0).model()
    layers = linear_chain(model)
    assert layers is not None
    named = [name for layer in layers for name in (layer.weight, layer.bias) if name]
    assert named == list(parameters_of(model).names)
