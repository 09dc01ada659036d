"""The demo as an operator: creates the run, and asks how it goes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.checkpoints.artifacts import put_model
from weft.checkpoints.reader import open_checkpoint, read_schema
from weft.checkpoints.store import Store
from weft.errors import Unavailable
from weft.protocol.channel import ChannelPool, call, coordinator_stub
from weft.protocol.convert import report_of
from weft.protocol.identity import COORDINATOR_NAME, Credentials
from weft.protocol.run import Report, RunState
from weft.protocol.upload import put_artifact
from weft.protocol.v1.coordinator_pb2 import CreateRunRequest, GetRunRequest, ListRunsRequest
from weft.simulations.demo.settings import RUN_NAME, DemoFolder, DemoSettings
from weft.simulations.demo.stage import OPERATOR_NAME

CALL_S = 10.0
ASK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run as its coordinator sees it now; `reports` by node, of those that joined."""

    state: RunState
    reports: Mapping[str, Report]

    @property
    def is_over(self) -> bool:
        """Nothing more will happen."""
        return self.state in (RunState.FINISHED, RunState.STOPPED)


class Operator:
    """Talks to the demo's coordinator.

    Args:
        folder: the demo's.
        address: host:port of the coordinator.
    """

    def __init__(self, folder: DemoFolder, address: str) -> None:
        self._folder = folder
        self._pool = ChannelPool(Credentials.load(folder.credentials(OPERATOR_NAME)))
        self._channel = self._pool.to(address, COORDINATOR_NAME)
        self._stub = coordinator_stub(self._channel)

    async def close(self) -> None:
        """Close the channels."""
        await self._pool.close()

    async def wait_until_reached(self, check: Callable[[], None]) -> None:
        """Wait for the coordinator to answer; `check` raises where waiting is in vain."""
        while True:
            check()
            try:
                await call(self._stub.ListRuns, ListRunsRequest(), timeout_s=CALL_S)
                return
            except Unavailable:
                await asyncio.sleep(ASK_EVERY_S)

    async def create_run(self, settings: DemoSettings) -> None:
        """Upload the base, where there is one, and create the run."""
        if settings.apart:
            start = await asyncio.to_thread(_schema_digest, self._folder.base)
        else:
            store = Store(self._folder.outbox)
            start = await asyncio.to_thread(_put, store, self._folder.base)
            await put_artifact(store, start, self._channel)
        request = CreateRunRequest(spec=settings.spec(start).to_bytes())
        await call(self._stub.CreateRun, request, timeout_s=CALL_S)

    async def progress(self) -> Progress:
        """How the run goes."""
        reply = await call(self._stub.GetRun, GetRunRequest(run=RUN_NAME), timeout_s=CALL_S)
        return Progress(
            state=RunState(reply.plan.state),
            reports={member.node: report_of(member.report) for member in reply.members},
        )


def _schema_digest(path: Path) -> str:
    return read_schema(path).digest


def _put(store: Store, path: Path) -> str:
    with open_checkpoint(path) as reader:
        return put_model(store, reader)
