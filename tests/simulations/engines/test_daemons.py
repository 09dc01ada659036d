"""What daemons wrote down, made into moments: by hand, without any process."""

import math

import pytest
import torch
from torch import Tensor

from weft.simulations.demo.outcome import Happened, Story
from weft.simulations.demo.settings import DemoSettings
from weft.simulations.engines.daemons import Memory, Recalled
from weft.simulations.engines.fleet import parameters_of
from weft.simulations.references import TaskOptions, initial_model

SETTINGS = DemoSettings(nodes=2, rounds=1, task=TaskOptions(nodes=2, steps=1))


def base() -> dict[str, Tensor]:
    model = initial_model(SETTINGS.task.trainer(0), 0)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def memory(**weights: float) -> Memory:
    """Node 1 has the base, node 2 the base and one everywhere; node 1 misses or takes node 2."""
    models = {"node-1": base(), "node-2": {name: t + 1 for name, t in base().items()}}
    taken = {"node-2": "b"} if len(weights) > 1 else {}
    row = {name.replace("_", "-"): weight for name, weight in weights.items()}
    stories = [
        Story(
            node="node-1",
            rounds=[
                Happened(
                    model="object:a",
                    weights=row,
                    parents={"node-1": "a", **taken},
                    loss=2.0,
                    accuracy=0.25,
                )
            ],
            result="r",
            accuracy=0.5,
        ),
        Story(
            node="node-2",
            rounds=[Happened(model="object:b", weights={"node-2": 1.0}, loss=1.0, accuracy=0.75)],
            result="r",
            accuracy=0.5,
        ),
    ]
    return Memory(
        SETTINGS,
        Recalled(
            stories=stories,
            model_of=lambda node, reference: models[node],
            size_of=lambda node, digest: {"a": 5, "b": 7}[digest],
        ),
    )


def test_a_moment_by_hand() -> None:
    found = memory(node_1=0.75, node_2=0.25).moment(0)
    size = parameters_of(SETTINGS.task.trainer(0).model()).size
    assert (found.loss, found.messages, found.bytes) == (1.5, 1, 7.0)
    # Two models one apart in each of P parameters are each half of that from their mean.
    assert found.trained == pytest.approx(math.sqrt(size) / 2, rel=1e-6)
    # Then the first is a quarter of the way to the second.
    assert found.mixed == pytest.approx(math.sqrt(size) * 0.75 / 2, rel=1e-6)
    assert found.drift == pytest.approx(math.sqrt(size) * 0.125, rel=1e-6)
    assert found.accuracies is not None
    assert (found.accuracies.mean, found.accuracies.worst, found.accuracies.best) == (
        0.5,
        0.25,
        0.75,
    )
    assert 0 <= found.accuracies.merged <= 1


def test_weights_are_those_that_were_applied() -> None:
    assert memory(node_1=1.5, node_2=0.5).mixing(0).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    alone = memory(node_1=1.0).moment(0, evaluated=False)
    assert (alone.messages, alone.bytes, alone.accuracies) == (0, 0.0, None)
    assert alone.trained == alone.mixed
    assert alone.drift == 0


def test_rows_are_the_models_in_their_order() -> None:
    first, second = memory(node_1=1.0).trained(0)
    assert torch.equal(second, first + 1)
    layout = parameters_of(SETTINGS.task.trainer(0).model())
    assert torch.equal(first, layout.vector(base()))


def test_settings_carry_options_to_schedule_and_run() -> None:
    settings = DemoSettings(
        nodes=8,
        topology="random_regular",
        topology_options=(("degree", 4),),
        schedule_options=(("k", 2),),
        weights="metropolis",
        task=TaskOptions(nodes=8),
    )
    schedule = settings.mixing_schedule()
    assert [schedule.mixing(round).messages for round in range(4)] == [0, 32, 0, 32]
    spec = settings.spec("0" * 64)
    assert (spec.topology.options, spec.topology.weights) == ({"degree": 4}, "metropolis")
    assert spec.schedule.options == {"k": 2}
