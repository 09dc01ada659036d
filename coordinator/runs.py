"""All runs of a coordinator: one writer, many watchers.

The shell around `membership.advance`: it keeps each change before anybody sees
it, wakes who watches, and knows who has been heard of. Everything runs on one
event loop; only the repository blocks, in a thread.

    runs = await Runs.open(repository, clock=time.monotonic, wall=time.time)
    record = await runs.happen(name, Joined(node=node, address=address))
    plan = await runs.newer_plan(name, version=3, timeout_s=5.0)

Figures that nodes report (metrics, bytes, words) are for people: they are kept
in memory only, and so is the round of a member until the next change of its run
takes it along. A report that says nothing else is not written at all; what a
crash loses of it, the node's next report brings again. What only time brings is
`weft.coordinator.timekeeper`'s.
"""

import asyncio
import difflib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from weft.coordinator.admission import require_member, require_serving
from weft.coordinator.errors import DatabaseFull, NotYet, RunExists, RunNotFound, Stopping
from weft.coordinator.leases import Leases, Waits
from weft.coordinator.membership import advance, create, needs_current_rounds
from weft.coordinator.records import (
    Created,
    Event,
    Joined,
    Left,
    Reported,
    Revoked,
    RunRecord,
)
from weft.coordinator.repository import Change, Repository
from weft.protocol.run import NodeId, Plan, Report, RunName, RunSpec

log = structlog.get_logger(__name__)


@dataclass
class LiveRun:
    """A run as it is kept, and what is known of it only while we live."""

    record: RunRecord
    leases: Leases
    waits: Waits = field(default_factory=Waits)
    reports: dict[NodeId, Report] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Runs:
    """See the module; `open` builds one.

    Attributes:
        on_change: told the seconds that each change took to be durable.
    """

    def __init__(
        self, repository: Repository, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._wall = wall
        self._live: dict[RunName, LiveRun] = {}
        self._writing = asyncio.Lock()
        self._changes: set[asyncio.Task[RunRecord]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self.on_change: Callable[[float], None] = _nothing

    @classmethod
    async def open(
        cls, repository: Repository, *, clock: Callable[[], float], wall: Callable[[], float]
    ) -> "Runs":
        """Load all runs; each member gets a fresh, full lease.

        Args:
            repository: where the runs are; nobody else may write to it. It is ours
                to close from now on.
            clock: seconds of a monotonic clock.
            wall: seconds since 1970, for people.

        Raises:
            DatabaseDamaged, StorageFailed: see the repository.
        """
        runs = cls(repository, clock, wall)
        try:
            records = await asyncio.to_thread(repository.load)
        except BaseException:
            await asyncio.to_thread(repository.close)
            raise
        for record in records.values():
            runs._accept(record)
        return runs

    @property
    def now(self) -> float:
        """The monotonic clock."""
        return self._clock()

    def live(self, run: RunName) -> LiveRun:
        """A run with what is known of it now.

        Raises:
            RunNotFound: names the nearest one.
        """
        found = self._live.get(run)
        if found is None:
            near = difflib.get_close_matches(run, self._live, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise RunNotFound(f"no run of the name {run!r}{meant} (weft run list shows all)")
        return found

    def all(self) -> list[LiveRun]:
        """All runs, sorted by name."""
        return [self._live[name] for name in sorted(self._live)]

    async def create(self, spec: RunSpec) -> RunRecord:
        """Make a run; the same specification again is the same run.

        Raises:
            RunExists: a run of that name and another specification.
        """
        return await self._shielded(self._create(spec))

    async def happen(self, run: RunName, event: Event) -> RunRecord:
        """Let an event happen to a run, durably, and tell who watches.

        A caller that goes away meanwhile does not stop it half-way.

        Raises:
            RunNotFound: no such run.
            NotYet: the rounds of the members are not known now.
            WeftError: what `advance` refuses, what the repository cannot keep.
        """
        return await self._shielded(self._happen(run, event))

    async def report(self, run: RunName, node: NodeId, report: Report) -> RunRecord:
        """Take a member's report: renew its lease, note its figures, act on its words.

        Raises:
            NotAMember: it has not joined.
            RunHalted: the node holds a newer plan than we do.
            WeftError: as `happen`.
        """
        live = self.live(run)
        require_member(live.record, node)
        live.leases.renew(node, self._clock())
        live.reports[node] = report
        record = await self.happen(run, Reported.of(node, report))
        require_serving(record)
        return record

    async def newer_plan(self, run: RunName, *, version: int, timeout_s: float) -> Plan:
        """The plan once it is newer than a version; the plan as it is past the timeout.

        Raises:
            RunNotFound, RunHalted, Stopping: as they say, also while waiting.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (plan := self._served(run).plan).version <= version:
                    await self.live(run).changed.wait()
        except TimeoutError:
            plan = self._served(run).plan
        return plan

    async def failure(self) -> None:
        """Wait for the error after which nobody may go on, and raise it."""
        await asyncio.shield(self._failure)

    def stop(self) -> None:
        """Send away who watches; what is asked for is still done."""
        self._stopping = True
        for live in self._live.values():
            live.changed.set()

    async def close(self) -> None:
        """Wait for the changes under way, then let go of the repository."""
        if self._changes:
            await asyncio.wait(self._changes)
        if self._failure.done():
            self._failure.exception()
        await asyncio.to_thread(self._repository.close)

    async def _shielded(self, change: Coroutine[None, None, RunRecord]) -> RunRecord:
        """A change whose caller may go away: what is begun is finished, in order."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[RunRecord]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have gone; what counts is in `_failure`

    async def _create(self, spec: RunSpec) -> RunRecord:
        async with self._writing:
            name = RunName(spec.name)
            if name in self._live:
                return _same_run(self._live[name].record, spec)
            at = self._wall()
            record = create(spec, at=at)
            await self._commit(Change(event=Created(spec=spec), after=record, at=at))
            self._accept(record)
            return record

    async def _happen(self, run: RunName, event: Event) -> RunRecord:
        async with self._writing:
            live = self.live(run)
            self._require_rounds(live, event)
            after = advance(live.record, event)
            if after.revision != live.record.revision:
                await self._commit(Change(event=event, after=after, at=self._wall()))
            if after is not live.record:
                self._accept(after)
            if isinstance(event, Joined):
                live.leases.grant(event.node, self._clock())
            return after

    def _require_rounds(self, live: LiveRun, event: Event) -> None:
        """An epoch is announced ahead of rounds that are known, or not yet.

        Under `wait` members that are silent are not dropped: where only we are cut
        off from them they train on, and may be far beyond the last round they told.
        Revocation does not wait for those.
        """
        if not needs_current_rounds(live.record, event):
            return
        record, now = live.record, self._clock()
        waited_for = _others_at_work(record, event)
        if unheard := waited_for.intersection(live.leases.unheard(now)):
            raise NotYet(
                f"run {record.name}: the coordinator has just started and does not know the "
                f"rounds of {', '.join(sorted(unheard)[:10])} yet; try again in a moment"
            )
        silent = waited_for.intersection(live.leases.expired(now))
        if silent and record.spec.merge.policy == "wait" and isinstance(event, Joined | Left):
            raise NotYet(
                f"run {record.name}: nothing is heard of {', '.join(sorted(silent)[:10])}, so "
                "nobody knows from which round on other members could hold; try again once "
                "they are back (weft status shows who is silent)"
            )

    async def _commit(self, change: Change) -> None:
        began = self._clock()
        try:
            await asyncio.to_thread(self._repository.commit, change)
            self.on_change(self._clock() - began)
        except DatabaseFull:
            raise
        except Exception as error:
            # What is stored is not known any more, so nothing may build on it.
            if not self._failure.done():
                self._failure.set_exception(error)
            raise

    def _accept(self, after: RunRecord) -> None:
        """What is kept is now so: leases for new members, and everybody is told."""
        now = self._clock()
        name = after.name
        if name not in self._live:
            leases = Leases(after.members, lease_s=after.spec.lease_s, now=now)
            self._live[name] = LiveRun(record=after, leases=leases)
        live = self._live[name]
        for node in live.record.members.keys() - after.members.keys():
            live.leases.forget(node)
            live.reports.pop(node, None)
        before, live.record = live.record, after
        if before.plan != after.plan:
            self._tell(live, before)

    def _tell(self, live: LiveRun, before: RunRecord) -> None:
        live.changed.set()
        live.changed = asyncio.Event()
        plan = live.record.plan
        if plan.state is not before.plan.state:
            log.info("run", run=plan.run, state=plan.state, message=live.record.message)
        log.debug("plan", run=plan.run, version=plan.version, members=len(plan.members))

    def _served(self, run: RunName) -> RunRecord:
        if self._stopping:
            raise Stopping("the coordinator is stopping; go on, and come back later")
        record = self.live(run).record
        require_serving(record)
        return record


def _nothing(seconds: float) -> None:
    """Nobody wants to know how long a change took."""


def _others_at_work(record: RunRecord, event: Event) -> set[NodeId]:
    """The members whose rounds count: those whom the event is about stand aside."""
    at_work = {node for node in record.present if not record.members[node].done}
    if isinstance(event, Joined | Left):
        at_work.discard(event.node)
    if isinstance(event, Revoked):
        at_work.difference_update(record.holders_of(event.serials))
    return at_work


def _same_run(record: RunRecord, spec: RunSpec) -> RunRecord:
    if record.spec.digest != spec.digest:
        raise RunExists(
            f"a run {spec.name!r} exists already with another specification "
            f"({record.spec.digest[:12]}, this one is {spec.digest[:12]}); choose another name"
        )
    return record
