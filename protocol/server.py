"""A gRPC server of weft: mutual TLS, the gate, health, limits, a graceful stop.

    server = Server(credentials=credentials, listen="0.0.0.0:7400", authorizer=Authorizer())
    server.add(lambda grpc_server: add_PeerServicer_to_server(servicer, grpc_server))
    port = await server.start()
    ...
    await server.stop(grace_s=5)

Stable.
"""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]

from weft.protocol import limits
from weft.protocol.authorize import Authorizer
from weft.protocol.errors import BadAddress
from weft.protocol.gate import Gate, OnBytes
from weft.protocol.identity import Credentials
from weft.protocol.peer_channel import keepalive_options

Register = Callable[[grpc.aio.Server], None]
"""Adds a servicer to a gRPC server: what the generated `add_..._to_server` do."""


class Server:
    """One listening address with everything that stands before the services.

    Args:
        credentials: this member's.
        listen: host:port; port 0 takes a free one.
        authorizer: who may call what.
        on_bytes: told (peer, "sent" or "received", bytes) for every message.
        progress_s: a stream in which nothing moves for this long is ended.
        config_key: the key of the configuration that holds `listen`, for errors.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        listen: str,
        authorizer: Authorizer,
        on_bytes: OnBytes | None = None,
        progress_s: float = limits.SERVER_PROGRESS_S,
        config_key: str = "listen",
    ) -> None:
        self._credentials = credentials
        self._listen = listen
        self._config_key = config_key
        gate = Gate(authorizer, credentials.identity.federation, progress_s, on_bytes)
        self._server = grpc.aio.server(
            interceptors=[gate],
            options=server_options(),
            maximum_concurrent_rpcs=limits.CALLS,
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(self, register: Register) -> None:
        """Add a service; before `start`."""
        register(self._server)

    async def start(self) -> int:
        """Listen and answer; returns the port.

        Raises:
            BadAddress: not host:port, taken, or not this machine's.
        """
        host, port = _split(self._listen, self._config_key)
        try:
            bound = self._server.add_secure_port(self._listen, self._credentials.server())
        except RuntimeError as error:
            raise BadAddress(
                f"{self._config_key} = {self._listen!r}: port {port} cannot be listened on at "
                f"{host or 'any address'}; it is taken, or the address is not this machine's"
            ) from error
        await self._server.start()
        await self.set_serving(True)
        return bound

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers; a full disk is a reason not to serve."""
        states = health_pb2.HealthCheckResponse.ServingStatus
        await self._health.set("", states.SERVING if serving else states.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give the open ones `grace_s` to end, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def server_options() -> list[tuple[str, Any]]:
    """Options, for gRPC, of every server of weft."""
    return [
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", round(limits.HANDSHAKE_S * 1000)),
        ("grpc.max_concurrent_streams", limits.CALLS_PER_IDENTITY),
        # Half of what our channels send: clocks drift, and two strikes end a connection.
        ("grpc.http2.min_ping_interval_without_data_ms", round(limits.KEEPALIVE_S * 500)),
        # Two daemons on one port would share it silently otherwise.
        ("grpc.so_reuseport", 0),
        *keepalive_options(),
    ]


def _split(listen: str, config_key: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BadAddress(f"{config_key} = {listen!r}: expected host:port, such as 0.0.0.0:7400")
    return host, int(port)
