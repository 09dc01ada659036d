"""Engines of one cell: the same study to rounding, and the same bits where that is said."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.simulations.experiments.documents import read, tiny
from weft.errors import InvalidInput
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments import build, engines
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.records import Record
from weft.simulations.experiments.runner import perform
from weft.simulations.experiments.settings import EngineName
from weft.simulations.experiments.starts import fleet_of
from weft.simulations.experiments.trainers import trainer

OWN = {
    "trainer": "weft.simulations.tasks.classification:ClassificationTrainer",
    "options": {
        "node": "{node}",
        "nodes": "{nodes}",
        "seed": "{seed}",
        "steps": 1,
        "batch": 8,
        "limit": 60,
    },
}


def cell(engine: str = "local", **task: object) -> Cell:
    document = tiny(experiment={"engine": engine, "seeds": 0}, task={"nodes": 9, **task})
    return read(document).cells[0]


def same(one: Record, other: Record, *, within: float) -> None:
    for here, there in zip(one.moments, other.moments, strict=True):
        assert here.messages == there.messages
        assert here.bytes == there.bytes
        assert here.trained == pytest.approx(there.trained, rel=within)
        assert here.mixed == pytest.approx(there.mixed, rel=within)
        assert here.loss == pytest.approx(there.loss, rel=within)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_stacked_is_local_to_rounding(model: str) -> None:
    same(perform(cell(model=model)), perform(cell("stacked", model=model)), within=2e-4)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_small_studies_stay_in_this_process_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = perform(cell())
    monkeypatch.setattr(engines, "SMALL", 0)
    assert perform(cell()).moments == here.moments


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_a_trainer_of_ones_own_goes_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"experiment": {"name": "own", "rounds": 2}, "task": {"nodes": 3, **OWN}}
    own = perform(read(document, tmp_path).cells[0])
    same(own, perform(cell(nodes=3)), within=1e-6)


def test_only_what_is_small_stays() -> None:
    assert engines.is_small(cell(), 9610)
    assert not engines.is_small(cell(steps=100_000), 9610)


def test_ranks_are_asked_for_where_there_are_none() -> None:
    with pytest.raises(BadExperiment, match="start it with torchrun"):
        perform(cell("distributed"))


def test_nodes_start_together_or_apart() -> None:
    together = fleet_of(cell(), trainer(cell(), 0)).parameters
    apart = cell(starts="apart")
    rows, again = (fleet_of(apart, trainer(apart, 0)).parameters for _ in range(2))
    assert torch.equal(together, together[:1].expand_as(together))
    assert torch.equal(rows, again)
    assert all(not torch.allclose(rows[0], row) for row in rows[1:])


@pytest.mark.parametrize("engine", ["local", "stacked"])
def test_nodes_that_start_apart_are_aligned(engine: str) -> None:
    document = tiny(
        experiment={"engine": engine, "seeds": 0},
        task={"starts": "apart"},
        learning={"rule": "dimat", "optimizer": "reset"},
    )
    moments = perform(read(document).cells[0]).moments
    assert min(moment.moved for moment in moments) > 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"learning": {"rule": "dimat"}}, "learning.rule: found dimat with the engine distributed"),
        ({"task": {"starts": "apart"}}, "task.starts: found apart with the engine distributed"),
    ],
)
def test_ranks_neither_align_nor_start_apart(
    sections: dict[str, dict[str, str]], message: str
) -> None:
    document = tiny(**{"experiment": {"engine": "distributed"}, **sections})
    with pytest.raises(BadExperiment, match=message):
        build.engine_of(read(document).cells[0])


def test_every_engine_that_can_be_named_is_there_or_refused() -> None:
    for name in get_args(EngineName):
        if name not in engines.ENGINES:
            with pytest.raises(BadExperiment, match=f"found '{name}', which is not here"):
                build.engine_of(cell(name))
    assert set(engines.ENGINES) <= set(get_args(EngineName))


def test_weights_by_data_know_how_much_each_node_has() -> None:
    document = tiny(topology={"graph": "complete", "weights": "hastings"})
    schedule = build.schedule_of(read(document).cells[0])
    sizes = schedule.target * 60 / schedule.target.sum()
    assert sizes.sum() == pytest.approx(60)
    assert sizes.tolist() == pytest.approx([round(size) for size in sizes], abs=1e-9)
    assert len(set(sizes.round().tolist())) > 1


def test_weights_by_data_want_a_trainer_that_knows(tmp_path: Path) -> None:
    (tmp_path / "sizeless.py").write_text(
        "class Sizeless:\n"
        "    def __init__(self, node): pass\n"
        "    def model(self): pass\n"
        "    def train(self, model, round): pass\n"
    )
    document = {
        "experiment": {"name": "own"},
        "task": {"nodes": 2, "trainer": "sizeless:Sizeless", "options": {"node": "{node}"}},
        "topology": {"weights": "hastings"},
    }
    with pytest.raises(InvalidInput, match="the trainer has no data_size"):
        build.schedule_of(read(document, tmp_path).cells[0])


@pytest.mark.parametrize(
    ("learning", "said"),
    [({}, "journals that only the command"), ({"rule": "diloco"}, "with the rule 'diloco'")],
)
def test_what_daemons_cannot_do_here_is_said(learning: dict[str, str], said: str) -> None:
    document = tiny(experiment={"engine": "daemons", "seeds": 0}, learning=learning)
    with pytest.raises(BadExperiment, match=said):
        perform(read(document).cells[0])
