"""What a node's journal holds: every event and decision of its life.

The entries are the node's durable state: a machine that applies them in order
is where the node was. Nothing here knows a file or a socket.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from pydantic import TypeAdapter

from weft.errors import Corrupt
from weft.protocol.run import Digest, NodeId, Phase, Plan

_PLAN = TypeAdapter(Plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One journal entry; `kind` names its class in the journal."""

    kind: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Entry):
    """The coordinator took this node in; `spec` is the run's canonical JSON."""

    kind: ClassVar[str] = "joined"
    spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeld(Entry):
    """A newer plan (canonical JSON), to go on with while the coordinator is away."""

    kind: ClassVar[str] = "plan"
    plan: str

    @staticmethod
    def of(plan: Plan) -> "PlanHeld":
        """The entry that holds this plan."""
        return PlanHeld(plan=_PLAN.dump_json(plan).decode())

    def held(self) -> Plan:
        """The plan that the entry holds."""
        return _PLAN.validate_json(self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Entry):
    """Where the rounds begin: the first round and the model it starts from."""

    kind: ClassVar[str] = "started"
    round: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBegun(Entry):
    """A training of the round is about to start (again, after a kill)."""

    kind: ClassVar[str] = "training"
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Entry):
    """The round is trained; its model file is durable."""

    kind: ClassVar[str] = "trained"
    round: int
    model: str
    state: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Entry):
    """This node's contribution to the round, and its edges: whom it hears, who hears it."""

    kind: ClassVar[str] = "published"
    round: int
    digest: Digest
    members_digest: Digest
    row: Mapping[NodeId, float]
    listeners: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Entry):
    """What arrived and was accepted, and why the rest was not.

    Where the run aligns, `aligned` names for each of the accepted its model in this node's
    order of units, in the store, and `moved` the share of its units that changed places.
    """

    kind: ClassVar[str] = "judged"
    round: int
    accepted: Mapping[NodeId, Digest]
    missed: Mapping[NodeId, str]
    aligned: Mapping[NodeId, Digest] = field(default_factory=dict)
    moved: Mapping[NodeId, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Entry):
    """Whose contributions are merged, with which weights (own included).

    `aligned`: what stands in for a parent's contribution where the run aligns.
    """

    kind: ClassVar[str] = "chosen"
    round: int
    parents: Mapping[NodeId, Digest]
    weights: Mapping[NodeId, float]
    missed: Mapping[NodeId, str]
    aligned: Mapping[NodeId, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(Entry):
    """The round's merged model, in the store."""

    kind: ClassVar[str] = "merged"
    round: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Entry):
    """The end of a round, with what the trainer measured on its model."""

    kind: ClassVar[str] = "evaluated"
    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced(Entry):
    """This node's contribution to a phase of the global merge, under a frozen list."""

    kind: ClassVar[str] = "announced"
    phase: Phase
    digest: Digest
    members: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised(Entry):
    """This node will merge that set and no other, as the coordinator proposed."""

    kind: ClassVar[str] = "promised"
    phase: Phase
    contributors: tuple[tuple[NodeId, Digest], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Entry):
    """The set that is merged: final."""

    kind: ClassVar[str] = "committed"
    phase: Phase
    contributors: tuple[tuple[NodeId, Digest], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded(Entry):
    """The global merge of the parameters, in the store."""

    kind: ClassVar[str] = "folded"
    model: str
    has_statistics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Entry):
    """The node's last model and what the trainer measured on it."""

    kind: ClassVar[str] = "finished"
    model: str
    metrics: Mapping[str, float] = field(default_factory=dict)


_KINDS: dict[str, type[Entry]] = {
    entry.kind: entry
    for entry in (
        Joined, PlanHeld, Started, TrainingBegun, Trained, Published, Judged, Chosen, Merged,
        Evaluated, Announced, Promised, Committed, Folded, Finished,
    )
}  # fmt: skip


def to_document(entry: Entry) -> dict[str, Any]:
    """The entry's fields as JSON values; its kind is kept beside it."""
    return asdict(entry)


def from_document(kind: str, document: Mapping[str, Any]) -> Entry:
    """Rebuild an entry that `to_document` wrote.

    Raises:
        Corrupt: a kind that this version does not know, or other fields.
    """
    known = _KINDS.get(kind)
    if known is None:
        raise Corrupt(f"journal: entry of unknown kind {kind!r}; written by a newer weft?")
    names = {item.name for item in fields(known)}
    if not set(document) <= names:
        extra = sorted(set(document) - names)
        raise Corrupt(f"journal: entry {kind!r} holds unknown fields {extra}")
    return known(**{name: _restored(name, value) for name, value in document.items()})


def _restored(name: str, value: Any) -> Any:
    # JSON has neither tuples nor enums; these four fields are the only ones.
    if name == "contributors":
        return tuple((node, digest) for node, digest in value)
    if name in ("members", "listeners"):
        return tuple(value)
    return Phase(value) if name == "phase" else value
