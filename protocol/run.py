"""What a run is: its specification, its plan, and what its nodes report.

Frozen values that node, coordinator and command line share; nothing here knows
bytes, sockets or clocks. The specification is fixed when the run is created and
known by its digest; the plan is what changes while it goes: the state, the
members, and the log of membership epochs. Edges are in neither: they follow
from the specification, the epoch's members and the round.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType, TypeAlias

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.errors import Refused

NodeId = NewType("NodeId", str)
RunName = NewType("RunName", str)
Digest = NewType("Digest", str)
Round = NewType("Round", int)

Scalar: TypeAlias = bool | int | float | str
Align: TypeAlias = Literal["none", "activations", "weights"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MergeSpec(_Section):
    """How neighbours merge.

    `mode`: a round ends with the merge of its contributions ("rounds"), or with the head
    of a stream of the node's own that takes them in ("continual").

    `align`: a node brings its neighbours' units into the order of its own before it merges
    them, by what they do on its calibration data or by their weights.
    """

    mode: Literal["rounds", "continual"] = "rounds"
    align: Align = "none"
    method: str = "mean"
    options: dict[str, Scalar] = Field(default_factory=dict)
    policy: Literal["wait", "deadline"] = "wait"
    deadline_s: float = Field(default=60.0, gt=0)
    optimizer: Literal["keep", "reset"] = "keep"
    codec: Literal["raw", "lossless"] = "lossless"
    retain_rounds: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _aligned_by_rounds(self) -> "MergeSpec":
        if self.aligns and self.mode == "continual":
            raise ValueError(
                f"align = '{self.align}' goes with mode = 'rounds': a stream keeps contributions in"
                " the order of units in which they came"
            )
        return self

    @property
    def aligns(self) -> bool:
        """Whether units are brought into one order before a merge."""
        return self.align != "none"


class TopologySpec(_Section):
    """Who could talk to whom, and with which weights."""

    graph: str = "ring"
    options: dict[str, Scalar] = Field(default_factory=dict)
    weights: str = "own"


class ScheduleSpec(_Section):
    """When they do: the name of a schedule and its options."""

    name: str = "every"
    options: dict[str, Scalar] = Field(default_factory=dict)


class GuardSpec(_Section):
    """What a contribution must pass before it is merged."""

    norm_ratio: float | None = Field(default=10.0, gt=1)
    cosine: float | None = Field(default=None, ge=-1, le=1)
    score_metric: str | None = None
    score_drop: float = Field(default=0.0, ge=0)


class FinalSpec(_Section):
    """The single global merge after the last round."""

    enabled: bool = True
    method: str = "mean"
    options: dict[str, Scalar] = Field(default_factory=dict)
    weights: Literal["uniform", "data_size"] = "uniform"


class RunSpec(_Section):
    """A run as it was asked for: immutable, known by its digest.

    Either `base` names the artifact that every node starts from and every
    contribution is taken against, or it is None: the run has a schema only, its
    nodes start apart, and contributions travel whole; `merge.align` is for those.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    nodes: int = Field(ge=1, le=10_000)
    rounds: int = Field(ge=0)
    seed: int = Field(default=0, ge=0)
    base: str | None = None
    schema_digest: str | None = None
    lease_s: float = Field(default=30.0, gt=0)
    merge: MergeSpec = Field(default_factory=MergeSpec)
    topology: TopologySpec = Field(default_factory=TopologySpec)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    guards: GuardSpec = Field(default_factory=GuardSpec)
    final: FinalSpec = Field(default_factory=FinalSpec)

    @model_validator(mode="after")
    def _base_or_schema(self) -> "RunSpec":
        if self.base is None and self.schema_digest is None:
            raise ValueError("a run needs a base, or a schema where its nodes start apart")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        document = self.model_dump(mode="json")
        # Younger than the format: a run that does without keeps the digest that it had
        # (seeds follow from it), and nodes that do not know the key can take part.
        if self.merge.mode == "rounds":
            del document["merge"]["mode"]
        if not self.merge.aligns:
            del document["merge"]["align"]
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "RunSpec":
        """Parse what `to_bytes` wrote; pydantic's errors say what is wrong."""
        return RunSpec.model_validate_json(data)

    @property
    def digest(self) -> Digest:
        """Blake3 of the canonical bytes, hexadecimal."""
        return Digest(blake3(self.to_bytes()).hexdigest())


class RunState(StrEnum):
    """Where a run is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"


class Phase(StrEnum):
    """The sets that a global merge commits, one after the other.

    The second one where the run aligns: what those of the first set offer once their units
    are in one order.
    """

    PARAMETERS = "parameters"
    ALIGNED = "aligned"
    STATISTICS = "statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node of a run, and where the others reach it."""

    node: NodeId
    address: str
    data_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A list of members, sorted, and the first round for which it holds."""

    number: int
    from_round: int
    members: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSet:
    """Whose contributions a global merge folds: (node, digest), sorted by node."""

    phase: Phase
    contributors: tuple[tuple[NodeId, Digest], ...]

    @property
    def digest(self) -> Digest:
        """Blake3 of the phase and the sorted pairs, hexadecimal."""
        document = json.dumps([self.phase, [list(pair) for pair in self.contributors]])
        return Digest(blake3(document.encode()).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Version of a run: its state, its members, the log of its epochs."""

    run: RunName
    version: int
    state: RunState
    members: tuple[Member, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    proposed: tuple[GlobalSet, ...] = ()
    committed: tuple[GlobalSet, ...] = ()
    revoked: frozenset[str] = frozenset()

    def epoch_of(self, round: int) -> Epoch:
        """The epoch that holds for a round: the last one that starts at or before it."""
        holding = [epoch for epoch in self.epochs if epoch.from_round <= round]
        if not holding:
            raise Refused(f"run {self.run}: no members are planned for round {round} yet")
        return holding[-1]

    def member(self, node: NodeId) -> Member | None:
        """The member of that name, or None."""
        return next((member for member in self.members if member.node == node), None)

    def committed_set(self, phase: Phase) -> GlobalSet | None:
        """The set that the coordinator committed for a phase, or None."""
        return next((chosen for chosen in self.committed if chosen.phase == phase), None)


def members_digest(members: tuple[NodeId, ...]) -> Digest:
    """What two nodes compare to know that they hold the same frozen list."""
    return Digest(blake3(json.dumps(list(members)).encode()).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a node tells the coordinator; renews its lease."""

    state: str
    round: int
    plan_version: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    merges_adopted: int = 0
    merges_rejected: int = 0
    message: str = ""
    announced: Mapping[Phase, Digest] = field(default_factory=dict)
    result: Digest | None = None
    members_digest: Digest | None = None
