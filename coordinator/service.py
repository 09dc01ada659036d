"""The service Coordinator: parse, call, answer. Who may call what is the gate's to say.

Each method is a few lines; what they mean is in `weft.coordinator.membership`, what
makes them durable in `weft.coordinator.runs`. A caller is who its certificate says.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from weft.checkpoints.store import Store
from weft.coordinator import specifications
from weft.coordinator.errors import BadReport
from weft.coordinator.records import Joined, Left, Promised, StateRequested, VersionPresented
from weft.coordinator.runs import Runs
from weft.coordinator.statuses import MemberStatus, status_of
from weft.protocol.convert import (
    address_of,
    digest_or_none,
    global_set_of,
    node_of,
    plan_message,
    report_message,
    report_of,
    run_name_of,
    spec_of,
    state_of,
)
from weft.protocol.identity import Role, identity_of
from weft.protocol.run import NodeId, Report, RunName, RunSpec
from weft.protocol.threads import in_thread
from weft.protocol.upload import receive_artifact
from weft.protocol.v1 import coordinator_pb2 as wire
from weft.protocol.v1.coordinator_pb2_grpc import CoordinatorServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

KEEPALIVE_S: Final = 10.0
_KEEPALIVE_RANGE_S: Final = (0.2, 60.0)
_METRICS: Final = 256
_CHARACTERS: Final = 1000


class CoordinatorService(CoordinatorServicer):
    """What nodes and operators may ask of the coordinator."""

    def __init__(self, runs: Runs, store: Store) -> None:
        self._runs = runs
        self._store = store

    async def Join(self, request: wire.JoinRequest, context: Context) -> wire.JoinReply:  # noqa: N802
        """A node joins a run, or comes back to it."""
        event = Joined(
            node=_node(context),
            address=address_of(request.address),
            data_size=request.data_size,
            base_digest=digest_or_none(request.base_digest, "base_digest") or "",
            schema_digest=digest_or_none(request.schema_digest, "schema_digest") or "",
            serial=identity_of(context).serial,
        )
        record = await self._runs.happen(run_name_of(request.run), event)
        return wire.JoinReply(
            spec=record.spec.to_bytes(),
            plan=plan_message(record.plan),
            lease_s=record.spec.lease_s,
        )

    async def Watch(  # noqa: N802
        self, request: wire.WatchRequest, context: Context
    ) -> AsyncGenerator[wire.Plan, None]:
        """Plans newer than the one that the caller holds, for ever."""
        run, version = run_name_of(request.run), request.version
        if identity_of(context).role is Role.NODE:
            await self._runs.happen(run, VersionPresented(node=_node(context), version=version))
        keepalive_s = _keepalive_s(request.keepalive_s)
        while True:
            plan = await self._runs.newer_plan(run, version=version, timeout_s=keepalive_s)
            version = plan.version
            yield plan_message(plan)

    async def Report(self, request: wire.ReportRequest, context: Context) -> wire.ReportReply:  # noqa: N802
        """How a node is doing; renews its lease."""
        run, report = run_name_of(request.run), _bounded(report_of(request))
        record = await self._runs.report(run, _node(context), report)
        return wire.ReportReply(plan_version=record.plan.version)

    async def Promise(self, request: wire.PromiseRequest, context: Context) -> wire.PromiseReply:  # noqa: N802
        """A node promises to merge the set that is proposed."""
        event = Promised(node=_node(context), chosen=global_set_of(request.set))
        await self._runs.happen(run_name_of(request.run), event)
        return wire.PromiseReply()

    async def Leave(self, request: wire.LeaveRequest, context: Context) -> wire.LeaveReply:  # noqa: N802
        """A node leaves its run."""
        await self._runs.happen(run_name_of(request.run), Left(node=_node(context)))
        return wire.LeaveReply()

    async def CreateRun(  # noqa: N802
        self, request: wire.CreateRunRequest, context: Context
    ) -> wire.CreateRunReply:
        """An operator makes a run; its base is here already."""
        spec = spec_of(request.spec)
        await self._pin(spec)
        await in_thread(specifications.check, spec, self._store)
        record = await self._runs.create(spec)
        return wire.CreateRunReply(run=record.name)

    async def ListRuns(self, request: wire.ListRunsRequest, context: Context) -> wire.ListRunsReply:  # noqa: N802
        """All runs, a line each."""
        records = [live.record for live in self._runs.all()]
        return wire.ListRunsReply(
            runs=[
                wire.RunSummary(
                    run=record.name,
                    state=record.plan.state,
                    members=len(record.present),
                    round=record.highest_round,
                    rounds=record.spec.rounds,
                    created_at=record.created_at,
                )
                for record in records
            ]
        )

    async def GetRun(self, request: wire.GetRunRequest, context: Context) -> wire.RunStatus:  # noqa: N802
        """One run, with what its members do."""
        live = self._runs.live(run_name_of(request.run))
        status = status_of(live, self._runs.now)
        return wire.RunStatus(
            spec=status.spec.to_bytes(),
            plan=plan_message(live.record.plan),
            members=[_member_message(status.name, member) for member in status.members],
            message=status.message,
        )

    async def SetRunState(  # noqa: N802
        self, request: wire.SetRunStateRequest, context: Context
    ) -> wire.SetRunStateReply:
        """An operator pauses, resumes or stops a run."""
        event = StateRequested(state=state_of(request.state), operator=identity_of(context).name)
        record = await self._runs.happen(run_name_of(request.run), event)
        return wire.SetRunStateReply(plan=plan_message(record.plan))

    async def PutArtifact(  # noqa: N802
        self, request_iterator: AsyncIterator[wire.PutArtifactRequest], context: Context
    ) -> wire.PutArtifactReply:
        """An operator uploads an artifact, such as a base."""
        sender = identity_of(context).name
        digest = await receive_artifact(self._store, request_iterator, sender=sender)
        return wire.PutArtifactReply(digest=digest)

    async def _pin(self, spec: RunSpec) -> None:
        """Before it is looked for, so that it cannot be collected in between.

        A pin whose run was refused keeps an artifact until the next start at most.
        """
        if spec.base is not None:
            await in_thread(self._store.pin, spec.base, owner_of(RunName(spec.name)))


def owner_of(run: RunName) -> str:
    """Under which name a run pins its base."""
    return f"run:{run}"


def _node(context: Context) -> NodeId:
    return node_of(identity_of(context).name)


def _keepalive_s(asked: float) -> float:
    least, most = _KEEPALIVE_RANGE_S
    return min(max(asked, least), most) if asked > 0 and math.isfinite(asked) else KEEPALIVE_S


def _bounded(report: Report) -> Report:
    """Reports are kept in memory, one a member: they have to be small.

    Raises:
        BadReport: they are not.
    """
    texts = [report.state, report.message, *report.metrics]
    if len(report.metrics) > _METRICS or max(map(len, texts)) > _CHARACTERS:
        raise BadReport(
            f"a report of {len(report.metrics)} metrics with texts of up to "
            f"{max(map(len, texts))} characters; at most {_METRICS} and {_CHARACTERS} are taken"
        )
    return report


def _member_message(run: RunName, member: MemberStatus) -> wire.MemberStatus:
    return wire.MemberStatus(
        node=member.node,
        address=member.address,
        report=report_message(run, member.report),
        silent_s=member.silent_s,
        lease_valid=member.lease_valid,
        left=member.left or member.dropped,
    )
