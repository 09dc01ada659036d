"""What stands before every method: caps, stalls, revocation, garbage, translation."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import structlog

from tests.support.wire import MIB, Enrolment, serving, until
from weft.errors import (
    Denied,
    Exhausted,
    InvalidInput,
    Refused,
    Stalled,
    WeftError,
)
from weft.protocol.authorize import VERSION_KEY, Authorizer
from weft.protocol.channel import ChannelPool, call, peer_stub, stream
from weft.protocol.gate import Gate
from weft.protocol.identity import Credentials, Role
from weft.protocol.peer_channel import channel_options
from weft.protocol.server import Server
from weft.protocol.v1 import coordinator_pb2, peer_pb2
from weft.protocol.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)
from weft.protocol.v1.peer_pb2_grpc import PeerServicer

STATUS, FETCH = peer_pb2.StatusRequest(), peer_pb2.FetchRequest()


class Endless(PeerServicer):
    """Streams for ever; Status waits for the test."""

    def __init__(self) -> None:
        self.sent = 0
        self.open = 0
        self.go_on = asyncio.Event()
        self.raising: Exception | None = None

    async def Fetch(  # noqa: N802
        self, request: peer_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[peer_pb2.Chunk]:
        self.open += 1
        try:
            while True:
                yield peer_pb2.Chunk(data=bytes(MIB // 4))
                self.sent += 1
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def Status(  # noqa: N802
        self, request: peer_pb2.StatusRequest, context: Any
    ) -> peer_pb2.StatusReply:
        if self.raising is not None:
            raise self.raising
        await self.go_on.wait()
        return peer_pb2.StatusReply(node="done")


@pytest.fixture
async def pool(enrol: Enrolment) -> AsyncIterator[ChannelPool]:
    pool = ChannelPool(enrol("caller"))
    yield pool
    await pool.close()


def stub_of(pool: ChannelPool, port: int) -> Any:
    return peer_stub(pool.to(f"127.0.0.1:{port}", "server"))


async def test_streams_of_one_identity_are_capped(enrol: Enrolment, pool: ChannelPool) -> None:
    authorizer = Authorizer(streams_per_identity=2, calls_per_identity=1)
    peer = Endless()
    other = ChannelPool(enrol("other"))
    async with serving(enrol("server"), peer, authorizer=authorizer) as port:
        open_streams = [stream(stub_of(pool, port).Fetch, FETCH) for _ in range(2)]
        for one in open_streams:
            await anext(one)
        with pytest.raises(Exhausted, match="caller has 2 open streams here, the most allowed"):
            await anext(stream(stub_of(pool, port).Fetch, FETCH))
        await anext(stream(stub_of(other, port).Fetch, FETCH))  # others have their own places
        waiting = asyncio.create_task(call(stub_of(pool, port).Status, STATUS, timeout_s=5))
        await asyncio.sleep(0.1)
        with pytest.raises(Exhausted, match="1 open calls"):
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
        peer.go_on.set()
        await waiting
        await open_streams[0].aclose()
        await until(lambda: peer.open == 2)
        await anext(stream(stub_of(pool, port).Fetch, FETCH))  # a place was given back
        await other.close()


async def test_a_reader_that_stalls_is_ended(enrol: Enrolment, pool: ChannelPool) -> None:
    peer = Endless()
    async with serving(enrol("server"), peer, progress_s=0.5) as port:
        reading = stub_of(pool, port).Fetch(FETCH)
        await reading.read()
        with structlog.testing.capture_logs() as logged:
            await until(lambda: peer.open == 0, timeout_s=4)
        (entry,) = logged
        assert entry["reason"] == "caller took nothing for 0.5 s"
        sent = peer.sent
        assert sent < 100  # the window of a stream, and no more, was buffered
        reading.cancel()


class Gone:
    """The context of a call whose caller went away while it was written to."""

    def __init__(self, credentials: Credentials) -> None:
        self._pem = credentials.certificate_pem
        self.aborted = False

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem], "ssl_tls_version": [b"TLSv1.3"]}

    async def write(self, message: Any) -> None:
        raise grpc.aio.InternalError("execute_batch failed")

    async def abort(self, code: Any, message: str) -> None:
        self.aborted = True


async def test_a_caller_that_went_away_ends_the_call_in_silence(enrol: Enrolment) -> None:
    peer, context = Endless(), Gone(enrol("caller"))
    handler = grpc.unary_stream_rpc_method_handler(
        peer.Fetch,
        request_deserializer=peer_pb2.FetchRequest.FromString,
        response_serializer=peer_pb2.Chunk.SerializeToString,
    )

    async def continuation(details: Any) -> Any:
        return handler

    details: Any = SimpleNamespace(
        method="/weft.v1.Peer/Fetch", invocation_metadata=((VERSION_KEY, "1"),)
    )
    guarded: Any = await Gate(Authorizer(), "test", 1.0, None).intercept_service(
        continuation, details
    )
    call = asyncio.create_task(guarded.unary_stream(b"", context))
    await asyncio.wait({call})
    assert call.cancelled()  # gRPC logs any other end, with a traceback
    assert not context.aborted
    assert peer.open == 0


async def test_a_reader_that_is_slow_is_not_ended(enrol: Enrolment, pool: ChannelPool) -> None:
    async with serving(enrol("server"), Endless(), progress_s=0.5) as port:
        reading = stub_of(pool, port).Fetch(FETCH)
        for _ in range(12):
            chunk = await reading.read()
            assert len(chunk.data) == MIB // 4
            await asyncio.sleep(0.15)
        reading.cancel()


class Taking(CoordinatorServicer):
    """Takes what is sent and counts it."""

    def __init__(self) -> None:
        self.taken = 0
        self.ended: BaseException | None = None

    async def PutArtifact(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> coordinator_pb2.PutArtifactReply:
        try:
            async for _ in request_iterator:
                self.taken += 1
        except BaseException as error:
            self.ended = error
            raise
        return coordinator_pb2.PutArtifactReply(digest="end")


async def test_a_sender_that_stalls_is_ended(enrol: Enrolment) -> None:
    taking = Taking()
    server = Server(
        credentials=enrol("hub", Role.COORDINATOR),
        listen="127.0.0.1:0",
        authorizer=Authorizer(),
        progress_s=0.4,
    )
    server.add(lambda to: add_CoordinatorServicer_to_server(taking, to))
    pool = ChannelPool(enrol("operator", Role.OPERATOR))
    method: Any = pool.to(f"127.0.0.1:{await server.start()}", "hub").stream_unary(
        "/weft.v1.Coordinator/PutArtifact",
        coordinator_pb2.PutArtifactRequest.SerializeToString,
        coordinator_pb2.PutArtifactReply.FromString,
    )
    sending = method.unbounded()
    for _ in range(4):
        await sending.write(coordinator_pb2.PutArtifactRequest(manifest_piece=b"x"))
        await asyncio.sleep(0.2)  # slow, but it moves
    assert taking.ended is None
    await until(lambda: taking.ended is not None, timeout_s=3)
    assert isinstance(taking.ended, Stalled)
    assert "operator sent nothing for 0.4 s" in str(taking.ended)
    assert taking.taken == 4
    await pool.close()
    await server.stop(0)


async def test_a_revoked_caller_loses_its_open_streams(enrol: Enrolment, pool: ChannelPool) -> None:
    revoked: set[str] = set()
    peer = Endless()
    authorizer = Authorizer(revoked=lambda: revoked)
    async with serving(enrol("server"), peer, authorizer=authorizer) as port:
        messages = stream(stub_of(pool, port).Fetch, FETCH)
        await anext(messages)
        revoked.add(enrol("caller").identity.serial)
        with pytest.raises(Denied, match="the certificate of caller was revoked"):
            async for _ in messages:
                pass
        with pytest.raises(Denied, match="revoked"):
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
        assert peer.open == 0


async def test_garbage_is_invalid(enrol: Enrolment) -> None:
    async with (
        serving(enrol("server"), Endless()) as port,
        grpc.aio.secure_channel(
            f"127.0.0.1:{port}", enrol("caller").channel(), options=channel_options("server")
        ) as channel,
    ):
        method = channel.unary_unary(
            "/weft.v1.Peer/Status", request_serializer=bytes, response_deserializer=bytes
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"\xff\xff\xff", timeout=5, metadata=(("weft-protocol", "1"),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("raised", "family", "told"),
    [
        (ExceptionGroup("two", [Refused("first"), ValueError("x")]), Refused, "first"),
        (ExceptionGroup("o", [ExceptionGroup("i", [InvalidInput("in")])]), InvalidInput, "in"),
        (KeyError("secret"), WeftError, "internal error, reference"),
    ],
    ids=["group", "nested group", "internal"],
)
async def test_what_a_servicer_raises_is_translated(
    raised: Exception, family: type[WeftError], told: str, enrol: Enrolment, pool: ChannelPool
) -> None:
    peer = Endless()
    peer.raising = raised
    async with serving(enrol("server"), peer) as port:
        with pytest.raises(family, match=told) as caught:
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
    assert type(caught.value) is family
    assert "secret" not in str(caught.value)
