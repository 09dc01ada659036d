"""The shell: kept before seen, one writer, many watchers, and a clock that is turned."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tests.coordinator.stories import NODES, ROUNDS, digest_of, spec
from weft.coordinator.errors import (
    DatabaseFull,
    NotAMember,
    NotYet,
    RunExists,
    RunHalted,
    RunNotFound,
    StorageFailed,
)
from weft.coordinator.records import Joined, Left, RunRecord, StateRequested
from weft.coordinator.repository import Change, MemoryRepository
from weft.coordinator.runs import Runs
from weft.coordinator.timekeeper import Timekeeper
from weft.protocol.run import (
    Digest,
    NodeId,
    Phase,
    Report,
    RunName,
    RunState,
    members_digest,
)

A, B, C, D = NODES
NAME = RunName("quilt")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Repository(MemoryRepository):
    """A memory repository that can fail, and that can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def commit(self, change: Change) -> None:
        assert self.gate.wait(5)
        if self.error is not None:
            raise self.error
        super().commit(change)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
async def runs(clock: Clock, repository: Repository) -> AsyncIterator[Runs]:
    made = await Runs.open(repository, clock=clock, wall=lambda: 5.0)
    yield made
    await made.close()


async def started(runs: Runs, policy: str = "deadline", nodes: int = 3) -> RunRecord:
    await runs.create(spec(policy, nodes))
    for node in NODES[:nodes]:
        await joined(runs, node)
    return runs.live(NAME).record


async def joined(runs: Runs, node: NodeId) -> RunRecord:
    return await runs.happen(NAME, Joined(node=node, address=f"{node}:1"))


def report(runs: Runs, round: int = 0, **more: object) -> Report:
    version = runs.live(NAME).record.plan.version
    return Report(state="training", round=round, plan_version=version, **more)  # type: ignore[arg-type]


def announcing(runs: Runs, node: NodeId) -> Report:
    members = runs.live(NAME).record.plan.epochs[-1].members
    announced = {Phase.PARAMETERS: digest_of(node, Phase.PARAMETERS)}
    return report(runs, ROUNDS, announced=announced, members_digest=members_digest(members))


async def test_a_run_is_made_once(runs: Runs) -> None:
    first = await runs.create(spec())
    assert first.created_at == 5.0
    assert await runs.create(spec()) is first
    with pytest.raises(RunExists, match="exists already with another specification"):
        await runs.create(spec(nodes=4))
    with pytest.raises(RunNotFound, match="did you mean 'quilt'"):
        runs.live(RunName("quit"))


async def test_a_change_is_kept_before_it_is_seen(runs: Runs, repository: Repository) -> None:
    await runs.create(spec())
    repository.gate.clear()
    joining = asyncio.create_task(joined(runs, A))
    await asyncio.sleep(0.02)
    assert runs.live(NAME).record.plan.version == 1
    assert not joining.done()
    repository.gate.set()
    assert (await joining).plan.version == 2
    assert runs.live(NAME).record.plan.version == 2


async def test_a_caller_that_goes_away_leaves_no_half_change(
    runs: Runs, repository: Repository
) -> None:
    await runs.create(spec())
    repository.gate.clear()
    joining = asyncio.create_task(joined(runs, A))
    await asyncio.sleep(0.02)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    repository.gate.set()
    record = await joined(runs, B)
    assert sorted(record.members) == [A, B]
    assert repository.load()[NAME] == record


async def test_watchers_get_the_newest_plan_once_it_changes(runs: Runs) -> None:
    await runs.create(spec())
    assert (await runs.newer_plan(NAME, version=0, timeout_s=5)).version == 1
    waiting = [asyncio.create_task(runs.newer_plan(NAME, version=1, timeout_s=5)) for _ in range(3)]
    await asyncio.sleep(0)
    await joined(runs, A)
    plans = await asyncio.gather(*waiting)
    assert {plan.version for plan in plans} == {2}
    assert (await runs.newer_plan(NAME, version=2, timeout_s=0.01)).version == 2


async def test_reports_of_a_round_alone_are_not_written(runs: Runs, repository: Repository) -> None:
    record = await started(runs)
    repository.error = StorageFailed("nothing must be written")
    after = await runs.report(NAME, A, report(runs, 3, metrics={"loss": 0.5}))
    assert after.members[A].round == 3
    assert after.revision == record.revision
    assert runs.live(NAME).reports[A].metrics == {"loss": 0.5}
    repository.error = None
    await runs.happen(NAME, StateRequested(state=RunState.PAUSED, operator="olga"))
    assert repository.load()[NAME].members[A].round == 3


async def test_who_is_no_member_reports_in_vain(runs: Runs) -> None:
    await started(runs)
    with pytest.raises(NotAMember, match="has to join first"):
        await runs.report(NAME, D, report(runs))
    assert D not in runs.live(NAME).reports


async def test_a_full_disk_refuses_one_change_and_no_more(
    runs: Runs, repository: Repository
) -> None:
    await runs.create(spec())
    repository.error = DatabaseFull("no space")
    with pytest.raises(DatabaseFull):
        await joined(runs, A)
    assert runs.live(NAME).record.members == {}
    repository.error = None
    await joined(runs, A)
    failing = asyncio.create_task(runs.failure())
    await asyncio.sleep(0.01)
    assert not failing.done()
    failing.cancel()


async def test_any_other_failure_to_write_is_the_end(runs: Runs, repository: Repository) -> None:
    await runs.create(spec())
    repository.error = StorageFailed("disk I/O error")
    with pytest.raises(StorageFailed):
        await joined(runs, A)
    with pytest.raises(StorageFailed, match="I/O"):
        await asyncio.wait_for(runs.failure(), 1)


async def test_a_restart_gives_full_leases_and_asks_for_rounds_first(
    runs: Runs, repository: Repository, clock: Clock
) -> None:
    await started(runs)
    await runs.report(NAME, A, report(runs, 2))
    clock.now += 10_000
    again = await Runs.open(repository, clock=clock, wall=lambda: 6.0)
    assert again.live(NAME).record == repository.load()[NAME]
    await Timekeeper(again, interval_s=1).tick()
    assert again.live(NAME).record.present == (A, B, C)
    with pytest.raises(NotYet, match="does not know the rounds of a, b, c yet"):
        await joined(again, D)
    with pytest.raises(NotYet, match="rounds of b, c yet"):
        await again.happen(NAME, Left(node=A))
    for node, reached in ((A, 3), (B, 2)):
        await again.report(NAME, node, report(again, reached))
    await joined(again, C)
    with pytest.raises(NotYet, match="rounds of c yet"):
        await joined(again, D)
    clock.now += 25
    for node in (A, B):
        await again.report(NAME, node, report(again, 3))
    clock.now += 6
    record = await joined(again, D)
    assert record.plan.epochs[-1].from_round == 5


async def test_the_silent_are_dropped_and_the_rest_goes_on(runs: Runs, clock: Clock) -> None:
    await started(runs)
    for _ in range(31):
        clock.now += 1
        for node in (A, B):
            await runs.report(NAME, node, report(runs, 1))
        await Timekeeper(runs, interval_s=1).tick()
    record = runs.live(NAME).record
    assert record.members[C].dropped
    assert record.plan.epochs[-1].members == (A, B)
    assert runs.live(NAME).leases.expired(clock.now) == (C,)
    await joined(runs, C)
    assert runs.live(NAME).leases.expired(clock.now) == ()


async def test_a_coordinator_that_stood_still_drops_nobody(runs: Runs, clock: Clock) -> None:
    await started(runs)
    await runs.report(NAME, A, report(runs, 1))
    clock.now += 3600
    await Timekeeper(runs, interval_s=1).tick()
    await runs.report(NAME, A, report(runs, 1))
    await Timekeeper(runs, interval_s=1).tick()
    assert runs.live(NAME).record.present == (A, B, C)


async def test_an_overdue_set_is_proposed_without_the_silent(runs: Runs, clock: Clock) -> None:
    await started(runs)
    for node in (A, B):
        await runs.report(NAME, node, announcing(runs, node))
    for second in range(62):
        clock.now += 1
        for node in (A, B):
            await runs.report(NAME, node, announcing(runs, node))
        await Timekeeper(runs, interval_s=1).tick()
        if second < 59:
            assert runs.live(NAME).record.plan.proposed == ()
    (proposed,) = runs.live(NAME).record.plan.proposed
    assert [node for node, _ in proposed.contributors] == [A, B]


async def test_a_newer_plan_than_ours_halts_the_run_and_tells_who_watches(runs: Runs) -> None:
    await started(runs)
    watching = asyncio.create_task(runs.newer_plan(NAME, version=4, timeout_s=5))
    await asyncio.sleep(0)
    ahead = Report(state="training", round=1, plan_version=9)
    with pytest.raises(RunHalted, match="node a holds version 9 of the plan"):
        await runs.report(NAME, A, ahead)
    with pytest.raises(RunHalted):
        await watching
    with pytest.raises(RunHalted):
        await runs.report(NAME, B, report(runs))
    assert runs.live(NAME).reports[B].state == "training"


async def test_revoked_certificates_reach_every_plan_that_goes_on(runs: Runs) -> None:
    await started(runs)
    other = await runs.create(spec().model_copy(update={"name": "other"}))
    await runs.happen(other.name, StateRequested(state=RunState.STOPPED, operator="olga"))
    await Timekeeper(runs, revoked=lambda: {"0b", "0a"}).tick()
    assert runs.live(NAME).record.plan.revoked == {"0a", "0b"}
    assert runs.live(other.name).record.plan.revoked == frozenset()


async def test_time_brings_an_event_again_while_the_disk_is_full(
    runs: Runs, repository: Repository, clock: Clock
) -> None:
    await started(runs)
    repository.error = DatabaseFull("no space")
    for _ in range(31):
        clock.now += 1
        for node in (A, B):
            await runs.report(NAME, node, report(runs))
        await Timekeeper(runs, interval_s=1).tick()
    assert runs.live(NAME).record.present == (A, B, C)
    repository.error = None
    await Timekeeper(runs, interval_s=1).tick()
    assert runs.live(NAME).record.present == (A, B)


@pytest.mark.parametrize("event", [Joined(node=D, address="d:1"), Left(node=A)], ids=["d", "a"])
async def test_under_wait_no_epoch_is_planned_from_the_rounds_of_the_silent(
    runs: Runs, clock: Clock, event: Joined | Left
) -> None:
    await started(runs, "wait")
    for node in (A, B, C):
        await runs.report(NAME, node, report(runs, 1))
    clock.now += runs.live(NAME).record.spec.lease_s + 1
    for node in (A, B):
        await runs.report(NAME, node, report(runs, 1))
    before = runs.live(NAME).record
    with pytest.raises(NotYet, match="nothing is heard of c, so nobody knows"):
        await runs.happen(NAME, event)
    assert runs.live(NAME).record is before
    await joined(runs, C)
    await runs.report(NAME, C, report(runs, 3))
    record = await runs.happen(NAME, event)
    assert record.plan.epochs[-1].from_round == 5


async def test_under_deadline_the_silent_hold_nobody_up(runs: Runs, clock: Clock) -> None:
    await started(runs)
    clock.now += runs.live(NAME).record.spec.lease_s + 1
    for node in (A, B):
        await runs.report(NAME, node, report(runs, 1))
    assert D in (await joined(runs, D)).present


async def test_a_revocation_waits_for_rounds_but_not_for_the_silent(
    runs: Runs, repository: Repository, clock: Clock
) -> None:
    await runs.create(spec("wait"))
    for node in (A, B, C):
        await runs.happen(NAME, Joined(node=node, address=f"{node}:1", serial=f"0{node}"))
    again = await Runs.open(repository, clock=clock, wall=lambda: 5.0)
    keeper = Timekeeper(again, interval_s=100, revoked=lambda: {"0b"})
    await again.report(NAME, A, report(again, 1))
    await keeper.tick()
    assert again.live(NAME).record.present == (A, B, C)
    clock.now += again.live(NAME).record.spec.lease_s + 1
    await again.report(NAME, A, report(again, 1))
    await keeper.tick()
    record = again.live(NAME).record
    assert record.present == (A, C)
    assert record.plan.revoked == {"0b"}


async def test_a_member_forgotten_before_the_start_has_no_lease(runs: Runs, clock: Clock) -> None:
    await runs.create(spec())
    await joined(runs, A)
    await runs.report(NAME, A, report(runs))
    await runs.happen(NAME, Left(node=A))
    assert runs.live(NAME).reports == {}
    clock.now += 100
    assert runs.live(NAME).leases.expired(clock.now) == ()


async def test_results_that_differ_are_told(runs: Runs) -> None:
    await started(runs)
    for node in (A, B, C):
        done = Report(
            state="done",
            round=ROUNDS,
            plan_version=runs.live(NAME).record.plan.version,
            result=Digest(("aa" if node == A else "bb") * 32),
        )
        await runs.report(NAME, node, done)
    record = runs.live(NAME).record
    assert record.plan.state is RunState.FINISHED
    assert "results of the global merge differ" in record.message
