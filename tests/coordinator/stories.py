"""Random stories of a run, as hypothesis tells them: words that nodes and operators say."""

import dataclasses

from hypothesis import strategies as st

from weft.coordinator.membership import advance, create
from weft.coordinator.records import (
    Event,
    Joined,
    LeasesExpired,
    Left,
    Promised,
    Reported,
    RunRecord,
    SetOverdue,
    StateRequested,
    VersionPresented,
)
from weft.errors import WeftError
from weft.protocol.run import (
    Digest,
    GlobalSet,
    MergeSpec,
    NodeId,
    Phase,
    RunSpec,
    RunState,
    members_digest,
)

NODES = tuple(NodeId(name) for name in "abcd")
ROUNDS = 6


def spec(policy: str = "deadline", nodes: int = 3) -> RunSpec:
    merge = MergeSpec.model_validate({"policy": policy})
    return RunSpec(name="quilt", nodes=nodes, rounds=ROUNDS, base="ba" * 32, merge=merge)


def digest_of(node: NodeId, phase: Phase) -> Digest:
    """What a node announces: always the same, as its journal makes sure."""
    return Digest((f"{ord(node):02x}" + ("01" if phase is Phase.PARAMETERS else "02")) * 16)


@dataclasses.dataclass(frozen=True)
class Says:
    """An event that depends on the record it meets, as a node's words do."""

    verb: str
    node: NodeId
    round: int = 0
    others: tuple[NodeId, ...] = ()

    def event(self, record: RunRecord) -> Event:
        match self.verb:
            case "join":
                return Joined(node=self.node, address=f"{self.node}:1")
            case "leave":
                return Left(node=self.node)
            case "expire":
                return LeasesExpired(nodes=self.others)
            case "overdue":
                return SetOverdue(phase=Phase.PARAMETERS, silent=self.others)
            case "promise":
                return self._promise(record)
            case "announce" | "done":
                return self._final_report(record)
            case "pause":
                return StateRequested(state=RunState.PAUSED, operator="olga")
            case "resume":
                return StateRequested(state=RunState.RUNNING, operator="olga")
            case "watch":
                return VersionPresented(node=self.node, version=record.plan.version)
        return self._report(record)

    def _report(self, record: RunRecord) -> Event:
        return Reported(node=self.node, round=self.round, plan_version=record.plan.version)

    def _final_report(self, record: RunRecord) -> Event:
        current = record.plan.epochs[-1].members if record.plan.epochs else ()
        held = tuple(sorted(self.others)) if self.round == 1 else current
        return Reported(
            node=self.node,
            round=ROUNDS,
            members_digest=members_digest(held),
            plan_version=record.plan.version,
            state="done" if self.verb == "done" else "merging",
            announced={phase: digest_of(self.node, phase) for phase in Phase},
            result=Digest("ee" * 32) if self.verb == "done" else None,
        )

    def _promise(self, record: RunRecord) -> Event:
        standing = [*record.plan.proposed, *record.plan.committed]
        empty = GlobalSet(phase=Phase.PARAMETERS, contributors=())
        return Promised(node=self.node, chosen=standing[0] if standing else empty)


VERBS = ("join", "leave", "expire", "overdue", "promise", "announce", "done", "pause", "resume")
WORDS = st.builds(
    Says,
    verb=st.sampled_from([*VERBS, "watch", "report", "report", "announce", "promise"]),
    node=st.sampled_from(NODES),
    round=st.integers(0, ROUNDS),
    others=st.lists(st.sampled_from(NODES), unique=True).map(tuple),
)
STORIES = st.lists(WORDS, min_size=1, max_size=60)
POLICIES = st.sampled_from(["wait", "deadline"])


def told(policy: str, story: list[Says]) -> list[tuple[Event, RunRecord, RunRecord]]:
    """Each event with the record before and after it; refused ones are left out."""
    record = create(spec(policy), at=1.0)
    steps = []
    for words in [*(Says("join", node) for node in NODES[:2]), *story]:
        event = words.event(record)
        try:
            after = advance(record, event)
        except WeftError:
            continue
        steps.append((event, record, after))
        record = after
    return steps
