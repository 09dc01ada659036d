"""Figures by hand, and a whole demo examined without any process."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.simulations.demo.stories import ONE, TWO, outcome, story
from tests.simulations.rehearsal import rehearse
from weft.simulations.demo.outcome import (
    Happened,
    Story,
    Traffic,
    edge_bytes,
    examine,
    mixed_model,
)
from weft.simulations.demo.settings import DemoSettings
from weft.simulations.references import TaskOptions, initial_model
from weft.topology.schedules import ScheduleParams


def test_document_by_hand() -> None:
    document = outcome().document()
    assert document["local_only"] == pytest.approx(0.5)
    assert document["local_only_by_node"] == [0.4, 0.6]
    assert document["neighbour_merged"] == pytest.approx(0.9)
    assert document["global_merged"] == pytest.approx(0.95)
    assert document["central"] == 0.96
    assert document["bytes_sent"] == 30
    assert document["bytes_received_by_node"] == [20, 0]
    assert document["missed_edges"] == 1
    share = outcome().adopted_share
    assert document["adopted_share"] == share
    assert share is not None
    assert 0 < share < 1
    assert document["merged_digest"] == "ee" * 32
    assert json.loads(json.dumps(document)) == document


def test_nodes_that_disagree_have_no_digest() -> None:
    stories = [story("node-1", "node-2"), story("node-2", "node-1", result="dd" * 32)]
    assert not outcome(stories=stories).agreed
    assert outcome(stories=stories).document()["merged_digest"] is None


def test_mixed_model_by_hand() -> None:
    models = {
        "a": {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(4)},
        "b": {"w": torch.tensor([3.0, 5.0]), "n": torch.tensor(6)},
        "c": {"w": torch.tensor([100.0, 100.0]), "n": torch.tensor(8)},
    }
    mixed = mixed_model(models, {"a": 0.75, "b": 0.25})
    assert mixed["w"].tolist() == [1.5, 3.5]
    assert set(mixed) == {"w"}
    assert mixed_model(models, {"a": 2.0, "b": 2.0})["w"].tolist() == [2.0, 4.0]


def test_edge_bytes_count_what_travelled() -> None:
    sizes = {("node-1", TWO): 5, ("node-2", TWO): 7}
    moved = edge_bytes(outcome().stories, lambda node, digest: sizes[node, digest])
    # Each took the other's second artifact once; nobody's own counts.
    assert moved == {("node-2", "node-1"): 7, ("node-1", "node-2"): 5}


def test_examine_agrees_with_the_rehearsal() -> None:
    """Stories told by a rehearsal lead to the rehearsal's own distances."""
    settings = DemoSettings(nodes=2, rounds=1, task=TaskOptions(nodes=2, steps=3))
    trainers = [settings.task.trainer(node) for node in range(2)]
    models: dict[str, Mapping[str, Tensor]] = {}
    for name, trainer in zip(settings.names, trainers, strict=True):
        model = initial_model(trainer, settings.task.seed)
        trainer.train(model, 0)
        models[name] = model.state_dict()
    half = dict.fromkeys(settings.names, 0.5)
    stories = [
        Story(
            node=name,
            rounds=[Happened(model=f"object:{ONE}", weights=half, accuracy=0.5)],
            result=TWO,
            accuracy=0.5,
        )
        for name in settings.names
    ]
    found = examine(
        settings,
        stories,
        model_of=lambda node, reference: models[node],
        size_of=lambda node, digest: 1,
        traffic=Traffic(sent={}, received={}),
        seconds=1.0,
    )
    rehearsed = rehearse(settings.task, ScheduleParams(graph="ring"), rounds=1)
    assert list(found.before) == pytest.approx([rehearsed.distances[0][0]])
    assert list(found.after) == pytest.approx([0.0], abs=1e-9)
    assert found.counterfactual == [rehearsed.final]
    assert len(found.alone) == 2
    assert len(found.together) == 1
