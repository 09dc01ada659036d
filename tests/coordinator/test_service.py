"""The service over real sockets and certificates: what nodes and operators get."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.coordinator.conftest import Running
from tests.support.wire import MIB, deposit, payload
from weft.checkpoints.store import Store
from weft.coordinator.records import Joined, StateRequested
from weft.coordinator.timekeeper import Timekeeper
from weft.errors import Corrupt, Denied, InvalidInput, NotFound, Refused, Unavailable
from weft.protocol.channel import call, peer_stub, send, stream
from weft.protocol.convert import global_set_message, plan_of, report_message, report_of
from weft.protocol.fetch import Holder, fetch_artifact
from weft.protocol.identity import Role
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
    members_digest,
)
from weft.protocol.upload import put_artifact
from weft.protocol.v1 import coordinator_pb2 as wire
from weft.protocol.v1.peer_pb2 import Chunk, ShareRequest

NAME = RunName("quilt")
S = 5.0


async def created(coordinator: Running, **fields: object) -> RunSpec:
    spec = coordinator.spec(**fields)
    request = wire.CreateRunRequest(spec=spec.to_bytes())
    reply = await call(coordinator.operator.CreateRun, request, timeout_s=S)
    assert reply.run == spec.name
    return spec


async def join(coordinator: Running, node: str, **fields: Any) -> wire.JoinReply:
    request = wire.JoinRequest(run=NAME, address=f"{node}:1", **fields)
    reply: wire.JoinReply = await call(coordinator.stub(node).Join, request, timeout_s=S)
    return reply


async def report(coordinator: Running, node: str, told: Report) -> int:
    message = report_message(NAME, told)
    reply = await call(coordinator.stub(node).Report, message, timeout_s=S)
    return int(reply.plan_version)


async def set_state(coordinator: Running, state: str, who: Any) -> str:
    request = wire.SetRunStateRequest(run=NAME, state=state)
    reply = await call(who.SetRunState, request, timeout_s=S)
    return str(reply.plan.state)


def plans(coordinator: Running, who: Any, version: int, keepalive_s: float = 60.0) -> Any:
    request = wire.WatchRequest(run=NAME, version=version, keepalive_s=keepalive_s)
    return stream(who.Watch, request, progress_s=S)


async def next_plan(watching: AsyncIterator[Any]) -> Plan:
    return plan_of(await anext(watching))


async def started(coordinator: Running, **fields: object) -> Plan:
    await created(coordinator, **fields)
    await join(coordinator, "a")
    return plan_of((await join(coordinator, "b")).plan)


async def test_joining_gives_specification_plan_and_lease(coordinator: Running) -> None:
    spec = await created(coordinator, lease_s=12.0)
    reply = await join(coordinator, "a", data_size=120, base_digest=spec.base)
    assert RunSpec.from_bytes(reply.spec) == spec
    assert reply.lease_s == 12.0
    (member,) = plan_of(reply.plan).members
    assert (member.node, member.address, member.data_size) == ("a", "a:1", 120)


async def test_a_caller_is_who_its_certificate_says(coordinator: Running) -> None:
    await created(coordinator)
    await join(coordinator, "a")
    assert list(coordinator.runs.live(NAME).record.members) == ["a"]
    request = wire.JoinRequest(run=NAME, address="x:1")
    for role in (Role.OPERATOR, Role.COORDINATOR):
        stub = coordinator.stub(f"some-{role}", role)
        with pytest.raises(Denied, match="may not call"):
            await call(stub.Join, request, timeout_s=S)
    with pytest.raises(Denied, match="may not call"):
        await set_state(coordinator, "stopped", coordinator.stub("a"))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"address": "a"}, "address"),
        ({"address": "a:1", "run": "Not A Run"}, "run"),
        ({"address": "a:1", "base_digest": "12"}, "base_digest"),
        ({"address": "a:1", "schema_digest": "zz" * 32}, "schema_digest"),
    ],
)
async def test_what_cannot_be_is_refused_at_the_border(
    coordinator: Running, fields: dict[str, Any], complaint: str
) -> None:
    await created(coordinator)
    request = wire.JoinRequest(**{"run": NAME, **fields})
    with pytest.raises(InvalidInput, match=complaint):
        await call(coordinator.stub("a").Join, request, timeout_s=S)


async def test_another_base_is_refused_by_name(coordinator: Running) -> None:
    spec = await created(coordinator)
    with pytest.raises(Refused, match=f"has the base {spec.base}, node a holds {'ab' * 32}"):
        await join(coordinator, "a", base_digest="ab" * 32)


async def test_no_such_run(coordinator: Running) -> None:
    await created(coordinator)
    request = wire.JoinRequest(run="quild", address="a:1")
    with pytest.raises(NotFound, match="did you mean 'quilt'"):
        await call(coordinator.stub("a").Join, request, timeout_s=S)


async def test_watching_begins_with_the_newer_plan_and_follows(coordinator: Running) -> None:
    plan = await started(coordinator)
    async with (
        aclosing(plans(coordinator, coordinator.stub("a"), 0)) as from_nothing,
        aclosing(plans(coordinator, coordinator.stub("b"), plan.version)) as from_this,
    ):
        assert await next_plan(from_nothing) == plan
        waiting = asyncio.create_task(next_plan(from_this))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        paused = StateRequested(state=RunState.PAUSED, operator="olga")
        await coordinator.runs.happen(NAME, paused)
        assert (await waiting).state is RunState.PAUSED
        assert (await next_plan(from_nothing)).version == plan.version + 1


async def test_a_watch_that_nothing_happens_in_is_kept_alive(coordinator: Running) -> None:
    plan = await started(coordinator)
    watching = plans(coordinator, coordinator.stub("a"), plan.version, keepalive_s=0.2)
    async with aclosing(watching) as alive:
        assert await next_plan(alive) == plan
        assert await next_plan(alive) == plan


async def test_watching_is_for_members_and_operators(coordinator: Running) -> None:
    plan = await started(coordinator)
    async with aclosing(plans(coordinator, coordinator.operator, 0)) as watching:
        assert await next_plan(watching) == plan
    with pytest.raises(NotFound, match="not a member of run quilt"):
        async with aclosing(plans(coordinator, coordinator.stub("x"), 0)) as watching:
            await next_plan(watching)


async def test_a_newer_plan_than_ours_halts_the_run_for_nodes(coordinator: Running) -> None:
    await started(coordinator)
    with pytest.raises(Unavailable, match="holds version 9 of the plan"):
        async with aclosing(plans(coordinator, coordinator.stub("a"), 9)) as watching:
            await next_plan(watching)
    with pytest.raises(Unavailable, match="put the newer database back"):
        await report(coordinator, "b", Report(state="training", round=0, plan_version=3))
    with pytest.raises(Refused, match="is halted: node a holds"):
        await set_state(coordinator, "running", coordinator.operator)
    assert await set_state(coordinator, "stopped", coordinator.operator) == "stopped"
    assert coordinator.runs.live(NAME).record.plan.version == 10


async def test_who_watches_is_sent_away_when_the_coordinator_stops(coordinator: Running) -> None:
    plan = await started(coordinator)
    async with aclosing(plans(coordinator, coordinator.stub("a"), plan.version)) as watching:
        waiting = asyncio.create_task(next_plan(watching))
        await asyncio.sleep(0.05)
        coordinator.runs.stop()
        with pytest.raises(Unavailable, match="stopping"):
            await asyncio.wait_for(waiting, 1)


async def test_a_revoked_watcher_is_cut_off(coordinator: Running) -> None:
    plan = await started(coordinator)
    watching = plans(coordinator, coordinator.stub("a"), plan.version, keepalive_s=0.2)
    async with aclosing(watching) as alive:
        await next_plan(alive)
        coordinator.revoked.add(coordinator.enrol("a").identity.serial)
        with pytest.raises(Denied, match="revoked"):
            await asyncio.wait_for(next_plan(alive), 2)


async def test_reports_are_shown_to_operators(coordinator: Running) -> None:
    plan = await started(coordinator)
    told = Report(
        state="training",
        round=2,
        plan_version=plan.version,
        metrics={"loss": 0.25},
        bytes_sent=10,
        message="waiting for b",
    )
    assert await report(coordinator, "a", told) == plan.version
    coordinator.clock.now += 40
    request = wire.GetRunRequest(run=NAME)
    status = await call(coordinator.operator.GetRun, request, timeout_s=S)
    assert plan_of(status.plan) == plan
    a, b = status.members
    assert report_of(a.report) == told
    assert (a.silent_s, a.lease_valid, a.left) == (40.0, False, False)
    assert (b.report.state, b.report.round) == ("", 0)
    listed = await call(coordinator.operator.ListRuns, wire.ListRunsRequest(), timeout_s=S)
    (summary,) = listed.runs
    assert (summary.run, summary.state, summary.members) == (NAME, "running", 2)
    assert (summary.round, summary.rounds, summary.created_at) == (2, 6, 7.0)


@pytest.mark.parametrize(
    "told",
    [
        {"metrics": {f"m{i}": 0.0 for i in range(257)}},
        {"message": "x" * 1001},
        {"metrics": {"m" * 1001: 1.0}},
    ],
)
async def test_reports_that_are_too_large_are_refused(
    coordinator: Running, told: dict[str, Any]
) -> None:
    await started(coordinator)
    with pytest.raises(InvalidInput, match="at most 256 and 1000 are taken"):
        await report(coordinator, "a", Report(state="t", round=0, plan_version=1, **told))
    assert coordinator.runs.live(NAME).reports == {}


async def test_a_part_of_the_members_promises_and_the_set_is_committed(
    coordinator: Running,
) -> None:
    plan = await started(coordinator, merge={"policy": "deadline", "deadline_s": 1.0})
    digest = Digest("a1" * 32)
    told = Report(
        state="merging",
        round=6,
        plan_version=plan.version,
        announced={Phase.PARAMETERS: digest},
        members_digest=members_digest(plan.epochs[-1].members),
    )
    keeper = Timekeeper(coordinator.runs, interval_s=10)
    for _ in range(4):
        coordinator.clock.now += 11
        await report(coordinator, "a", told)
        await keeper.tick()
    ours = GlobalSet(phase=Phase.PARAMETERS, contributors=((NodeId("a"), digest),))
    assert coordinator.runs.live(NAME).record.plan.proposed == (ours,)
    request = wire.PromiseRequest(run=NAME, set=global_set_message(ours))
    with pytest.raises(Refused, match="b is not in the set"):
        await call(coordinator.stub("b").Promise, request, timeout_s=S)
    await call(coordinator.stub("a").Promise, request, timeout_s=S)
    assert coordinator.runs.live(NAME).record.plan.committed == (ours,)


async def test_leaving_is_announced_ahead(coordinator: Running) -> None:
    await started(coordinator)
    await call(coordinator.stub("b").Leave, wire.LeaveRequest(run=NAME), timeout_s=S)
    assert coordinator.runs.live(NAME).record.plan.epochs[-1].members == ("a",)


async def test_operators_pause_resume_and_stop(coordinator: Running) -> None:
    await started(coordinator)
    for state in ("paused", "running", "stopped"):
        assert await set_state(coordinator, state, coordinator.operator) == state
    assert coordinator.runs.live(NAME).record.message == "stopped by olga"
    with pytest.raises(Refused, match="is stopped: it cannot become running"):
        await set_state(coordinator, "running", coordinator.operator)
    with pytest.raises(InvalidInput, match="state 'running '"):
        await set_state(coordinator, "running ", coordinator.operator)


async def test_a_new_run_pins_its_base(coordinator: Running) -> None:
    spec = await created(coordinator)
    assert coordinator.store.pins() == [(spec.base, "run:quilt")]
    await created(coordinator)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"base": "ab" * 32}, "is not in the coordinator's store"),
        ({"base": "short"}, "digest"),
        ({"schema_digest": "ab" * 32}, "leave schema_digest out"),
        ({"merge": {"method": "meen"}}, "mean"),
        ({"topology": {"graph": "rign"}}, "ring"),
        ({"schedule": {"name": "evry"}}, "every"),
        ({"topology": {"graph": "random_regular", "options": {"degree": 3}}, "nodes": 5}, "5"),
        ({"final": {"method": "ema"}}, "takes a fold"),
        ({"merge": {"mode": "continual", "method": "krum"}}, "'krum' is a combination method"),
        (
            {"merge": {"mode": "continual"}, "base": None, "schema_digest": "ab" * 32},
            "'continual' needs a base",
        ),
    ],
)
async def test_a_run_that_could_never_go_is_not_made(
    coordinator: Running, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises((InvalidInput, Refused), match=complaint):
        await created(coordinator, **fields)
    assert coordinator.runs.all() == []


async def test_bytes_that_are_no_specification(coordinator: Running) -> None:
    request = wire.CreateRunRequest(spec=b'{"name": "quilt", "nodse": 3}')
    with pytest.raises(InvalidInput, match="nodse"):
        await call(coordinator.operator.CreateRun, request, timeout_s=S)


async def test_a_base_is_uploaded_and_fetched_by_nodes(
    coordinator: Running, tmp_path: Path
) -> None:
    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    digest = deposit(mine, {"w": 3 * MIB + 12, "b": 8}, seed=5)
    pool = coordinator.pool("olga", Role.OPERATOR)
    for _ in range(2):
        channel = pool.to(coordinator.address, "coordinator", bulk=True)
        await put_artifact(mine, digest, channel)
    assert payload(coordinator.store, digest) == payload(mine, digest)
    await created(coordinator, base=digest)
    await join(coordinator, "a")
    holder = Holder("coordinator", coordinator.address)
    await fetch_artifact(theirs, digest, [holder], coordinator.pool("a"))
    assert payload(theirs, digest) == payload(mine, digest)


async def test_a_base_is_for_the_members_of_its_run_and_operators(
    coordinator: Running, tmp_path: Path
) -> None:
    await started(coordinator)
    holder = Holder("coordinator", coordinator.address)
    theirs, empty = Store(tmp_path / "theirs"), Store(tmp_path / "empty")

    async def fetch(digest: str, name: str, role: Role = Role.NODE) -> None:
        await fetch_artifact(theirs, digest, [holder], coordinator.pool(name, role))

    other = deposit(coordinator.store, {"w": 64}, seed=9)
    for name, digest in (("x", coordinator.base), ("a", other)):
        with pytest.raises(Denied, match=f"{name} may not read artifact {digest[:12]}"):
            await fetch(digest, name)
    await fetch(coordinator.base, "a")
    await fetch(other, "olga", Role.OPERATOR)
    await call(coordinator.stub("b").Leave, wire.LeaveRequest(run=NAME), timeout_s=S)
    with pytest.raises(Denied, match="b may not read"):
        await fetch_artifact(empty, coordinator.base, [holder], coordinator.pool("b"))


async def test_a_full_set_under_one_list_is_committed_at_once(coordinator: Running) -> None:
    plan = await started(coordinator)
    one_list = members_digest(plan.epochs[-1].members)
    for node in "ab":
        announced = {Phase.PARAMETERS: Digest(f"a{node}" * 32)}
        told = Report(
            state="merging",
            round=6,
            plan_version=plan.version,
            announced=announced,
            members_digest=one_list,
        )
        await report(coordinator, node, told)
    after = coordinator.runs.live(NAME).record.plan
    (committed,) = after.committed
    assert [node for node, _ in committed.contributors] == ["a", "b"]
    assert after.proposed == ()


async def test_a_revoked_member_has_left_every_list_ahead(coordinator: Running) -> None:
    plan = await started(coordinator)
    for node in "ab":
        await report(coordinator, node, Report(state="", round=1, plan_version=plan.version))
    serial = coordinator.enrol("b").identity.serial
    assert coordinator.runs.live(NAME).record.members[NodeId("b")].serial == serial
    await Timekeeper(coordinator.runs, revoked=lambda: {serial}).tick()
    record = coordinator.runs.live(NAME).record
    assert record.plan.revoked == {serial}
    assert record.members[NodeId("b")].left
    assert record.plan.epochs[-1].members == ("a",)
    assert record.plan.epochs[-1].from_round == 3


async def test_nodes_upload_nothing_and_wrong_chunks_enter_nowhere(
    coordinator: Running, tmp_path: Path
) -> None:
    mine = Store(tmp_path / "mine")
    digest = deposit(mine, {"w": 8}, seed=6)

    async def forged() -> AsyncIterator[wire.PutArtifactRequest]:
        yield wire.PutArtifactRequest(manifest_piece=mine.manifest_bytes(digest))
        yield wire.PutArtifactRequest(chunk=Chunk(index=0, data=b"12345678"))

    with pytest.raises(Denied, match="may not call"):
        await send(coordinator.stub("a").PutArtifact, forged())
    with pytest.raises(Corrupt):
        await send(coordinator.operator.PutArtifact, forged())
    assert not coordinator.store.has(digest)


async def test_the_rest_of_the_peer_service_is_not_there(coordinator: Running) -> None:
    channel = coordinator.pool("a").to(coordinator.address, "coordinator")
    with pytest.raises(Refused, match="takes part in no round"):
        await call(peer_stub(channel).Share, ShareRequest(run=NAME), timeout_s=S)


async def test_many_nodes_join_and_all_see_the_start(coordinator: Running) -> None:
    await created(coordinator, nodes=20)
    names = [f"n{i}" for i in range(20)]
    await asyncio.gather(*(join(coordinator, name) for name in names))
    record = coordinator.runs.live(NAME).record
    assert record.plan.state is RunState.RUNNING
    assert record.plan.version == 21
    assert record.plan.epochs[0].members == tuple(sorted(names))
    again = Joined(node=NodeId("n3"), address="n3:1")
    assert await coordinator.runs.happen(NAME, again) is record
