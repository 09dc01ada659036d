"""What the coordinator keeps of a run, and what can happen to it: values only.

A `RunRecord` is everything that must outlive the coordinator's process. It
changes only through `weft.coordinator.membership.advance`, one event at a time;
what is only for people (metrics, bytes, the last message of a node) is not in
it, and neither is any time but the wall-clock time of its making.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.protocol.run import (
    Digest,
    GlobalSet,
    NodeId,
    Phase,
    Plan,
    Report,
    RunName,
    RunSpec,
    RunState,
)

DONE = "done"
"""The state that a node reports once its part in the run is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """What a node has said, beyond its address (which is in the plan).

    `round` is the highest round that it reported; it is the one field that may
    be lost in a crash, because the node's next report brings it again.
    `members_digest` names the list of members under which it announced, `serial`
    the certificate with which it joined last (empty: an older version did not say).
    """

    node: NodeId
    round: int = 0
    left: bool = False
    dropped: bool = False
    done: bool = False
    result: Digest | None = None
    announced: Mapping[Phase, Digest] = field(default_factory=dict)
    members_digest: Digest | None = None
    promised: Mapping[Phase, Digest] = field(default_factory=dict)
    serial: str = ""

    @property
    def gone(self) -> bool:
        """It asked to leave, or was dropped, and has not come back."""
        return self.left or self.dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as the coordinator keeps it.

    `revision` rises by one with each durable change, `plan.version` with each
    change that others can see. `ahead` is the plan version of a node that holds
    a newer plan than this record: the database is an old copy, and the run is
    halted until the right one is back (0: not so).
    """

    spec: RunSpec
    plan: Plan
    created_at: float
    revision: int = 1
    members: Mapping[NodeId, MemberRecord] = field(default_factory=dict)
    message: str = ""
    ahead: int = 0

    @property
    def name(self) -> RunName:
        """The run's name."""
        return self.plan.run

    @property
    def halted(self) -> bool:
        """A node holds a newer plan than this record."""
        return self.ahead > 0

    @property
    def present(self) -> tuple[NodeId, ...]:
        """The members that neither left nor were dropped, sorted."""
        return tuple(sorted(node for node, member in self.members.items() if not member.gone))

    @property
    def highest_round(self) -> int:
        """The highest round that a member reported, gone or not."""
        return max((member.round for member in self.members.values()), default=0)

    def holders_of(self, serials: Collection[str]) -> tuple[NodeId, ...]:
        """The members present that joined with one of these certificates, sorted."""
        named = set(serials) - {""}
        return tuple(node for node in self.present if self.members[node].serial in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """An operator made the run."""

    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A node joins, or comes back; empty digests: it does not hold a model yet."""

    node: NodeId
    address: str
    data_size: int = 0
    base_digest: str = ""
    schema_digest: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A node tells where it is: what of its report can change the run."""

    node: NodeId
    round: int
    plan_version: int
    state: str = ""
    announced: Mapping[Phase, Digest] = field(default_factory=dict)
    members_digest: Digest | None = None
    result: Digest | None = None

    @classmethod
    def of(cls, node: NodeId, report: Report) -> "Reported":
        """The part of a report that counts here; figures and words are for people."""
        return cls(
            node=node,
            round=report.round,
            plan_version=report.plan_version,
            state=report.state,
            announced=dict(report.announced),
            members_digest=report.members_digest,
            result=report.result,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPresented:
    """A node says which version of the plan it holds, as it starts to watch."""

    node: NodeId
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A node leaves of its own will."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesExpired:
    """All members whose leases are over now (not only the new ones)."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOverdue:
    """A global set was to be committed `deadline_s` ago; `silent` as LeasesExpired."""

    phase: Phase
    silent: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A node promises to merge the proposed set."""

    node: NodeId
    chosen: GlobalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRequested:
    """An operator pauses, resumes or stops the run."""

    state: RunState
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """Serial numbers of all certificates that are revoked now."""

    serials: tuple[str, ...]


Event: TypeAlias = (
    Joined
    | Reported
    | VersionPresented
    | Left
    | LeasesExpired
    | SetOverdue
    | Promised
    | StateRequested
    | Revoked
)
