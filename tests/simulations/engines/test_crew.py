"""Running statistics of nodes one by one: who measures, and what is not finite."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from weft.node.errors import BadTrainer
from weft.node.trainer import Trainer
from weft.simulations.engines.batch_norms import PooledMoments, watching
from weft.simulations.engines.crew import Looped
from weft.simulations.engines.fleet import Fleet
from weft.simulations.errors import BadModel, Diverged


class Plain:
    """A trainer that gives no data for running statistics."""

    momentum: float | None = 0.1

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(2, momentum=self.momentum), nn.Linear(2, 2))

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return {"loss": 0.0}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"accuracy": float(model.get_buffer("0.running_mean")[0])}


class Counting(Plain):
    """A trainer whose model counts its batches."""

    momentum = None


class Overflowing(Plain):
    """A trainer on whose data a layer sees an infinity."""

    def calibration(self) -> Iterator[Tensor]:
        yield torch.full((4, 2), float("inf"))


def looped(trainers: list[Trainer]) -> Looped:
    return Looped(Fleet.alike(trainers[0].model(), range(len(trainers))), trainers, 0)


def test_without_calibration_running_statistics_stay() -> None:
    crew = looped([Plain(), Plain()])
    crew.fleet.statistics[0] = 0.5
    before = crew.fleet.statistics.clone()
    crew.re_estimate()
    assert torch.equal(crew.fleet.statistics, before)
    assert crew.score(crew.fleet.parameters[1]) == 0.5, "there are none but a node's own"


def test_what_is_not_finite_is_a_study_that_diverged() -> None:
    crew = looped([Plain(), Overflowing()])
    with pytest.raises(Diverged, match=r"node 1: .*layer 0 saw NaN or infinity"):
        crew.re_estimate()
    with pytest.raises(Diverged, match="the mean of all models: "):
        crew.score(crew.fleet.parameters[0])


def test_nodes_share_no_counter_of_batches() -> None:
    with pytest.raises(BadModel, match="counts its batches"):
        looped([Counting()])


def test_a_layer_that_is_called_twice_pools_by_what_each_call_saw() -> None:
    layer = nn.BatchNorm1d(1)
    large, small = torch.arange(8.0).reshape(8, 1), torch.tensor([[100.0], [102.0]])
    moments = PooledMoments(1)
    with watching(layer, correction=0, dtype=torch.float64) as watch:
        layer(large)
        layer(small)
        seen = {
            name: [(mean.unsqueeze(0), var.unsqueeze(0)) for mean, var in calls]
            for name, calls in watch.taken().items()
        }
        moments.add([0], seen, watch.counts)
    statistics = {"running_mean": torch.zeros(1, 1), "running_var": torch.zeros(1, 1)}
    moments.write(statistics, range(1))
    both = torch.cat([large, small])
    assert statistics["running_mean"].item() == pytest.approx(both.mean().item())
    assert statistics["running_var"].item() == pytest.approx(both.var().item())


class Says(Plain):
    """A trainer that tells what it is told to."""

    def __init__(self, trained: Any, measured: Any) -> None:
        self.trained, self.measured = trained, measured

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return cast(dict[str, float], self.trained)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return cast(dict[str, float], self.measured)


@pytest.mark.parametrize("told", [None, 0.3, {"accuracy": "high"}, {"auc": 1.0}])
def test_what_is_no_accuracy_is_the_trainers_mistake(told: Any) -> None:
    with pytest.raises(BadTrainer, match=r"Says.evaluate gave .*such as {\"accuracy\": 0.5}"):
        looped([Says({}, told)]).evaluate()


def test_what_is_no_loss_is_the_trainers_mistake() -> None:
    with pytest.raises(BadTrainer, match=r"Says.train gave None") as caught:
        looped([Plain(), Says(None, {})]).train(3)
    assert caught.value.__notes__ == ["while node 1 trained in round 3"]
    assert looped([Says({}, {})]).train(0).isnan().all(), "none need be told"
    assert looped([Says({"loss": torch.tensor(0.5)}, {})]).train(0).item() == 0.5


def test_nodes_have_models_of_one_size() -> None:
    fleet = Fleet.alike(nn.Linear(2, 2), range(4, 6))
    with pytest.raises(BadModel, match="node 4: found a model of 10 parameters, expected 6"):
        Looped(fleet, [Plain(), Plain()], 0)
