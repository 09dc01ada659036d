"""A gRPC channel that knows whom it leads to.

What the generated stubs are built on: each call carries the version of the
protocol, its bytes are counted, and one that answers once is refused without a
timeout. A wrapper and no interceptor: gRPC's cost time on every message of a
stream. Internal: `weft.protocol.channel` opens these.
"""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError

from weft.protocol import limits
from weft.protocol.authorize import VERSION_KEY
from weft.protocol.errors import MissingDeadline
from weft.protocol.gate import OnBytes
from weft.protocol.identity import Credentials, dns_name

UNREADABLE: Final = object()
"""Stands for an answer that is no message of its type."""

_METADATA: Final = ((VERSION_KEY, str(limits.PROTOCOL_VERSION)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The other end of a channel, and with which credentials it is dialled."""

    address: str
    name: str
    credentials: Credentials

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


class PeerChannel(grpc.aio.Channel):
    """A secure channel that knows whom it leads to; stubs take it as any other."""

    def __init__(self, endpoint: Endpoint, on_bytes: OnBytes | None) -> None:
        self.endpoint = endpoint
        self._on_bytes = on_bytes
        self._inner = grpc.aio.secure_channel(
            endpoint.address, endpoint.credentials.channel(), options=channel_options(endpoint.name)
        )

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method that takes one message and answers with one."""
        return self._method(self._inner.unary_unary, method, *arguments, **options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method that takes one message and answers with many."""
        return self._method(self._inner.unary_stream, method, *arguments, **options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method that takes many messages and answers with one."""
        return self._method(self._inner.stream_unary, method, *arguments, **options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method that takes many messages and answers with many."""
        return self._method(self._inner.stream_stream, method, *arguments, **options)

    async def close(self, grace: float | None = None) -> None:
        """Close the connection; open calls may take `grace` seconds to end."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Whether there is a connection."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until that is no longer the state."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until there is a connection."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _method(
        self,
        make: Callable[..., Any],
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,
    ) -> "Method":
        if request_serializer is None or response_deserializer is None:
            raise TypeError(f"{method}: weft's channels carry messages, not bare bytes")
        inner = make(
            method,
            request_serializer=self._counted_out(request_serializer),
            response_deserializer=self._counted_in(response_deserializer),
        )
        answers_once = make in (self._inner.unary_unary, self._inner.stream_unary)
        return Method(endpoint=self.endpoint, name=method, inner=inner, answers_once=answers_once)

    def _counted_out(self, serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        tell, peer = self._on_bytes, self.endpoint.name
        if tell is None:
            return serialize

        def counted(message: Any) -> bytes:
            data = serialize(message)
            tell(peer, "sent", len(data))
            return data

        return counted

    def _counted_in(self, deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        tell, peer = self._on_bytes, self.endpoint.name

        def counted(data: bytes) -> Any:
            if tell is not None:
                tell(peer, "received", len(data))
            try:
                return deserialize(data)
            except DecodeError:
                return UNREADABLE  # gRPC would log it, and answer None

        return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a peer; what a stub on a `PeerChannel` holds."""

    endpoint: Endpoint
    name: str
    inner: Callable[..., Any]
    answers_once: bool

    def __str__(self) -> str:
        return self.name.removeprefix("/weft.v1.")

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        wait_for_ready: bool | None = None,
    ) -> Any:
        """Start the call.

        Raises:
            MissingDeadline: no timeout, and the method answers once. A stream holds
                a progress deadline instead (`weft.protocol.channel.stream`).
        """
        if timeout is None and self.answers_once:
            raise MissingDeadline(
                f"{self} of {self.endpoint}: called without a timeout; every call names its own"
            )
        return self.inner(
            request, timeout=timeout, metadata=_METADATA + metadata, wait_for_ready=wait_for_ready
        )

    def unbounded(self, request: Any | AsyncIterable[Any] | None = None) -> Any:
        """Start a stream without a deadline, for a caller that holds a progress deadline itself."""
        return self.inner(request, metadata=_METADATA)


def channel_options(expected_name: str) -> list[tuple[str, Any]]:
    """Options, for gRPC, of a channel to the member of a name."""
    return [
        ("grpc.ssl_target_name_override", dns_name(expected_name)),
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES),
        ("grpc.initial_reconnect_backoff_ms", _ms(limits.RECONNECT_FIRST_S)),
        ("grpc.min_reconnect_backoff_ms", _ms(limits.RECONNECT_LONGEST_S)),
        ("grpc.max_reconnect_backoff_ms", _ms(limits.RECONNECT_LONGEST_S)),
        # A connection of its own a channel: bulk and control would share one otherwise.
        ("grpc.use_local_subchannel_pool", 1),
        # Retries are ours (weft.protocol.calls), never nested with gRPC's.
        ("grpc.enable_retries", 0),
        *keepalive_options(),
    ]


def keepalive_options() -> list[tuple[str, Any]]:
    """Of channel and server alike: how a peer that went away is noticed."""
    return [
        ("grpc.keepalive_time_ms", _ms(limits.KEEPALIVE_S)),
        ("grpc.keepalive_timeout_ms", _ms(limits.KEEPALIVE_TIMEOUT_S)),
        ("grpc.http2.ping_timeout_ms", _ms(limits.PING_TIMEOUT_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
