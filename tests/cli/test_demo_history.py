"""A node's story, read from a journal and a store that are made here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from weft.checkpoints.artifacts import put_delta, put_model
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint
from weft.cli.demo_history import PublishedModels, base_digest, read_story
from weft.errors import Corrupt
from weft.node.entries import (
    Chosen,
    Committed,
    Entry,
    Evaluated,
    Finished,
    Published,
    Trained,
    TrainingBegun,
    to_document,
)
from weft.node.journal import Journal
from weft.node.workspace import Workspace
from weft.protocol.run import Digest, NodeId, Phase
from weft.simulations.demo.settings import RUN_NAME, DemoFolder

ME, OTHER = NodeId("node-1"), NodeId("node-2")
OWN, THEIRS, RESULT = Digest("11" * 32), Digest("22" * 32), Digest("33" * 32)


def write(folder: DemoFolder, *entries: Entry) -> None:
    path = Workspace(folder.data(ME)).journal
    with Journal.open(path, identity={"run": RUN_NAME, "node": ME}) as journal:
        for entry in entries:
            journal.append(entry.kind, to_document(entry))
        journal.append("ledger", {"any": "thing"})


def a_round(round: int, **changes: Any) -> list[Entry]:
    return [
        TrainingBegun(round=round),
        Trained(round=round, model=f"file:rounds/{round:06d}/t", metrics={"loss": 0.5}),
        Published(
            round=round,
            digest=OWN,
            members_digest=Digest("aa" * 32),
            row={ME: 0.5, OTHER: 0.5},
            listeners=(OTHER,),
        ),
        Chosen(
            round=round,
            parents={ME: OWN, OTHER: THEIRS},
            weights={ME: 0.5, OTHER: 0.5},
            missed=changes.get("missed", {}),
        ),
        Evaluated(round=round, metrics={"accuracy": 0.25}),
    ]


END: list[Entry] = [
    Committed(phase=Phase.PARAMETERS, contributors=((ME, OWN), (OTHER, THEIRS))),
    Finished(model=f"object:{RESULT}", metrics={"accuracy": 0.75}),
]


def test_a_story(tmp_path: Path) -> None:
    folder = DemoFolder(path=tmp_path)
    write(folder, *a_round(0), *a_round(1, missed={OTHER: "late"}), *END)
    story = read_story(folder, ME)
    assert len(story.rounds) == 2
    assert story.rounds[0].model == f"object:{OWN}"
    assert story.rounds[0].weights == {"node-1": 0.5, "node-2": 0.5}
    assert story.rounds[0].parents == {"node-1": OWN, "node-2": THEIRS}
    assert (story.rounds[0].loss, story.rounds[0].accuracy) == (0.5, 0.25)
    assert story.rounds[1].missed == {"node-2": "late"}
    assert (story.result, story.accuracy) == (RESULT, 0.75)
    assert story.contributors == ("node-1", "node-2")


def test_a_round_with_nobody_to_talk_to(tmp_path: Path) -> None:
    folder = DemoFolder(path=tmp_path)
    trained = Trained(round=0, model="file:rounds/000000/trained.safetensors")
    write(folder, TrainingBegun(round=0), trained, Evaluated(round=0), *END)
    (done,) = read_story(folder, ME).rounds
    assert done.model == trained.model
    assert done.weights == {"node-1": 1.0}
    assert done.parents == {}
    assert done.loss is None


def test_a_story_without_an_end(tmp_path: Path) -> None:
    folder = DemoFolder(path=tmp_path)
    write(folder, *a_round(0))
    with pytest.raises(Corrupt, match="ends before the run does"):
        read_story(folder, ME)


def test_models_from_store_and_file(tmp_path: Path) -> None:
    folder = DemoFolder(path=tmp_path)
    base, trained = {"w": torch.zeros(3)}, {"w": torch.tensor([1.0, 2.0, 3.0])}
    write_checkpoint(tmp_path / "base.safetensors", base)
    workspace = Workspace(folder.data(ME))
    file = workspace.round_folder(0) / "trained.safetensors"
    write_checkpoint(file, trained)
    with open_checkpoint(tmp_path / "base.safetensors") as base_reader:
        against = put_model(workspace.store, base_reader)
        assert put_model(Store(folder.outbox), base_reader) == base_digest(folder) == against
        with open_checkpoint(file) as reader:
            delta = put_delta(workspace.store, reader, base_reader, against, "lossless")
    published = PublishedModels(folder, [ME], against)
    for reference in (f"object:{delta}", workspace.reference(file)):
        assert published.model(ME, reference)["w"].tolist() == [1.0, 2.0, 3.0]
    assert published.size(ME, delta) > 0
