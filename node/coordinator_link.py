"""The node's side of the coordinator: join, follow the plan, report, promise.

A coordinator that is away costs no round: everything here waits and tries again
in the background, with a jittered back-off, and says so once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog

from weft.errors import Denied, NotFound, Unavailable, WeftError
from weft.protocol.channel import ChannelPool, call, coordinator_stub, stream
from weft.protocol.convert import global_set_message, plan_of, report_message
from weft.protocol.errors import HandshakeFailed
from weft.protocol.run import GlobalSet, Plan, Report, RunName, RunSpec
from weft.protocol.transfer import pause_s
from weft.protocol.v1.coordinator_pb2 import JoinRequest, PromiseRequest, WatchRequest

log = structlog.get_logger(__name__)

_CONTROL_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_KEEPALIVE_S = 5.0


class Pauses:
    """A jittered exponential back-off; `reset` after a success."""

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._failures = 0

    async def wait(self) -> None:
        """Sleep for the next pause."""
        self._failures += 1
        pause = pause_s(
            self._failures, random.random(), first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S
        )
        await asyncio.sleep(pause)


class CoordinatorLink:
    """One run's conversation with its coordinator.

    Args:
        pool: channels of this node's credentials.
        address: host:port.
        name: the coordinator's name in its certificate.
        run: the run's name.
    """

    def __init__(self, pool: ChannelPool, *, address: str, name: str, run: RunName) -> None:
        self._stub = coordinator_stub(pool.to(address, name))
        self._run = run
        self.address, self.name = address, name
        self.connected = False
        self._said = ""

    async def join(self, request: JoinRequest) -> tuple[RunSpec, Plan]:
        """Be taken into the run; its specification and its plan.

        Raises:
            Refused, Denied, InvalidInput: the coordinator said no, and why.
            Unavailable: it cannot be reached now.
        """
        request.run = self._run
        reply = await call(self._stub.Join, request, timeout_s=_CONTROL_S)
        spec = RunSpec.from_bytes(reply.spec)
        return spec, plan_of(reply.plan)

    async def follow(
        self,
        version_of: Callable[[], int],
        on_plan: Callable[[Plan], Awaitable[None]],
        join: Callable[[], Awaitable[None]],
    ) -> None:
        """Hand over every newer plan, for ever; reconnects by itself.

        Each connection begins with a join: the coordinator learns where this node
        is now, and takes it in again if it was dropped while it was away. A node
        that has a journal goes on whatever else the coordinator answers.

        Raises:
            Denied: the coordinator does not let this node in any more.
        """
        pause = Pauses()
        while True:
            try:
                await join()
                await self._follow_once(version_of(), on_plan, pause)
            except HandshakeFailed as away:
                self._lost(away)
            except Denied:
                raise  # this node may not: its certificate was revoked, say
            except WeftError as away:
                self._lost(away)
            await pause.wait()

    async def _follow_once(
        self, version: int, on_plan: Callable[[Plan], Awaitable[None]], pause: Pauses
    ) -> None:
        request = WatchRequest(run=self._run, version=version, keepalive_s=_KEEPALIVE_S)
        plans = stream(self._stub.Watch, request, progress_s=3 * _KEEPALIVE_S)
        async with aclosing(plans):
            async for message in plans:
                self._found()
                pause.reset()
                await on_plan(plan_of(message))

    async def report(self, report: Report) -> None:
        """Tell the coordinator how this node is doing; renews the lease."""
        message = report_message(self._run, report)
        await call(self._stub.Report, message, timeout_s=_CONTROL_S)
        self._found()

    async def promise(self, chosen: GlobalSet) -> None:
        """Promise to merge the proposed set and no other."""
        request = PromiseRequest(run=self._run, set=global_set_message(chosen))
        await call(self._stub.Promise, request, timeout_s=_CONTROL_S)

    def _found(self) -> None:
        if not self.connected:
            log.info("coordinator reached", address=self.address)
        self.connected = True

    def _lost(self, away: WeftError) -> None:
        reason = str(away)
        if self.connected or reason != self._said:
            log.warning("coordinator away; going on without it", reason=reason)
        self.connected, self._said = False, reason


async def until_available(
    attempt: Callable[[], Awaitable[None]], *, what: str, pause: Pauses | None = None
) -> None:
    """Repeat an attempt until the other side is there; says what it waits for.

    What does not exist yet is waited for too: daemons may start in any order, also
    before the run that they are for.
    """
    pause = pause or Pauses()
    said = ""
    while True:
        try:
            return await attempt()
        except (Unavailable, NotFound) as away:
            if said != str(away):
                said = str(away)
                log.warning("waiting", what=what, reason=said)
            await pause.wait()
