"""What only time brings: leases that are over, sets that are overdue, revocations.

    keeper = Timekeeper(runs, revoked=lambda: revoked.serials)
    await keeper.keep()             # for ever, as a task of the daemon

A tick tells the runs what is so now, not what has changed; an event that was told
before says nothing new, and one that a full disk did not take comes again.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import structlog

from weft.coordinator import global_sets
from weft.coordinator.errors import DatabaseFull, NotYet
from weft.coordinator.records import Event, LeasesExpired, Revoked, SetOverdue
from weft.coordinator.runs import LiveRun, Runs
from weft.protocol.run import Phase, RunName, RunState

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 0.5


def _nobody() -> Collection[str]:
    return frozenset()


class Timekeeper:
    """Tells the runs of a coordinator that time passes.

    Args:
        runs: the runs.
        interval_s: seconds between two ticks. Where it was much longer, this process
            was stopped, and every lease begins anew.
        revoked: serial numbers of the certificates that are revoked now.
    """

    def __init__(
        self,
        runs: Runs,
        *,
        interval_s: float = INTERVAL_S,
        revoked: Callable[[], Collection[str]] = _nobody,
    ) -> None:
        self._runs = runs
        self._interval_s = interval_s
        self._revoked = revoked

    async def keep(self) -> None:
        """Tick for ever."""
        while True:
            await self.tick()
            await asyncio.sleep(self._interval_s)

    async def tick(self) -> None:
        """Tell every run what is so at this moment."""
        now = self._runs.now
        revoked = Revoked(serials=tuple(sorted(self._revoked())))
        for live in self._runs.all():
            if live.leases.pass_time(now, expected_s=self._interval_s):
                log.warning("this process stood still; fresh leases", run=live.record.name)
            await self._tell(live.record.name, revoked)
            if live.record.plan.state is RunState.RUNNING:
                await self._pass_time(live, now)

    async def _pass_time(self, live: LiveRun, now: float) -> None:
        name, deadline_s = live.record.name, live.record.spec.merge.deadline_s
        silent = live.leases.expired(now)
        if silent:
            await self._tell(name, LeasesExpired(nodes=silent))
        live.waits.watch([p for p in Phase if global_sets.is_open(live.record, p)], now)
        for phase in live.waits.overdue(deadline_s, now):
            await self._tell(name, SetOverdue(phase=phase, silent=silent))

    async def _tell(self, run: RunName, event: Event) -> None:
        """There is nobody to refuse it to but the log; it comes again with the next tick."""
        try:
            await self._runs.happen(run, event)
        except DatabaseFull as error:
            log.error("not kept", run=run, what=type(event).__name__, reason=str(error))
        except NotYet as error:
            log.info("not yet", run=run, what=type(event).__name__, reason=str(error))
