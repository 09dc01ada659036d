"""A TCP proxy whose connections share one rate: a node's way up, in user space.

    async with ThrottledProxy(target_port, 1e6) as proxy:
        ... dial proxy.port ...

What it passes it does not read: mutual TLS goes through.
"""

import asyncio
from types import TracebackType
from typing import Self

_READ_BYTES = 16 * 2**10


class Bucket:
    """Tokens that come at a steady rate and are not saved up.

    Args:
        bytes_s: bytes a second; None: as many as one likes.
    """

    def __init__(self, bytes_s: float | None) -> None:
        self._bytes_s = bytes_s
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until so many bytes may have passed; first come, first served."""
        if self._bytes_s is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + count / self._bytes_s
        await asyncio.sleep(self._free_at - now)


class ThrottledProxy:
    """Listens on a free port of loopback and passes everything to another port.

    Args:
        target_port: of the server.
        bytes_s: what may come from the server, all connections together; the other
            direction is free.
    """

    def __init__(self, target_port: int, bytes_s: float | None) -> None:
        self.port = 0
        self.from_server = 0
        self._target_port = target_port
        self._up = Bucket(bytes_s)
        self._free = Bucket(None)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen; `port` is known from then on."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()  # as if nobody listened
            return
        pumps = [
            asyncio.create_task(self._pump(reader, to_server, self._free)),
            asyncio.create_task(self._pump(answers, writer, self._up)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            to_server.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            await bucket.take(len(data))
            if bucket is self._up:
                self.from_server += len(data)
            writer.write(data)
            await writer.drain()
