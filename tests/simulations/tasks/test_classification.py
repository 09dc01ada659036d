"""The trainer: deterministic, complete as a plug-in, and it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.node.trainer import (
    Calibrates,
    Evaluates,
    Stateful,
    Trainer,
    data_size_of,
    load_trainer,
)
from weft.simulations.errors import BadOption, Diverged
from weft.simulations.tasks.classification import ClassificationTrainer, load_task
from weft.simulations.tasks.dealt import DealtTask

OPTIONS: dict[str, Any] = {"nodes": 4, "steps": 5}


def parameters(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def seeded_model(trainer: ClassificationTrainer) -> nn.Module:
    torch.manual_seed(0)
    return trainer.model()


def test_is_a_complete_plug_in() -> None:
    target = "weft.simulations.tasks.classification:ClassificationTrainer"
    trainer: Trainer = load_trainer(target, {"nodes": 4, "node": 1}, Path())
    assert isinstance(trainer, ClassificationTrainer)
    assert isinstance(trainer, Evaluates)
    assert isinstance(trainer, Calibrates)
    assert isinstance(trainer, Stateful)
    assert data_size_of(trainer) == sum(trainer.class_counts) > 0


def test_shares_of_all_nodes_are_the_whole() -> None:
    sizes = [ClassificationTrainer(**OPTIONS, node=node).data_size for node in range(4)]
    assert sum(sizes) == 1257


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_round_trained_again_ends_with_the_same_bytes(optimizer: str) -> None:
    models = []
    for _ in range(2):
        trainer = ClassificationTrainer(**OPTIONS, optimizer=optimizer)
        model = seeded_model(trainer)
        torch.manual_seed(torch.randint(1000, ()).item() + 1)
        trainer.train(model, 0)
        trainer.train(model, 1)
        models.append(parameters(model))
    assert equal(*models)


def test_rounds_and_nodes_see_other_batches() -> None:
    results = []
    for node, round in ((0, 0), (0, 1), (1, 0)):
        trainer = ClassificationTrainer(**OPTIONS, node=node, decay=1.0)
        model = seeded_model(trainer)
        trainer.train(model, round)
        results.append(parameters(model))
    assert not equal(results[0], results[1])
    assert not equal(results[0], results[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_restart_from_saved_state_goes_on_alike(optimizer: str, tmp_path: Path) -> None:
    trainer = ClassificationTrainer(**OPTIONS, optimizer=optimizer)
    model = seeded_model(trainer)
    trainer.train(model, 0)
    torch.save({"model": model.state_dict(), "trainer": trainer.state()}, tmp_path / "state.pt")
    trainer.train(model, 1)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    restarted = ClassificationTrainer(**OPTIONS, optimizer=optimizer)
    other = restarted.model()
    other.load_state_dict(saved["model"])
    restarted.load_state(saved["trainer"])
    restarted.train(other, 1)
    assert equal(parameters(model), parameters(other))

    fresh = ClassificationTrainer(**OPTIONS, optimizer=optimizer)
    fresh.load_state({})
    other.load_state_dict(saved["model"])
    fresh.train(other, 1)
    assert not equal(parameters(model), parameters(other))


def test_learning_rate_decays_by_round() -> None:
    """One step from the same model: the change is lr * decay^round times the gradient."""
    changes = []
    for decay in (1.0, 0.5):
        trainer = ClassificationTrainer(nodes=1, split="iid", steps=1, decay=decay, lr=0.1)
        model = seeded_model(trainer)
        before = parameters(model)
        trainer.train(model, 2)
        changes.append([b - a for a, b in zip(before, parameters(model), strict=True)])
    for full, quarter in zip(*changes, strict=True):
        torch.testing.assert_close(quarter, full / 4, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_finite_names_node_round_and_step() -> None:
    trainer = ClassificationTrainer(**OPTIONS, node=2, lr=1e20)
    with pytest.raises(Diverged, match=r"node 2, round 3, step [12]: found a loss of (nan|inf)"):
        trainer.train(seeded_model(trainer), 3)


def test_it_learns_all_digits_from_all_examples() -> None:
    trainer = ClassificationTrainer(split="whole", steps=200)
    model = seeded_model(trainer)
    assert trainer.evaluate(model)["accuracy"] < 0.4
    metrics = trainer.train(model, 0)
    assert metrics["loss"] < 1
    assert trainer.evaluate(model)["accuracy"] > 0.9


def test_mlp_has_no_running_statistics_cnn_has() -> None:
    for name, statistics in (("mlp", 0), ("cnn", 4)):
        trainer = ClassificationTrainer(model=name, steps=1, batch=8)
        model = trainer.model()
        trainer.train(model, 0)
        assert sum("running" in key for key in model.state_dict()) == statistics
        assert 0 <= trainer.evaluate(model)["accuracy"] <= 1


def test_evaluate_leaves_the_model_alone() -> None:
    trainer = ClassificationTrainer(model="cnn", steps=1, batch=8)
    model = seeded_model(trainer)
    before = parameters(model)
    assert trainer.evaluate(model) == trainer.evaluate(model)
    assert equal(before, parameters(model))


def test_batches_are_passes_over_the_share() -> None:
    trainer = ClassificationTrainer(nodes=4, node=1, steps=50, batch=32)
    batches = trainer.batches(0)
    assert batches.shape == (50, 32)
    first = batches.flatten()[: trainer.data_size]
    assert torch.equal(first.sort().values, trainer.share)


def test_a_task_that_is_shared_gives_the_same_model_to_the_bit() -> None:
    whole = load_task("digits")
    task = DealtTask.of(whole, "dirichlet", nodes=4, alpha=0.3, seed=0)
    models = []
    for given in (None, task):
        trainer = ClassificationTrainer(**OPTIONS, node=1, task=given)
        model = seeded_model(trainer)
        metrics = [trainer.train(model, 0), trainer.evaluate(model)]
        models.append((parameters(model), metrics))
    assert equal(models[0][0], models[1][0])
    assert models[0][1] == models[1][1]
    assert trainer.inputs is task.inputs


def test_calibration_gives_the_node_s_inputs_each_time_alike() -> None:
    trainer = ClassificationTrainer(**OPTIONS)
    first = torch.cat([batch[0] for batch in trainer.calibration()])
    assert len(first) == trainer.data_size
    assert torch.equal(first, torch.cat([batch[0] for batch in trainer.calibration()]))
    assert seeded_model(trainer)(first).shape == (trainer.data_size, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": 2, "node": 2}, "node = 2 of nodes = 2"),
        ({"steps": 0}, "steps = 0"),
        ({"batch": -1}, "batch = -1"),
        ({"optimizer": "sdg"}, "known are sgd, adam"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"lr": -0.1}, "lr = -0.1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        ClassificationTrainer(**options)


def test_unknown_model_and_cnn_of_vectors(tmp_path: Path) -> None:
    import numpy as np

    with pytest.raises(BadOption, match="known are mlp, cnn"):
        ClassificationTrainer(model="vit").model()
    path = tmp_path / "vectors.npz"
    labels = np.array([0, 1])
    np.savez(path, x_train=np.eye(2), y_train=labels, x_test=np.eye(2), y_test=labels)
    with pytest.raises(BadOption, match="wants images"):
        ClassificationTrainer(data=str(path), model="cnn", split="iid").model()
