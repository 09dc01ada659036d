"""What people are shown of a run: one value, for the wire, the page and the metrics.

Nothing here decides anything. A document is plain JSON; its keys are stable.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from weft.coordinator.records import DONE, MemberRecord
from weft.coordinator.runs import LiveRun
from weft.protocol.run import NodeId, Report, RunName, RunSpec, RunState

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """A member as the coordinator sees it now."""

    node: NodeId
    address: str
    report: Report
    silent_s: float
    lease_valid: bool
    left: bool
    dropped: bool

    @property
    def is_away(self) -> bool:
        """Not heard of for longer than its lease, and not gone of its own will."""
        return not self.left and not self.lease_valid


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run as the coordinator sees it now."""

    name: RunName
    spec: RunSpec
    state: RunState
    version: int
    round: int
    created_at: float
    message: str
    halted: bool
    members: tuple[MemberStatus, ...]


def status_of(live: LiveRun, now: float) -> RunStatus:
    """A run's status at a moment of the monotonic clock.

    Of a member that has not reported since the coordinator started, the report
    holds what is kept of it, with an empty state.
    """
    record = live.record
    return RunStatus(
        name=record.name,
        spec=record.spec,
        state=record.plan.state,
        version=record.plan.version,
        round=record.highest_round,
        created_at=record.created_at,
        message=record.message,
        halted=record.halted,
        members=tuple(
            MemberStatus(
                node=member.node,
                address=member.address,
                report=live.reports.get(member.node) or _kept(record.members[member.node]),
                silent_s=live.leases.silent_s(member.node, now),
                lease_valid=live.leases.is_valid(member.node, now),
                left=record.members[member.node].left,
                dropped=record.members[member.node].dropped,
            )
            for member in record.plan.members
        ),
    )


def document(status: RunStatus) -> dict[str, Json]:
    """A run's status as JSON."""
    return {
        "run": status.name,
        "state": status.state.value,
        "version": status.version,
        "round": status.round,
        "rounds": status.spec.rounds,
        "nodes": status.spec.nodes,
        "created_at": datetime.fromtimestamp(status.created_at, UTC).isoformat(),
        "message": status.message,
        "members": [_member(member) for member in status.members],
    }


def _member(member: MemberStatus) -> dict[str, Json]:
    report = member.report
    return {
        "node": member.node,
        "address": member.address,
        "state": report.state,
        "round": report.round,
        "plan_version": report.plan_version,
        "silent_s": round(member.silent_s, 1),
        "lease_valid": member.lease_valid,
        "left": member.left,
        "dropped": member.dropped,
        "message": report.message,
        "metrics": {name: _finite(value) for name, value in sorted(report.metrics.items())},
        "bytes_sent": report.bytes_sent,
        "bytes_received": report.bytes_received,
        "merges_adopted": report.merges_adopted,
        "merges_rejected": report.merges_rejected,
        "result": report.result,
    }


def _kept(member: MemberRecord) -> Report:
    return Report(
        state=DONE if member.done else "",
        round=member.round,
        plan_version=0,
        announced=member.announced,
        result=member.result,
    )


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
