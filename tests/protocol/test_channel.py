"""Calling a peer: deadlines, limits, families of errors, bytes, retries."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from tests.support.wire import MIB, Enrolment, serving, until
from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Stalled,
    Unavailable,
    WeftError,
)
from weft.protocol import limits
from weft.protocol.channel import (
    ChannelPool,
    call,
    coordinator_stub,
    peer_stub,
    retrying,
    send,
    stream,
)
from weft.protocol.errors import MissingDeadline
from weft.protocol.identity import identity_of
from weft.protocol.peer_channel import channel_options
from weft.protocol.server import server_options
from weft.protocol.status import FAMILIES
from weft.protocol.v1 import coordinator_pb2, peer_pb2
from weft.protocol.v1.peer_pb2_grpc import PeerServicer


class Scripted(PeerServicer):
    """Status does what the test says; Fetch streams what it says."""

    def __init__(
        self,
        status: Callable[[Any], Awaitable[peer_pb2.StatusReply]] | None = None,
        fetch: Callable[[Any], AsyncIterator[peer_pb2.Chunk]] | None = None,
    ) -> None:
        self._status, self._fetch = status, fetch

    async def Status(  # noqa: N802
        self, request: peer_pb2.StatusRequest, context: Any
    ) -> peer_pb2.StatusReply:
        if self._status is None:
            return peer_pb2.StatusReply(node=identity_of(context).name)
        return await self._status(context)

    async def Fetch(  # noqa: N802
        self, request: peer_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[peer_pb2.Chunk]:
        if self._fetch is not None:
            async for chunk in self._fetch(context):
                yield chunk


@pytest.fixture
async def pool(enrol: Enrolment) -> AsyncIterator[ChannelPool]:
    pool = ChannelPool(enrol("caller"))
    yield pool
    await pool.close()


def stub_of(pool: ChannelPool, port: int, name: str = "server") -> Any:
    return peer_stub(pool.to(f"127.0.0.1:{port}", name))


async def collect(chunks: AsyncIterator[peer_pb2.Chunk], into: list[int]) -> None:
    """The indices of a stream, as far as it goes."""
    async for chunk in chunks:
        into.append(chunk.index)  # noqa: PERF401 - what came before an error counts


STATUS = peer_pb2.StatusRequest()
FETCH = peer_pb2.FetchRequest()


# -- options -----------------------------------------------------------------


@pytest.mark.parametrize("options", [channel_options("a"), server_options()])
def test_all_three_keepalive_arguments_are_set(options: list[tuple[str, Any]]) -> None:
    """Without the last a stopped peer is noticed after a minute, whatever the others say."""
    found = dict(options)
    assert found["grpc.keepalive_time_ms"] == 20_000
    assert found["grpc.keepalive_timeout_ms"] == 10_000
    assert found["grpc.http2.ping_timeout_ms"] == 10_000
    assert found["grpc.http2.max_pings_without_data"] == 0
    assert found["grpc.keepalive_permit_without_calls"] == 1


def test_a_server_allows_the_pings_of_our_channels() -> None:
    least = dict(server_options())["grpc.http2.min_ping_interval_without_data_ms"]
    assert least < dict(channel_options("a"))["grpc.keepalive_time_ms"]


@pytest.mark.parametrize("options", [channel_options("a"), server_options()])
def test_messages_are_bounded_both_ways(options: list[tuple[str, Any]]) -> None:
    found = dict(options)
    assert found["grpc.max_receive_message_length"] == 4 * MIB
    assert found["grpc.max_send_message_length"] == 4 * MIB


def test_channels_share_no_connection() -> None:
    """Bulk and control would meet in one of gRPC's pool otherwise."""
    assert dict(channel_options("a"))["grpc.use_local_subchannel_pool"] == 1


def test_options_are_unique() -> None:
    for options in (channel_options("a"), server_options()):
        assert max(Counter(name for name, _ in options).values()) == 1


# -- calls -------------------------------------------------------------------


async def test_a_call_is_answered_by_whom_was_meant(enrol: Enrolment, pool: ChannelPool) -> None:
    async with serving(enrol("server"), Scripted()) as port:
        reply = await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
    assert reply.node == "caller"


async def test_a_call_without_a_deadline_is_refused(pool: ChannelPool) -> None:
    peer = stub_of(pool, 1)
    with pytest.raises(MissingDeadline, match=r"Peer/Status of server .* without a timeout"):
        peer.Status(STATUS)
    coordinator: Any = coordinator_stub(pool.to("127.0.0.1:1", "coordinator"))
    with pytest.raises(MissingDeadline):
        coordinator.PutArtifact(iter([]))
    with pytest.raises(MissingDeadline):
        coordinator.Join(coordinator_pb2.JoinRequest())


async def test_a_deadline_is_kept_and_told(enrol: Enrolment, pool: ChannelPool) -> None:
    async def slow(context: Any) -> peer_pb2.StatusReply:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    async with serving(enrol("server"), Scripted(slow)) as port:
        start = time.monotonic()
        with pytest.raises(Stalled, match=r"^server .*no answer to Peer/Status within 0.2 s$"):
            await call(stub_of(pool, port).Status, STATUS, timeout_s=0.2)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
async def test_what_is_raised_there_is_raised_here(
    family: type[WeftError], enrol: Enrolment, pool: ChannelPool
) -> None:
    async def failing(context: Any) -> peer_pb2.StatusReply:
        raise family("the reason, in /var/lib/weft/data")

    async with serving(enrol("server"), Scripted(failing)) as port:
        with pytest.raises(WeftError) as caught:
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
    assert type(caught.value) is family
    assert str(caught.value) == f"server (127.0.0.1:{port}): the reason, in data"


async def test_what_is_raised_in_a_stream_is_raised_here(
    enrol: Enrolment, pool: ChannelPool
) -> None:
    async def failing(context: Any) -> AsyncIterator[peer_pb2.Chunk]:
        yield peer_pb2.Chunk(index=1)
        raise NotFound("no more")

    async with serving(enrol("server"), Scripted(fetch=failing)) as port:
        seen: list[int] = []
        with pytest.raises(NotFound, match="no more"):
            await collect(stream(stub_of(pool, port).Fetch, FETCH), seen)
    assert seen == [1]


@pytest.mark.parametrize("size", [4 * MIB - 100, 5 * MIB])
async def test_a_message_of_5_mib_is_refused(
    size: int, enrol: Enrolment, pool: ChannelPool
) -> None:
    async def big(context: Any) -> peer_pb2.StatusReply:
        return peer_pb2.StatusReply(document="x" * size)

    async with serving(enrol("server"), Scripted(big)) as port:
        if size < 4 * MIB:
            reply = await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
            assert len(reply.document) == size
            return
        with pytest.raises(Exhausted):
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)


async def test_an_answer_that_is_no_message_is_corrupt(
    enrol: Enrolment, pool: ChannelPool, caplog: pytest.LogCaptureFixture
) -> None:
    async def garbage(context: Any) -> Any:
        return b"\xff\xff\xff"  # the gate sends bytes as they are

    async def garbled(context: Any) -> AsyncIterator[Any]:
        yield b"\xff\xff\xff"

    async with serving(enrol("server"), Scripted(garbage, garbled)) as port:
        with pytest.raises(Corrupt, match="Peer/Status answers what is no message of its type"):
            await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
        with pytest.raises(Corrupt, match="Peer/Fetch answers what is no message of its type"):
            await anext(stream(stub_of(pool, port).Fetch, FETCH))
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_caller_without_our_limits_is_refused_too(enrol: Enrolment) -> None:
    options = [*channel_options("server"), ("grpc.max_send_message_length", -1)]
    async with (
        serving(enrol("server"), Scripted()) as port,
        grpc.aio.secure_channel(
            f"127.0.0.1:{port}", enrol("caller").channel(), options=options
        ) as channel,
    ):
        status = channel.unary_unary(
            "/weft.v1.Peer/Status",
            request_serializer=lambda size: bytes(size),
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(5 * MIB, timeout=5, metadata=(("weft-protocol", "1"),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_are_counted_by_peer_and_way(enrol: Enrolment) -> None:
    here: Counter[tuple[str, str]] = Counter()
    there: Counter[tuple[str, str]] = Counter()

    def count(into: Counter[tuple[str, str]]) -> Callable[[str, str, int], None]:
        def moved(peer: str, way: str, count: int) -> None:
            into[peer, way] += count

        return moved

    async def two(context: Any) -> AsyncIterator[peer_pb2.Chunk]:
        yield peer_pb2.Chunk(index=1, data=bytes(1000))
        yield peer_pb2.Chunk(index=1, data=bytes(1000))

    pool = ChannelPool(enrol("caller"), on_bytes=count(here))
    async with serving(enrol("server"), Scripted(fetch=two), on_bytes=count(there)) as port:
        request = peer_pb2.FetchRequest(digest="ab" * 32)
        async for _ in stream(stub_of(pool, port).Fetch, request):
            pass
        await pool.close()
    size = peer_pb2.Chunk(index=1, data=bytes(1000)).ByteSize()
    assert here == {("server", "received"): 2 * size, ("server", "sent"): request.ByteSize()}
    assert there == {("caller", "sent"): 2 * size, ("caller", "received"): request.ByteSize()}


# -- streams -----------------------------------------------------------------


async def test_a_stream_that_stands_still_is_noticed(enrol: Enrolment, pool: ChannelPool) -> None:
    ended = asyncio.Event()

    async def halting(context: Any) -> AsyncIterator[peer_pb2.Chunk]:
        try:
            for index in range(4):
                yield peer_pb2.Chunk(index=index)
                await asyncio.sleep(0.15)
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with serving(enrol("server"), Scripted(fetch=halting)) as port:
        seen: list[int] = []
        with pytest.raises(Stalled, match=r"stood still for 0.4 s"):
            await collect(stream(stub_of(pool, port).Fetch, FETCH, progress_s=0.4), seen)
        assert seen == [0, 1, 2, 3]  # 0.6 s in all: only standing still counts
        async with asyncio.timeout(2):
            await ended.wait()


async def test_leaving_a_stream_ends_it_there(enrol: Enrolment, pool: ChannelPool) -> None:
    ended = asyncio.Event()

    async def endless(context: Any) -> AsyncIterator[peer_pb2.Chunk]:
        try:
            while True:
                yield peer_pb2.Chunk(data=bytes(1000))
        finally:
            ended.set()

    async with serving(enrol("server"), Scripted(fetch=endless)) as port:
        async with aclosing(stream(stub_of(pool, port).Fetch, FETCH)) as messages:
            await anext(messages)
        async with asyncio.timeout(2):
            await ended.wait()


async def test_cancelling_a_caller_stays_a_cancellation(
    enrol: Enrolment, pool: ChannelPool
) -> None:
    async def silent(context: Any) -> AsyncIterator[peer_pb2.Chunk]:
        await asyncio.sleep(60)
        yield peer_pb2.Chunk()

    async def slow(context: Any) -> peer_pb2.StatusReply:
        await asyncio.sleep(60)
        return peer_pb2.StatusReply()

    async with serving(enrol("server"), Scripted(slow, silent)) as port:
        stub = stub_of(pool, port)

        async def follow() -> None:
            async for _ in stream(stub.Fetch, FETCH):
                pass

        for work in (follow(), call(stub.Status, STATUS, timeout_s=30)):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_closing_the_pool_is_no_cancellation(enrol: Enrolment) -> None:
    pool = ChannelPool(enrol("caller"))

    async def slow(context: Any) -> peer_pb2.StatusReply:
        await asyncio.sleep(60)
        return peer_pb2.StatusReply()

    async with serving(enrol("server"), Scripted(slow)) as port:
        stub = stub_of(pool, port)
        waiting = asyncio.create_task(call(stub.Status, STATUS, timeout_s=30))
        await asyncio.sleep(0.1)
        await pool.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable, match="the channel was closed"):
            await call(stub.Status, STATUS, timeout_s=5)
        with pytest.raises(Unavailable, match="the channel was closed"):
            await anext(stream(stub.Fetch, FETCH))


# -- sending many ------------------------------------------------------------


Taking = Callable[[AsyncIterator[Any]], Awaitable[coordinator_pb2.PutArtifactReply]]


async def sent(
    enrol: Enrolment, taking: Taking, requests: AsyncIterator[Any], *, progress_s: float = 5.0
) -> Any:
    """What `send` makes of PutArtifact when the server takes messages in this way."""
    from weft.protocol.authorize import Authorizer
    from weft.protocol.identity import Role
    from weft.protocol.server import Server
    from weft.protocol.v1.coordinator_pb2_grpc import (
        CoordinatorServicer,
        add_CoordinatorServicer_to_server,
    )

    class Taker(CoordinatorServicer):
        async def PutArtifact(  # noqa: N802
            self, request_iterator: AsyncIterator[Any], context: Any
        ) -> coordinator_pb2.PutArtifactReply:
            return await taking(request_iterator)

    server = Server(
        credentials=enrol("hub", Role.COORDINATOR), listen="127.0.0.1:0", authorizer=Authorizer()
    )
    server.add(lambda to: add_CoordinatorServicer_to_server(Taker(), to))
    pool = ChannelPool(enrol("operator", Role.OPERATOR))
    try:
        channel = pool.to(f"127.0.0.1:{await server.start()}", "hub")
        method = coordinator_stub(channel).PutArtifact
        return await send(method, requests, progress_s=progress_s)
    finally:
        await pool.close()
        await server.stop(0)


async def messages(count: int, size: int = 10) -> AsyncIterator[coordinator_pb2.PutArtifactRequest]:
    for _ in range(count):
        yield coordinator_pb2.PutArtifactRequest(manifest_piece=bytes(size))


async def test_many_messages_one_answer(enrol: Enrolment) -> None:
    async def taking(requests: AsyncIterator[Any]) -> coordinator_pb2.PutArtifactReply:
        count = 0
        async for _ in requests:
            count += 1
        return coordinator_pb2.PutArtifactReply(digest=str(count))

    assert (await sent(enrol, taking, messages(20))).digest == "20"


async def test_an_early_answer_is_told_from_a_whole_one(enrol: Enrolment) -> None:
    async def taking(requests: AsyncIterator[Any]) -> coordinator_pb2.PutArtifactReply:
        await anext(requests)
        return coordinator_pb2.PutArtifactReply(digest="enough")

    with pytest.raises(Unavailable, match=r"^hub .*: answered before it had taken everything$"):
        await sent(enrol, taking, messages(5000, 100_000))


@pytest.mark.parametrize("attempt", range(10))
async def test_a_refusal_half_way_is_told(attempt: int, enrol: Enrolment) -> None:
    async def taking(requests: AsyncIterator[Any]) -> coordinator_pb2.PutArtifactReply:
        await anext(requests)
        raise Refused("against another base")

    with pytest.raises(Refused, match=r"^hub .*: against another base$"):
        await sent(enrol, taking, messages(5000, 100_000))


async def test_a_receiver_that_takes_nothing_is_noticed(enrol: Enrolment) -> None:
    async def taking(requests: AsyncIterator[Any]) -> coordinator_pb2.PutArtifactReply:
        await asyncio.sleep(60)
        return coordinator_pb2.PutArtifactReply()

    with pytest.raises(Stalled, match=r"stood still for 0.4 s"):
        await sent(enrol, taking, messages(5000, 100_000), progress_s=0.4)


# -- pools -------------------------------------------------------------------


async def test_a_pool_keeps_one_channel_a_peer_and_purpose(pool: ChannelPool) -> None:
    channel = pool.to("127.0.0.1:1", "a")
    assert pool.to("127.0.0.1:1", "a") is channel
    assert pool.to("127.0.0.1:1", "b") is not channel
    assert pool.to("127.0.0.1:2", "a") is not channel
    assert pool.to("127.0.0.1:1", "a", bulk=True) is not channel
    assert pool.credentials.identity.name == "caller"


async def test_a_server_that_comes_back_is_found_again(enrol: Enrolment, pool: ChannelPool) -> None:
    async with serving(enrol("server"), Scripted()) as port:
        await call(stub_of(pool, port).Status, STATUS, timeout_s=5)
    with pytest.raises(Unavailable):
        await call(stub_of(pool, port).Status, STATUS, timeout_s=0.5)

    from weft.protocol.authorize import Authorizer
    from weft.protocol.server import Server
    from weft.protocol.v1.peer_pb2_grpc import add_PeerServicer_to_server

    server = Server(
        credentials=enrol("server"), listen=f"127.0.0.1:{port}", authorizer=Authorizer()
    )
    server.add(lambda to: add_PeerServicer_to_server(Scripted(), to))
    await server.start()
    start = time.monotonic()
    try:

        async def ask() -> Any:
            return await call(stub_of(pool, port).Status, STATUS, timeout_s=2)

        assert (await retrying(ask, attempts=20, longest_s=0.3)).node == "caller"
    finally:
        await server.stop(0)
    assert time.monotonic() - start < limits.RECONNECT_LONGEST_S


# -- retries -----------------------------------------------------------------


class Attempts:
    """Fails with each error in turn, then answers."""

    def __init__(self, *errors: WeftError) -> None:
        self.errors = list(errors)
        self.count = 0
        self.slept: list[float] = []

    async def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_unavailable_is_tried_again_with_growing_pauses() -> None:
    attempts = Attempts(Unavailable("1"), Stalled("2"), Unavailable("3"))
    answer = await retrying(attempts, sleep=attempts.sleep, chance=lambda: 1.0)
    assert answer == "answer"
    assert attempts.slept == [0.2, 0.4, 0.8]


async def test_attempts_are_counted() -> None:
    attempts = Attempts(*(Unavailable(str(n)) for n in range(9)))
    with pytest.raises(Unavailable, match=r"^2$"):
        await retrying(attempts, attempts=3, sleep=attempts.sleep)
    assert attempts.count == 3
    assert len(attempts.slept) == 2


@pytest.mark.parametrize("error", [Denied("d"), InvalidInput("i"), Refused("r"), WeftError("w")])
async def test_what_trying_again_cannot_mend_ends_at_once(error: WeftError) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        await retrying(attempts, sleep=attempts.sleep)
    assert attempts.count == 1


async def test_no_attempts_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await retrying(Attempts(), attempts=0)


async def test_until_is_patient() -> None:
    """The helper that other tests wait with does wait, and does give up."""
    flags: list[int] = []
    asyncio.get_running_loop().call_later(0.05, flags.append, 1)
    await until(lambda: bool(flags))
    with pytest.raises(TimeoutError):
        await until(lambda: False, timeout_s=0.05)
