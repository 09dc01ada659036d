"""Reads what a demo's nodes wrote down: their journals, and what they published.

The nodes must have ended; a journal has one user at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from weft.checkpoints.artifacts import open_contribution, open_model
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.store import Store
from weft.errors import Corrupt
from weft.node.entries import (
    Chosen,
    Committed,
    Entry,
    Evaluated,
    Finished,
    Published,
    Trained,
    from_document,
)
from weft.node.journal import Journal
from weft.node.ledger import KIND as LEDGER
from weft.node.workspace import Workspace
from weft.protocol.run import NodeId, Phase
from weft.simulations.demo.outcome import Happened, Story
from weft.simulations.demo.settings import RUN_NAME, DemoFolder, DemoSettings
from weft.simulations.engines.daemons import Recalled

Value = TypeVar("Value")


def read_story(folder: DemoFolder, node: str) -> Story:
    """One node's life, from its journal.

    Raises:
        Corrupt: the journal does not end with the node's last model.
    """
    entries = _entries(folder, node)
    rounds: dict[int, dict[type[Entry], Any]] = {}
    finished: Finished | None = None
    contributors: tuple[str, ...] = ()
    for entry in entries:
        match entry:
            case Trained() | Published() | Chosen() | Evaluated():
                rounds.setdefault(entry.round, {})[type(entry)] = entry
            case Committed(phase=Phase.PARAMETERS):
                contributors = tuple(name for name, _ in entry.contributors)
            case Finished():
                finished = entry
    if finished is None:
        raise Corrupt(f"the journal of {node} ends before the run does; see {folder.log(node)}")
    return Story(
        node=node,
        rounds=[_happened(node, rounds[round]) for round in sorted(rounds)],
        result=finished.model.removeprefix("object:"),
        accuracy=finished.metrics.get("accuracy", 0.0),
        contributors=contributors,
    )


class PublishedModels:
    """What the nodes trained: contributions in their stores, or files where none were due.

    Args:
        folder: the demo's.
        nodes: whose stores.
        base: digest of the model that contributions are against.
    """

    def __init__(self, folder: DemoFolder, nodes: Sequence[str], base: str) -> None:
        self._workspaces = {name: Workspace(folder.data(name)) for name in nodes}
        self._base = base

    def model(self, node: str, reference: str) -> dict[str, Tensor]:
        """The whole model that a reference of the node's journal stands for."""
        workspace = self._workspaces[node]
        kind, _, digest = reference.partition(":")
        if kind == "file":
            with open_checkpoint(workspace.path(reference)) as reader:
                return _tensors(reader)
        with (
            open_model(workspace.store, self._base) as base,
            open_contribution(workspace.store, digest, base) as reader,
        ):
            return _tensors(reader)

    def size(self, node: str, digest: str) -> int:
        """Bytes of the contribution as it travels."""
        return self._workspaces[node].store.manifest(digest).total_bytes


def recalled(folder: DemoFolder, settings: DemoSettings) -> Recalled:
    """What all nodes of a run that is over wrote down and kept."""
    published = PublishedModels(folder, settings.names, base_digest(folder))
    return Recalled(
        stories=[read_story(folder, name) for name in settings.names],
        model_of=published.model,
        size_of=published.size,
    )


def _tensors(reader: TensorReader) -> dict[str, Tensor]:
    return {spec.name: reader.read(spec.name) for spec in reader.schema}


def base_digest(folder: DemoFolder) -> str:
    """The digest of the base, as the operator put it into its store."""
    (digest,) = Store(folder.outbox).digests()
    return digest


def _entries(folder: DemoFolder, node: str) -> list[Entry]:
    path = Workspace(folder.data(node)).journal
    with Journal.open(path, identity={"run": RUN_NAME, "node": node}) as journal:
        records = journal.entries()
    return [from_document(one.kind, one.data) for one in records if one.kind != LEDGER]


def _happened(node: str, found: Mapping[type[Entry], Any]) -> Happened:
    """A round from its entries; one in which the node talks to nobody keeps its own model."""
    trained: Trained = found[Trained]
    published: Published | None = found.get(Published)
    chosen: Chosen | None = found.get(Chosen)
    evaluated: Evaluated | None = found.get(Evaluated)
    return Happened(
        model=f"object:{published.digest}" if published else trained.model,
        weights=_by_name(chosen.weights) if chosen else {node: 1.0},
        parents=_by_name(chosen.parents) if chosen else {},
        missed=_by_name(chosen.missed) if chosen else {},
        loss=trained.metrics.get("loss"),
        accuracy=evaluated.metrics.get("accuracy") if evaluated else None,
    )


def _by_name(values: Mapping[NodeId, Value]) -> dict[str, Value]:
    return {str(node): value for node, value in values.items()}
