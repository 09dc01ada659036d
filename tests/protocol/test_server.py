"""The server: its address, its health, its limits, its end."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.wire import Enrolment, HoldingPeer, serving
from weft.checkpoints.store import Store
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool, call, peer_stub
from weft.protocol.errors import BadAddress
from weft.protocol.server import Server
from weft.protocol.v1.peer_pb2 import StatusReply, StatusRequest
from weft.protocol.v1.peer_pb2_grpc import PeerServicer, add_PeerServicer_to_server


@pytest.fixture
async def pool(enrol: Enrolment) -> AsyncIterator[ChannelPool]:
    pool = ChannelPool(enrol("caller"))
    yield pool
    await pool.close()


def server_at(enrol: Enrolment, listen: str, **options: Any) -> Server:
    return Server(credentials=enrol("server"), listen=listen, authorizer=Authorizer(), **options)


# -- addresses ---------------------------------------------------------------


async def test_a_free_port_is_reported(enrol: Enrolment) -> None:
    server = server_at(enrol, "127.0.0.1:0")
    port = await server.start()
    assert 0 < port < 65536
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await server.stop(0)


async def test_a_taken_port_is_named_with_its_key(enrol: Enrolment) -> None:
    first = server_at(enrol, "127.0.0.1:0")
    port = await first.start()
    second = server_at(enrol, f"127.0.0.1:{port}", config_key="peer.listen")
    with pytest.raises(BadAddress, match=rf"peer\.listen = '127.0.0.1:{port}': port {port} "):
        await second.start()
    await first.stop(0)


async def test_an_address_of_another_machine_is_told(enrol: Enrolment) -> None:
    with pytest.raises(BadAddress, match=r"listen = '192\.0\.2\.1:7400'"):
        await server_at(enrol, "192.0.2.1:7400").start()


@pytest.mark.parametrize("listen", ["7400", "host", "host:", "host:port", "host:70000", ""])
async def test_what_is_no_address_is_told(enrol: Enrolment, listen: str) -> None:
    with pytest.raises(BadAddress, match="expected host:port"):
        await server_at(enrol, listen).start()


# -- health ------------------------------------------------------------------


async def test_health_follows_what_it_is_told(enrol: Enrolment, pool: ChannelPool) -> None:
    server = server_at(enrol, "127.0.0.1:0")
    port = await server.start()
    stub: Any = health_pb2_grpc.HealthStub(pool.to(f"127.0.0.1:{port}", "server"))
    states = health_pb2.HealthCheckResponse.ServingStatus

    async def status() -> int:
        reply = await call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=5)
        return int(reply.status)

    assert await status() == states.SERVING
    await server.set_serving(False)
    assert await status() == states.NOT_SERVING
    await server.set_serving(True)
    assert await status() == states.SERVING
    await server.stop(0)


async def test_health_can_be_watched(enrol: Enrolment, pool: ChannelPool) -> None:
    server = server_at(enrol, "127.0.0.1:0")
    port = await server.start()
    stub: Any = health_pb2_grpc.HealthStub(pool.to(f"127.0.0.1:{port}", "server"))
    watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    states = health_pb2.HealthCheckResponse.ServingStatus
    assert (await watching.read()).status == states.SERVING
    await server.set_serving(False)
    assert (await watching.read()).status == states.NOT_SERVING
    watching.cancel()
    await server.stop(0)


# -- limits ------------------------------------------------------------------


async def test_mute_connections_are_closed_and_disturb_nobody(
    enrol: Enrolment, held: Store, pool: ChannelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.protocol.limits.HANDSHAKE_S", 1.0)
    async with serving(enrol("server"), HoldingPeer(held)) as port:
        mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        stub = peer_stub(pool.to(f"127.0.0.1:{port}", "server"))
        await call(stub.Status, StatusRequest(), timeout_s=1)
        start = time.monotonic()
        async with asyncio.timeout(4):
            ended = await asyncio.gather(*(reader.read() for reader, _ in mute))
        assert time.monotonic() - start < 3
        assert len(ended) == 100
        for _, writer in mute:
            writer.close()


# -- the end -----------------------------------------------------------------


class Slow(PeerServicer):
    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def Status(self, request: StatusRequest, context: Any) -> StatusReply:  # noqa: N802
        self.begun.set()
        await asyncio.sleep(0.3)
        return StatusReply(node="finished")


@pytest.mark.parametrize(("grace_s", "finishes"), [(5.0, True), (0.0, False)])
async def test_open_calls_have_the_grace_time(
    grace_s: float, finishes: bool, enrol: Enrolment, pool: ChannelPool
) -> None:
    slow = Slow()
    server = server_at(enrol, "127.0.0.1:0")
    server.add(lambda to: add_PeerServicer_to_server(slow, to))
    port = await server.start()
    stub = peer_stub(pool.to(f"127.0.0.1:{port}", "server"))
    asking = asyncio.create_task(call(stub.Status, StatusRequest(), timeout_s=5))
    await slow.begun.wait()
    await server.stop(grace_s)
    results = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(results[0], StatusReply) is finishes


async def test_a_stopped_server_leaves_its_port(enrol: Enrolment) -> None:
    first = server_at(enrol, "127.0.0.1:0")
    port = await first.start()
    await first.stop(0)
    second = server_at(enrol, f"127.0.0.1:{port}")
    assert await second.start() == port
    await second.stop(0)


async def test_services_that_are_not_there_are_unimplemented(
    enrol: Enrolment, held: Store, pool: ChannelPool
) -> None:
    async with serving(enrol("server"), HoldingPeer(held)) as port:
        channel = pool.to(f"127.0.0.1:{port}", "server")
        other: Any = channel.unary_unary(
            "/weft.v2.Peer/Status", StatusRequest.SerializeToString, StatusReply.FromString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other(StatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
