"""Streams that are kept and served in this process, and what a client needs of them."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.wire import Enrolment
from weft.node.continual.keeper import Keeper
from weft.node.continual.metrics import StreamMetrics
from weft.node.continual.service import ContinualService
from weft.node.continual.uploads import Uploads
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool
from weft.protocol.identity import Role
from weft.protocol.push import Target
from weft.protocol.server import Server
from weft.protocol.v1.continual_pb2_grpc import ContinualStub, add_ContinualServicer_to_server


class Silent:
    """Work beside the body, ended with it; an error in it is the body's."""

    def __init__(self, *work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(one) for one in self._work]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[Keeper]:
    """A stream with its thread; nobody lets it work."""
    keeper = await Keeper.open(folder, StreamMetrics())
    try:
        yield keeper
    finally:
        await keeper.close()


@dataclass(frozen=True)
class Served:
    """A stream on loopback."""

    keeper: Keeper
    uploads: Uploads
    service: ContinualService
    port: int
    pool: ChannelPool

    @property
    def target(self) -> Target:
        """For a push."""
        return Target(pool=self.pool, address=f"127.0.0.1:{self.port}", name="stream")

    @property
    def stub(self) -> ContinualStub:
        """As an operator."""
        return self.target.stub()


@asynccontextmanager
async def served(folder: Path, enrol: Enrolment, *, works: bool = True) -> AsyncIterator[Served]:
    """A stream that is served to an operator, and absorbs unless told otherwise."""
    async with kept(folder) as keeper:
        uploads = Uploads(folder, keeper.base, keeper.base_schema)
        service = ContinualService(keeper, uploads)
        server = Server(credentials=enrol("stream"), listen="127.0.0.1:0", authorizer=Authorizer())
        server.add(lambda to: add_ContinualServicer_to_server(service, to))
        pool = ChannelPool(enrol("olga", Role.OPERATOR))
        port = await server.start()
        try:
            async with Silent(*([keeper.work()] if works else [])):
                yield Served(keeper, uploads, service, port, pool)
        finally:
            await pool.close()
            await server.stop(0)
            service.close()
