"""Nodes trained together are what they are one after the other, up to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.node.trainer import Trainer
from weft.simulations.engines.crew import Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.stacked import Stacked
from weft.simulations.errors import BadModel, BadOption, Diverged
from weft.simulations.learning.rule import Gossip
from weft.simulations.references import initial_model
from weft.simulations.study import Study
from weft.simulations.tasks.arrays import load_npz
from weft.simulations.tasks.classification import ClassificationTrainer, load_task
from weft.simulations.tasks.dealt import DealtTask
from weft.simulations.tasks.text import LanguageTrainer
from weft.topology.schedules import ScheduleParams, build_schedule

NODES = 3
ROUNDING = 1e-5


def trainers(kind: type[ClassificationTrainer], **options: Any) -> list[Trainer]:
    given = {"nodes": NODES, "steps": 3, "batch": 8, "limit": 200, **options}
    return [kind(**given, node=node) for node in range(given["nodes"])]


def fleet(made: list[Trainer]) -> Fleet:
    return Fleet.alike(initial_model(made[0], 0), range(len(made)))


def pair(
    kind: type[ClassificationTrainer] = ClassificationTrainer, *, chunk: int = 2, **options: Any
) -> tuple[Looped, Stacked]:
    """The same nodes twice."""
    one, other = trainers(kind, **options), trainers(kind, **options)
    return Looped(fleet(one), one, 0), Stacked(fleet(other), other, 0, chunk=chunk)


def near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING)


def same(one: Looped, other: Stacked) -> None:
    near(one.fleet.parameters, other.fleet.parameters)
    near(one.fleet.statistics, other.fleet.statistics)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "mlp"},
        {"model": "mlp", "optimizer": "adam", "model_options": "layers=2, hidden=16"},
        {"model": "mlp", "momentum": 0.0},
        {"model": "cnn"},
        {"model": "cnn", "optimizer": "adam"},
        {"model": "resnet20", "model_options": "width=4", "lr": 0.05},
        {"model": "vit_tiny", "model_options": "depth=2, width=16", "lr": 0.05},
    ],
    ids=lambda options: "-".join(map(str, options.values())).replace(" ", ""),
)
def test_two_rounds_are_those_of_nodes_one_by_one(options: dict[str, Any]) -> None:
    """The second round starts from the first one's optimizer and statistics."""
    one, other = pair(**options)
    for round in range(2):
        near(one.train(round), other.train(round))
        same(one, other)
        assert torch.equal(one.evaluate(), other.evaluate())
    one.re_estimate()
    other.re_estimate()
    same(one, other)
    mean = one.fleet.parameters.mean(0)
    assert one.score(mean) == other.score(mean)


def test_optimizers_that_start_afresh_are_those_of_nodes_one_by_one() -> None:
    one, other = pair(model="cnn", optimizer="adam")
    for round in range(2):
        one.train(round)
        other.train(round)
        one.reset_optimizers()
        other.reset_optimizers()
    same(one, other)


def test_a_vgg_of_larger_images(tmp_path: Path) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(96, 16, 16, 3)), np.arange(96) % 4
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert load_npz(path).classes == 4
    # One step: eight layers with BatchNorm make a rounding of three a thousand times larger.
    options: dict[str, Any] = {"model": "vgg", "model_options": "width=4", "lr": 0.01, "steps": 1}
    options |= {"batch": 32, "split": "iid"}
    one, other = pair(data=str(path), **options)
    near(one.train(0), other.train(0))
    one.re_estimate()
    other.re_estimate()
    same(one, other)


def test_a_transformer_on_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 40)
    # Not Adam: a key's bias has no gradient but rounding, which Adam makes a whole step of.
    options: dict[str, Any] = {
        "context": 8,
        "model_options": "width=8, depth=1, heads=2",
        "optimizer": "sgd",
    }
    one, other = pair(LanguageTrainer, data=str(path), **options)
    for round in range(2):
        near(one.train(round), other.train(round))
    same(one, other)
    assert torch.equal(one.evaluate(), other.evaluate())


def test_chunks_bound_memory_and_change_nothing() -> None:
    rows = []
    for chunk in (1, 2, 64):
        _, crew = pair(model="cnn", chunk=chunk)
        losses = crew.train(0)
        crew.re_estimate()
        rows.append((losses, crew.fleet.parameters, crew.fleet.statistics, crew.evaluate()))
    for other in rows[1:]:
        for found, expected in zip(other, rows[0], strict=True):
            near(found, expected)


def test_shares_of_any_size() -> None:
    """Some smaller than a batch, some larger than a batch for running statistics."""
    options: dict[str, Any] = {"nodes": 5, "split": "quantity", "alpha": 0.2, "limit": 700}
    one, other = pair(model="cnn", **options)
    sizes = [trainer.data_size for trainer in trainers(ClassificationTrainer, **options)]  # type: ignore[attr-defined]
    assert min(sizes) < 8
    assert max(sizes) > 256
    near(one.train(0), other.train(0))
    one.re_estimate()
    other.re_estimate()
    same(one, other)


def test_a_task_held_once_is_the_same_to_the_bit() -> None:
    task = DealtTask.of(load_task("digits", 200), "dirichlet", nodes=NODES, alpha=0.3, seed=0)
    _, apart = pair(model="cnn")
    shared = trainers(ClassificationTrainer, model="cnn", task=task)
    together = Stacked(fleet(shared), shared, 0, chunk=2)
    assert torch.equal(apart.train(0), together.train(0))
    assert torch.equal(apart.fleet.parameters, together.fleet.parameters)


def test_a_study_is_the_same_study() -> None:
    """Neighbours merge models with BatchNorm, and measure running statistics again."""
    moments = []
    for crew in pair(model="cnn"):
        schedule = build_schedule(ScheduleParams(graph="ring"), nodes=NODES, rounds=2, seed=0)
        study = Study(crew=crew, exchange=Here(), rule=Gossip(), schedule=schedule)
        moments.append(list(study.moments()))
    for one, other in zip(*moments, strict=True):
        assert one.accuracies == other.accuracies
        assert one.loss == pytest.approx(other.loss, abs=ROUNDING)
        assert one.trained == pytest.approx(other.trained, rel=1e-4)
        assert one.mixed == pytest.approx(other.mixed, rel=1e-4, abs=ROUNDING)


def test_running_statistics_after_one_step_by_hand() -> None:
    """Nine tenths of zero and one, and a tenth of the batch's own mean and variance."""
    made = trainers(ClassificationTrainer, model="cnn", steps=1)
    crew = Stacked(fleet(made), made, 0)
    before = crew.fleet.parameters.clone()
    crew.train(0)
    for place, trainer in enumerate(made):
        assert isinstance(trainer, ClassificationTrainer)
        batch = trainer.inputs[trainer.batches(0)[0]].unsqueeze(1)
        seen = nn.functional.conv2d(batch, before[place, : 16 * 9].view(16, 1, 3, 3), padding=1)
        channels = seen.transpose(0, 1).flatten(1)
        found = crew.fleet.statistics[place]
        near(found[:16], 0.1 * channels.mean(1))
        near(found[16:32], 0.9 + 0.1 * channels.var(1))


def test_two_crews_are_equal_to_the_bit_and_draw_nothing() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    crews = [pair(model="cnn")[1] for _ in range(2)]
    torch.set_rng_state(state)
    for crew in crews:
        crew.train(0)
        crew.re_estimate()
        crew.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(crews[0].fleet.parameters, crews[1].fleet.parameters)
    assert torch.equal(crews[0].fleet.statistics, crews[1].fleet.statistics)


def test_measuring_changes_no_model() -> None:
    _, crew = pair(model="cnn")
    crew.train(0)
    parameters, statistics = crew.fleet.parameters.clone(), crew.fleet.statistics.clone()
    crew.evaluate()
    crew.score(parameters.mean(0))
    assert torch.equal(crew.fleet.parameters, parameters)
    assert torch.equal(crew.fleet.statistics, statistics)
    crew.re_estimate()
    assert torch.equal(crew.fleet.parameters, parameters)
    assert not torch.equal(crew.fleet.statistics, statistics)


def test_training_that_diverges_says_who_and_when() -> None:
    made = trainers(ClassificationTrainer)
    crew = Stacked(fleet(made), made, 0, chunk=2)
    crew.fleet.parameters[2, 0] = float("nan")
    with pytest.raises(Diverged, match="node 2, round 4"):
        crew.train(4)


def test_statistics_that_are_not_finite_say_who() -> None:
    _, crew = pair(model="cnn")
    crew.fleet.parameters[1, 0] = float("inf")
    with pytest.raises(Diverged, match="node 1: layer 2 saw NaN or infinity"):
        crew.re_estimate()


class Own:
    """A trainer that does not say what its steps are."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return {}


class WithDropout(ClassificationTrainer):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


class Counting(ClassificationTrainer):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 10))


def test_trainers_that_cannot_be_stacked() -> None:
    rows = Fleet.alike(nn.Linear(1, 1), range(1))
    with pytest.raises(BadOption, match="Own does not say what its steps are"):
        Stacked(rows, [Own()], 0)
    with pytest.raises(BadOption, match="chunk = 0"):
        Stacked(rows, [Own()], 0, chunk=0)
    with pytest.raises(BadModel, match="layer 1: dropout draws"):
        pair(WithDropout)
    with pytest.raises(BadModel, match="layer 1: BatchNorm without a momentum"):
        pair(Counting)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adam"}, "optimizers adam, momentum 0.5 and sgd, momentum 0.5"),
        ({"lr": 0.3}, r"learning rates \[0.2, 0.3\]"),
        ({"steps": 4}, r"\(steps, batch\) of \[\(3, 8\), \(4, 8\)\]"),
    ],
)
def test_trainers_that_are_not_alike(options: dict[str, Any], said: str) -> None:
    made = [*trainers(ClassificationTrainer)[:2], trainers(ClassificationTrainer, **options)[2]]
    with pytest.raises(BadOption, match=said):
        Stacked(fleet(made), made, 0).train(0)


def test_moments_for_a_score_that_others_help_with() -> None:
    one, other = pair(model="cnn")
    mean = one.fleet.parameters.mean(0)
    mine, theirs = one.moments(mean), other.moments(mean)
    assert mine.keys() == theirs.keys() == {"2", "6"}
    assert all(torch.equal(mine[name].mean, theirs[name].mean) for name in mine)
    assert other.score_with(mean, theirs) == other.score(mean)
