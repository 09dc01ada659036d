"""Channels to other members: mutual TLS, an expected name, a deadline on every call.

A pool keeps one connection a peer and purpose; what it returns is a gRPC channel
for the generated stubs.

    pool = ChannelPool(credentials)
    stub = peer_stub(pool.to("10.0.0.7:7400", "node-b"))
    reply = await call(stub.Status, StatusRequest(), timeout_s=5)
    async for plan in stream(stub.Watch, request, progress_s=30): ...

What the other side raised is raised here, of the same family and with its
message. Stable.
"""

import asyncio
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
)
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

import grpc

from weft.errors import Stalled, Unavailable, WeftError
from weft.protocol.errors import CorruptTransfer
from weft.protocol.gate import OnBytes
from weft.protocol.handshake import require_welcome
from weft.protocol.identity import Credentials
from weft.protocol.limits import PROGRESS_S
from weft.protocol.peer_channel import UNREADABLE, Endpoint, Method, PeerChannel
from weft.protocol.status import error_of
from weft.protocol.statuses import BrokenWrite, Statuses, write
from weft.protocol.transfer import pause_s
from weft.protocol.v1.continual_pb2_grpc import ContinualStub
from weft.protocol.v1.coordinator_pb2_grpc import CoordinatorStub
from weft.protocol.v1.peer_pb2_grpc import PeerStub

Answer = TypeVar("Answer")

_FAILURES: Final = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    TimeoutError,
    asyncio.CancelledError,
)


class ChannelPool:
    """Opens channels once and keeps them.

    Args:
        credentials: this member's.
        on_bytes: told (peer, "sent" or "received", bytes) for every message.
    """

    def __init__(self, credentials: Credentials, *, on_bytes: OnBytes | None = None) -> None:
        self._credentials = credentials
        self._on_bytes = on_bytes
        self._channels: dict[tuple[str, str, bool], PeerChannel] = {}

    @property
    def credentials(self) -> Credentials:
        """This member's credentials."""
        return self._credentials

    def to(self, address: str, expected_name: str, *, bulk: bool = False) -> grpc.aio.Channel:
        """A channel to an address, answered by the member of that name or not at all.

        Args:
            address: host:port.
            expected_name: the name in the other side's certificate.
            bulk: a connection of its own, so that control never waits behind it.
        """
        key = (address, expected_name, bulk)
        if key not in self._channels:
            endpoint = Endpoint(address=address, name=expected_name, credentials=self._credentials)
            self._channels[key] = PeerChannel(endpoint, self._on_bytes)
        return self._channels[key]

    async def close(self) -> None:
        """Close every channel; their open calls end."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()


def peer_stub(channel: grpc.aio.Channel) -> PeerStub:
    """The generated stub of the service Peer, typed."""
    return PeerStub(channel)


def coordinator_stub(channel: grpc.aio.Channel) -> CoordinatorStub:
    """The generated stub of the service Coordinator, typed."""
    return CoordinatorStub(channel)


def continual_stub(channel: grpc.aio.Channel) -> ContinualStub:
    """The generated stub of the service Continual, typed."""
    return ContinualStub(channel)


async def call(method: Any, request: Any, *, timeout_s: float) -> Any:
    """Call a method that answers once.

    Args:
        method: of a stub on a channel of `ChannelPool`.
        request: its message.
        timeout_s: the deadline; the other side is told of it too.

    Raises:
        WeftError: what the other side raised, by family; `Stalled` past the
            deadline, `Unavailable` where it cannot be reached, `HandshakeFailed`
            where the two do not accept each other.
    """
    async with _translating(method, timeout_s):
        return _readable(await method(request, timeout=timeout_s), method)


async def stream(
    method: Any, request: Any, *, progress_s: float = PROGRESS_S, first_s: float | None = None
) -> AsyncGenerator[Any, None]:
    """The messages of a method that answers with many; no total deadline.

    Args:
        method: of a stub on a channel of `ChannelPool`.
        request: its message.
        progress_s: how long to wait for each message.
        first_s: for the first; `progress_s` where None.

    Close it (`contextlib.aclosing`) where it is left early; that ends the call.

    Raises:
        Stalled: nothing came for `progress_s`.
        WeftError: as `call`.
    """
    wait_s = progress_s if first_s is None else first_s
    async with _translating(method, wait_s):
        open_call = method.unbounded(request)
    try:
        while True:
            # Written out and not in _translating: it runs for every message of a transfer.
            try:
                async with asyncio.timeout(wait_s):
                    message = await open_call.read()
            except _FAILURES as error:
                await _raise(error, method, wait_s)
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            wait_s = progress_s
            yield _readable(message, method)
    finally:
        open_call.cancel()


async def send(method: Any, requests: AsyncIterable[Any], *, progress_s: float = PROGRESS_S) -> Any:
    """Send many messages, get one answer; each must be taken within the progress deadline.

    Raises:
        Stalled: the other side took or answered nothing for `progress_s`.
        Unavailable: it answered before it had taken everything.
        WeftError: as `call`.
    """
    async with _translating(method, progress_s):
        open_call = method.unbounded()
    statuses = Statuses(open_call)
    try:
        async for request in requests:
            async with _translating(method, progress_s), asyncio.timeout(progress_s):
                await write(open_call, request)
        async with _translating(method, progress_s), asyncio.timeout(progress_s):
            await open_call.done_writing()
            return _readable(await open_call, method)
    except (asyncio.InvalidStateError, BrokenWrite):
        # It ended before everything was written; its status says why.
        async with _translating(method, progress_s), asyncio.timeout(progress_s):
            code, details = await statuses.real()
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNAVAILABLE, "answered before it had taken everything"
        raise error_of(code, f"{_whom(method)}: {details}") from None
    finally:
        open_call.cancel()


async def retrying(
    operation: Callable[[], Awaitable[Answer]],
    *,
    attempts: int = 5,
    first_s: float = 0.2,
    longest_s: float = 5.0,
    chance: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Answer:
    """Try again while the other side is unavailable; any other error ends it at once.

    Waits between half and all of 0.2 s, 0.4 s, ... up to `longest_s`, at random, so
    that many who lost one server do not come back together.

    Raises:
        Unavailable: the last attempt's.
        WeftError: anything that trying again cannot mend.
    """
    for attempt in range(1, attempts + 1):
        try:
            return await operation()
        except Unavailable:
            if attempt == attempts:
                raise
        await sleep(pause_s(attempt, chance(), first_s=first_s, longest_s=longest_s))
    raise ValueError(f"attempts {attempts}: expected at least 1")


@asynccontextmanager
async def _translating(method: Any, timeout_s: float) -> AsyncIterator[None]:
    """Turn what gRPC and asyncio raise around a call into errors of weft."""
    try:
        yield
    except _FAILURES as error:
        await _raise(error, method, timeout_s)


async def _raise(error: BaseException, method: Any, timeout_s: float) -> NoReturn:
    """Raise the error of weft that a failed call means; a cancellation of ours stays one."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
        raise error
    if isinstance(error, grpc.aio.AioRpcError):
        raise await _from_status(error, method, timeout_s) from error
    if isinstance(error, TimeoutError):
        raise Stalled(f"{_whom(method)}: {method} stood still for {timeout_s:g} s") from error
    # Nobody cancelled us: the channel was closed, before the call or under it.
    raise Unavailable(f"{_whom(method)}: the channel was closed") from error


async def _from_status(error: grpc.aio.AioRpcError, method: Any, timeout_s: float) -> WeftError:
    code, details = error.code(), error.details() or _in_words(error.code())
    if isinstance(method, Method) and code is grpc.StatusCode.UNAVAILABLE:
        try:
            await require_welcome(method.endpoint, details, timeout_s)
        except WeftError as refusal:
            return refusal
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and "Deadline Exceeded" in details:
        details = f"no answer to {method} within {timeout_s:g} s"
    if details.startswith("failed to connect to all addresses"):
        # gRPC's text goes on for three lines; what a person needs is the end of it.
        cause = details.rpartition(": ")[2] or "no connection"
        details = f"nobody answers there ({cause}); is it running, and is the address right?"
    return error_of(code, f"{_whom(method)}: {details}")


def _readable(message: Any, method: Any) -> Any:
    if message is UNREADABLE:
        raise CorruptTransfer(f"{_whom(method)}: {method} answers what is no message of its type")
    return message


def _whom(method: Any) -> str:
    return str(method.endpoint) if isinstance(method, Method) else "the other side"


def _in_words(code: grpc.StatusCode) -> str:
    return str(code.name).lower().replace("_", " ")
