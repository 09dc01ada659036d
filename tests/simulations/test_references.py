"""References by hand, and the demo's claims rehearsed."""

from dataclasses import replace

import pytest
import torch

from weft.simulations.references import (
    TaskOptions,
    accuracy,
    central,
    consensus_distance,
    counterfactual,
    initial_model,
    learn,
    local_only,
    mean_tensors,
)
from weft.simulations.tasks.classification import ClassificationTrainer

SMALL = TaskOptions(nodes=2, steps=4)


def test_mean_by_hand() -> None:
    models = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
    ]
    mean = mean_tensors(models)
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["w"].dtype == torch.float32
    assert mean["n"].item() == 3


def test_consensus_distance_by_hand() -> None:
    # Mean (1, 1): squared distances 2 and 2, their mean 2.
    models = [{"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([2.0, 2.0])}]
    assert consensus_distance(models) == pytest.approx(2**0.5)
    assert consensus_distance([models[0], models[0]]) == 0


def test_consensus_distance_takes_all_tensors_together() -> None:
    split = [{"a": torch.tensor([x]), "b": torch.tensor([y])} for x, y in ((0.0, 3.0), (4.0, 5.0))]
    whole = [{"c": torch.cat([model["a"], model["b"]])} for model in split]
    assert consensus_distance(split) == pytest.approx(consensus_distance(whole))


def test_initial_model_leaves_the_generator_alone() -> None:
    trainer = SMALL.trainer(0)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again = initial_model(trainer, 1), initial_model(trainer, 1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.state_dict()["1.weight"], again.state_dict()["1.weight"])


def test_options_reach_the_trainer() -> None:
    options = TaskOptions(nodes=3, alpha=0.7, seed=5, steps=2, batch=8, optimizer="adam")
    assert options.of_node(2) == {
        "data": "digits", "nodes": 3, "node": 2, "split": "dirichlet", "alpha": 0.7, "seed": 5,
        "steps": 2, "batch": 8, "optimizer": "adam", "lr": 0.0, "decay": 0.93, "model": "mlp",
        "model_options": "", "limit": 0, "test_limit": 0,
    }  # fmt: skip
    assert isinstance(options.trainer(2), ClassificationTrainer)
    assert options.central.trainer(0).data_size == 1257


def test_model_options_reach_the_model_by_way_of_a_line_of_text() -> None:
    options = replace(SMALL, model_options={"hidden": 5, "layers": 2})
    assert options.of_node(0)["model_options"] == "hidden=5, layers=2"
    shapes = [tuple(parameter.shape) for parameter in options.trainer(0).model().parameters()]
    assert shapes == [(5, 64), (5,), (5, 5), (5,), (10, 5), (10,)]


def test_references_train_the_steps_of_the_run() -> None:
    alone = local_only(SMALL, rounds=3)
    assert [len(curve) for curve in alone] == [3, 3]
    assert alone[1] == learn(SMALL.trainer(1), rounds=3, seed=0)
    assert len(central(SMALL, rounds=2)) == 2


def test_counterfactual_of_equal_models_is_their_accuracy() -> None:
    trainer = SMALL.trainer(0)
    model = initial_model(trainer, 0)
    trainer.train(model, 0)
    tensors = model.state_dict()
    expected = trainer.evaluate(model)["accuracy"]
    assert accuracy(trainer, tensors) == expected
    assert counterfactual(trainer, [[tensors, tensors], [tensors]]) == [expected, expected]
