"""The fault proxy itself: each fault does what it says, or the tests that use it lie."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.proxy import FaultProxy, Faults

DATA = bytes(range(256)) * 400  # 102,400 bytes
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def through(faults: Faults) -> AsyncIterator[tuple[FaultProxy, Streams, list[bytes]]]:
    """A proxy before a server that takes one line, answers DATA, and keeps what it took."""
    taken: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readline())
        writer.write(DATA)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1], faults) as proxy:
        streams = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, streams, taken
        finally:
            streams[1].transport.abort()


async def ask(streams: Streams) -> bytes:
    reader, writer = streams
    writer.write(b"hello\n")
    return await reader.readexactly(len(DATA))


async def test_without_faults_everything_passes_and_is_counted() -> None:
    async with through(Faults()) as (proxy, streams, taken):
        assert await ask(streams) == DATA
        assert taken == [b"hello\n"]
        assert (proxy.sent, proxy.received, proxy.connections) == (6, len(DATA), 1)


async def test_delay_is_once_each_way_and_not_once_a_part() -> None:
    async with through(Faults(delay_s=0.2)) as (_, streams, _taken):
        start = time.monotonic()
        assert await ask(streams) == DATA
        assert 0.4 <= time.monotonic() - start < 1.0


async def test_rate() -> None:
    async with through(Faults(rate_bytes_s=2 * len(DATA))) as (_, streams, _taken):
        start = time.monotonic()
        assert await ask(streams) == DATA
        assert 0.35 < time.monotonic() - start < 1.5


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_cut(reset: bool) -> None:
    async with through(Faults(cut_after=[5000], reset=reset)) as (proxy, streams, _):
        reader, writer = streams
        writer.write(b"hello\n")
        if reset:
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(len(DATA))
        else:
            assert await reader.read(-1) == DATA[:5000]
        assert proxy.received == 5000
        again = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ask(again) == DATA  # only the connections of the list are cut
        again[1].transport.abort()


async def test_flip() -> None:
    async with through(Faults(flip_at=70_000)) as (_, streams, _taken):
        found = await ask(streams)
    assert [at for at, byte in enumerate(found) if byte != DATA[at]] == [70_000]


async def test_black_hole_to_the_client() -> None:
    async with through(Faults(black_hole="to_client")) as (proxy, streams, taken):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(streams)
        assert taken == [b"hello\n"]
        assert proxy.received == 0


async def test_black_hole_to_the_server() -> None:
    async with through(Faults(black_hole="to_server")) as (proxy, streams, taken):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(streams)
        assert taken == []
        assert proxy.sent == 0
