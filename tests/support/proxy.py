"""A TCP proxy that breaks what passes through it, on purpose and on time.

    async with FaultProxy(port) as proxy:
        proxy.faults = Faults(rate_bytes_s=200_000, cut_after=[1_000_000])
        ... dial proxy.port ...

User space only: it needs no privilege. `sent` and `received` count what went to
the server and came from it, over all connections.
"""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Direction = Literal["to_server", "to_client"]

_READ_BYTES = 16 * 2**10


@dataclass(slots=True)
class Faults:
    """What the proxy does to what passes; may be changed while it runs.

    Attributes:
        delay_s: each byte arrives so much later; order and rate stay.
        rate_bytes_s: from the server, a connection; None: as fast as it goes.
        cut_after: for the n-th connection, the bytes from the server after which it
            is cut; connections beyond the list are not.
        reset: cuts are by RST and not by FIN.
        black_hole: what goes this way is swallowed from now on.
        flip_at: the byte from the server (of each connection) in which a bit is flipped.
    """

    delay_s: float = 0.0
    rate_bytes_s: float | None = None
    cut_after: list[int] = field(default_factory=list)
    reset: bool = False
    black_hole: Direction | None = None
    flip_at: int | None = None


class FaultProxy:
    """Listens on a free port of loopback and passes everything to another port."""

    def __init__(self, target_port: int, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.port = 0
        self.connections = 0
        self.sent = 0
        self.received = 0
        self._target_port = target_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        number, self.connections = self.connections, self.connections + 1
        cuts = self.faults.cut_after
        cut_after = cuts[number] if number < len(cuts) else None
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pumps = [
            asyncio.create_task(self._pump(reader, to_server, "to_server", None)),
            asyncio.create_task(self._pump(from_server, writer, "to_client", cut_after)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._close(writer)
            to_server.transport.abort()

    def _close(self, writer: asyncio.StreamWriter) -> None:
        if self.faults.reset:
            found = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        cut_after: int | None,
    ) -> None:
        passed = 0
        async with contextlib.aclosing(self._delayed(reader)) as parts:
            async for part in parts:
                if self.faults.black_hole == direction:
                    continue
                data = part if cut_after is None else part[: cut_after - passed]
                if direction == "to_client":
                    data = self._flipped(data, passed)
                    self.received += len(data)
                else:
                    self.sent += len(data)
                passed += len(data)
                writer.write(data)
                await writer.drain()
                if direction == "to_client" and self.faults.rate_bytes_s:
                    await asyncio.sleep(len(data) / self.faults.rate_bytes_s)
                if cut_after is not None and passed >= cut_after:
                    return

    def _flipped(self, data: bytes, passed: int) -> bytes:
        at = self.faults.flip_at
        if at is None or not passed <= at < passed + len(data):
            return data
        changed = bytearray(data)
        changed[at - passed] ^= 0x10
        return bytes(changed)

    async def _delayed(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Parts as they come, each `delay_s` after it came: a queue of times, no sleep in line."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def fill() -> None:
            for _ in itertools.count():
                try:
                    data = await reader.read(_READ_BYTES)
                except OSError:
                    data = b""
                await queue.put((loop.time() + self.faults.delay_s, data))
                if not data:
                    return

        filling = asyncio.create_task(fill())
        try:
            while True:
                due, data = await queue.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not data:
                    return
                yield data
        finally:
            filling.cancel()
