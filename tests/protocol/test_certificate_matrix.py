"""Nobody without an enrolled certificate gets a byte: every bad caller x every method.

The methods are those of the .proto files, so that a new one cannot be forgotten.
Each test counts what it refused; the floor is the number of methods.
"""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

from tests.support.wire import Enrolment
from weft.protocol.authorize import METHODS, VERSION_KEY, Authorizer
from weft.protocol.identity import Credentials, Role, dns_name
from weft.protocol.peer_channel import channel_options
from weft.protocol.server import Server
from weft.protocol.v1 import continual_pb2, coordinator_pb2, peer_pb2

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (continual_pb2, coordinator_pb2, peer_pb2, health_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
PATHS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}
VERSION = ((VERSION_KEY, "1"),)


@dataclass
class Recorder:
    """Answers every method of every service, and remembers which were reached."""

    reached: list[str] = field(default_factory=list)

    def register(self, server: grpc.aio.Server) -> None:
        for service in SERVICES:
            handlers = {m.name: self._handler(service, m) for m in service.methods}
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.full_name, handlers),)
            )

    def _handler(self, service: ServiceDescriptor, method: MethodDescriptor) -> Any:
        path = f"/{service.full_name}/{method.name}"
        reply = message_factory.GetMessageClass(method.output_type)

        async def one(request: Any, context: Any) -> Any:
            self.reached.append(path)
            return reply()

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            self.reached.append(path)
            yield reply()

        return _make(method)(
            many if method.server_streaming else one,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=reply.SerializeToString,
        )


def _kind(method: MethodDescriptor) -> str:
    streaming = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if on else "unary" for on in streaming)


def _make(method: MethodDescriptor) -> Callable[..., Any]:
    make: Callable[..., Any] = getattr(grpc, f"{_kind(method)}_rpc_method_handler")
    return make


@asynccontextmanager
async def recording(
    credentials: Credentials, authorizer: Authorizer | None = None
) -> AsyncIterator[tuple[Recorder, int]]:
    recorder = Recorder()
    server = Server(
        credentials=credentials, listen="127.0.0.1:0", authorizer=authorizer or Authorizer()
    )
    # The recorder answers for the health service too: ours is put aside.
    server.add(recorder.register)
    port = await server.start()
    try:
        yield recorder, port
    finally:
        await server.stop(0)


async def refusal(
    channel: grpc.aio.Channel, path: str, metadata: Any = VERSION
) -> grpc.StatusCode | None:
    """The status of one call; None where it was answered."""
    method = PATHS[path]
    ["stream" if on else "unary" for on in (method.client_streaming, method.server_streaming)]
    request = message_factory.GetMessageClass(method.input_type)
    start = getattr(channel, _kind(method))(
        path,
        request_serializer=request.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    argument = iter([request()]) if method.client_streaming else request()
    call = start(argument, timeout=10, metadata=metadata)
    try:
        if method.server_streaming:
            async for _ in call:
                break
        else:
            await call
    except grpc.aio.AioRpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    finally:
        call.cancel()
    return None


async def refusals(
    port: int, credentials: grpc.ChannelCredentials | None, *, name: str = "server"
) -> dict[str, grpc.StatusCode | None]:
    """What every method answers to a caller with these credentials."""
    address, options = f"127.0.0.1:{port}", channel_options(name)
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        return {path: await refusal(channel, path) for path in PATHS}


def require_all_refused(
    found: dict[str, grpc.StatusCode | None], code: grpc.StatusCode, recorder: Recorder
) -> None:
    """Every method answered with the code, and none was reached; says how many."""
    sys.stdout.write(f"{len(found)} methods refused with {code.name}\n")
    assert set(found.values()) == {code}
    assert set(found) == set(PATHS)
    assert recorder.reached == []


def test_the_table_names_every_method_and_no_other() -> None:
    assert set(METHODS) == set(PATHS)
    assert len(PATHS) >= 26


# -- who does not get through the handshake ----------------------------------

Bad = Callable[[Enrolment, Enrolment], grpc.ChannelCredentials | None]
NOW = datetime.now(UTC)
LEGAL = ["spiffe://test/node/odd"]


def without_certificate(enrol: Enrolment, other: Enrolment) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(enrol("node-a").ca_pem)


def of_another_authority(enrol: Enrolment, other: Enrolment) -> grpc.ChannelCredentials:
    return other.odd(uris=LEGAL, trusting=enrol).channel()


def expired(enrol: Enrolment, other: Enrolment) -> grpc.ChannelCredentials:
    valid = (NOW - timedelta(days=9), NOW - timedelta(days=1))
    return enrol.odd(uris=LEGAL, valid=valid).channel()


def not_yet_valid(enrol: Enrolment, other: Enrolment) -> grpc.ChannelCredentials:
    valid = (NOW + timedelta(days=1), NOW + timedelta(days=9))
    return enrol.odd(uris=LEGAL, valid=valid).channel()


def plaintext(enrol: Enrolment, other: Enrolment) -> None:
    return None


HANDSHAKES: list[Bad] = [
    without_certificate,
    of_another_authority,
    expired,
    not_yet_valid,
    plaintext,
]


@pytest.mark.parametrize("bad", HANDSHAKES, ids=lambda bad: bad.__name__)
async def test_no_handshake_no_byte(bad: Bad, enrol: Enrolment, tmp_path: Path) -> None:
    other = Enrolment(tmp_path / "other")
    async with recording(enrol("server", Role.COORDINATOR)) as (recorder, port):
        found = await refusals(port, bad(enrol, other))
    require_all_refused(found, grpc.StatusCode.UNAVAILABLE, recorder)


@pytest.mark.parametrize("of", ["another name", "another authority"])
async def test_a_server_that_is_not_who_was_meant(
    of: str, enrol: Enrolment, tmp_path: Path
) -> None:
    other = Enrolment(tmp_path / "other")
    server = enrol("somebody") if of == "another name" else other("server")
    async with recording(server) as (recorder, port):
        found = await refusals(port, enrol("node-a").channel())
    require_all_refused(found, grpc.StatusCode.UNAVAILABLE, recorder)


# -- who gets through the handshake, and no further --------------------------

NAMES: dict[str, list[str]] = {
    "no URI": [],
    "two URIs": ["spiffe://test/node/a", "spiffe://test/node/b"],
    "a second URI of another kind": ["spiffe://test/node/a", "https://example.org/"],
    "an unknown role": ["spiffe://test/root/a"],
    "another federation": ["spiffe://other/node/a"],
    "a path too many": ["spiffe://test/node/a/b"],
    "no scheme of ours": ["https://test/node/a"],
}


@pytest.mark.parametrize("uris", NAMES.values(), ids=NAMES)
async def test_a_certificate_that_names_nobody(uris: list[str], enrol: Enrolment) -> None:
    async with recording(enrol("server", Role.COORDINATOR)) as (recorder, port):
        found = await refusals(port, enrol.odd(uris=uris).channel())
    require_all_refused(found, grpc.StatusCode.PERMISSION_DENIED, recorder)


@pytest.mark.parametrize("role", Role)
async def test_a_role_calls_what_the_table_gives_it(role: Role, enrol: Enrolment) -> None:
    async with recording(enrol("server", Role.COORDINATOR)) as (recorder, port):
        found = await refusals(port, enrol("caller", role).channel())
    granted = {path for path, roles in METHODS.items() if role in roles}
    ours = {path for path in granted if not path.startswith("/grpc.")}
    assert {path for path, code in found.items() if code is None} >= ours
    assert {path for path, code in found.items() if code is grpc.StatusCode.PERMISSION_DENIED} == (
        set(PATHS) - granted
    )
    assert set(recorder.reached) == ours


@pytest.mark.parametrize("why", ["revoked", "not allowed", "no table"])
async def test_an_enrolled_caller_who_may_not_speak(why: str, enrol: Enrolment) -> None:
    caller = enrol("caller")
    authorizer = {
        "revoked": Authorizer(revoked=lambda: {caller.identity.serial}),
        "not allowed": Authorizer(allowed=lambda identity: identity.name != "caller"),
        "no table": Authorizer(methods={}),
    }[why]
    async with recording(enrol("server", Role.COORDINATOR), authorizer) as (recorder, port):
        found = await refusals(port, caller.channel())
    require_all_refused(found, grpc.StatusCode.PERMISSION_DENIED, recorder)


async def test_a_serial_that_is_not_revoked_still_counts(enrol: Enrolment) -> None:
    """The control: the same calls as above are answered once the serial is another's."""
    authorizer = Authorizer(revoked=lambda: {enrol("somebody-else").identity.serial})
    async with recording(enrol("server", Role.COORDINATOR), authorizer) as (recorder, port):
        await refusals(port, enrol("caller").channel())
    assert "/weft.v1.Peer/Fetch" in recorder.reached


# -- TLS below 1.3 -----------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def _literal(name: str, value: str) -> bytes:
    """A header of HPACK that needs no table (RFC 7541, 6.2.2)."""
    return b"\x00" + b"".join(bytes([len(t)]) + t.encode() for t in (name, value))


def _request(path: str) -> bytes:
    """Headers and an empty message, as a client of gRPC would send them."""
    headers = b"".join(
        _literal(name, value)
        for name, value in [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", dns_name("server")),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            (VERSION_KEY, "1"),
        ]
    )
    head = len(headers).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + headers
    return head + bytes([0, 0, 5, 0, 1, 0, 0, 0, 1]) + bytes(5)


async def _speak(port: int, credentials: Credentials, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=credentials.ca_pem.decode())
    context.load_cert_chain(credentials.folder / "node.pem", credentials.folder / "node.key")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=dns_name("server")
    )
    writer.write(PREFACE + _request("/weft.v1.Peer/Status"))
    await writer.drain()
    try:
        async with asyncio.timeout(0.5):
            while await reader.read(4096):
                pass
    except TimeoutError:
        pass  # the connection stays open; what counts is what was reached
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("version", "reached"),
    [(ssl.TLSVersion.TLSv1_3, ["/weft.v1.Peer/Status"]), (ssl.TLSVersion.TLSv1_2, [])],
    ids=["1.3", "1.2"],
)
async def test_tls_below_1_3_reaches_nothing(
    version: ssl.TLSVersion, reached: list[str], enrol: Enrolment
) -> None:
    async with recording(enrol("server")) as (recorder, port):
        await _speak(port, enrol("caller"), version)
        assert recorder.reached == reached


# -- versions ----------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "2", "1.0", "0", ""])
async def test_another_version_is_refused_by_name(version: str | None, enrol: Enrolment) -> None:
    metadata = () if version is None else ((VERSION_KEY, version),)
    path = "/weft.v1.Peer/Status"
    async with recording(enrol("server")) as (recorder, port):
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", enrol("caller").channel(), options=channel_options("server")
        ) as channel:
            status = channel.unary_unary(
                path,
                request_serializer=peer_pb2.StatusRequest.SerializeToString,
                response_deserializer=peer_pb2.StatusReply.FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await status(peer_pb2.StatusRequest(), timeout=5, metadata=metadata)
        assert recorder.reached == []
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    told = caught.value.details() or ""
    assert "this side speaks version 1" in told
    assert ("does not say" if version is None else f"version {version}") in told
