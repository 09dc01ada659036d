"""Not there, or there and not accepting us: a caller must be able to tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy import FaultProxy, Faults
from tests.support.wire import Enrolment, HoldingPeer, serving
from weft.checkpoints.store import Store
from weft.errors import Denied, Unavailable
from weft.protocol.channel import ChannelPool, call, peer_stub, retrying
from weft.protocol.errors import HandshakeFailed
from weft.protocol.identity import Credentials
from weft.protocol.v1.peer_pb2 import StatusRequest

NOW = datetime.now(UTC)
PAST = (NOW - timedelta(days=9), NOW - timedelta(days=1))
FUTURE = (NOW + timedelta(days=1), NOW + timedelta(days=9))
CALLER = ["spiffe://test/node/caller"]


@asynccontextmanager
async def asking(credentials: Credentials, port: int, name: str = "server") -> AsyncIterator[Any]:
    """A function that calls Status once."""
    pool = ChannelPool(credentials)
    stub = peer_stub(pool.to(f"127.0.0.1:{port}", name))
    try:
        yield lambda: call(stub.Status, StatusRequest(), timeout_s=3)
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("another authority", "closes the connection when it sees the certificate of"),
        ("expired", "closes the connection when it sees the certificate of"),
        ("not yet", "closes the connection when it sees the certificate of"),
    ],
)
async def test_our_certificate_is_refused(
    why: str, told: str, enrol: Enrolment, held: Store, tmp_path: Path
) -> None:
    credentials = {
        "another authority": Enrolment(tmp_path / "other").odd(uris=CALLER, trusting=enrol),
        "expired": enrol.odd(uris=CALLER, valid=PAST),
        "not yet": enrol.odd(uris=CALLER, valid=FUTURE),
    }[why]
    async with (
        serving(enrol("server"), HoldingPeer(held)) as port,
        asking(credentials, port) as ask,
    ):
        with pytest.raises(HandshakeFailed, match=told):
            await ask()


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("another name", "for another name; expected server"),
        ("expired", "its certificate has expired"),
        ("not yet", "does not hold yet; are the clocks right"),
        ("another authority", "of another federation"),
    ],
)
async def test_their_certificate_is_refused(
    why: str, told: str, enrol: Enrolment, held: Store, tmp_path: Path
) -> None:
    uris = ["spiffe://test/node/server"]
    server = {
        "another name": enrol("somebody"),
        "expired": enrol.odd(uris=uris, name="server", valid=PAST),
        "not yet": enrol.odd(uris=uris, name="server", valid=FUTURE),
        "another authority": Enrolment(tmp_path / "other")("server"),
    }[why]
    async with serving(server, HoldingPeer(held)) as port, asking(enrol("caller"), port) as ask:
        with pytest.raises(HandshakeFailed, match=told):
            await ask()


async def test_a_server_without_tls(enrol: Enrolment) -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(chatter, "127.0.0.1", 0)
    async with listener, asking(enrol("caller"), listener.sockets[0].getsockname()[1]) as ask:
        with pytest.raises(HandshakeFailed, match="does not speak TLS"):
            await ask()


async def test_nobody_there_is_unavailable(enrol: Enrolment) -> None:
    async with asking(enrol("caller"), 1) as ask:
        with pytest.raises(Unavailable, match=r"server \(127.0.0.1:1\).*refused"):
            await ask()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_cut_in_the_handshake_is_unavailable(
    reset: bool, enrol: Enrolment, held: Store
) -> None:
    """The probe must not take a broken network for a refusal."""
    cuts = Faults(cut_after=[0, 0, 0, 0, 0, 0], reset=reset)
    async with (
        serving(enrol("server"), HoldingPeer(held)) as port,
        FaultProxy(port, cuts) as proxy,
        asking(enrol("caller"), proxy.port) as ask,
    ):
        with pytest.raises(Unavailable):
            await ask()


async def test_a_welcome_caller_who_is_cut_off_is_not_refused(
    enrol: Enrolment, held: Store
) -> None:
    """One connection dies right after the handshake; the probe gets through."""
    async with (
        serving(enrol("server"), HoldingPeer(held)) as port,
        FaultProxy(port, Faults(cut_after=[2200])) as proxy,
        asking(enrol("caller"), proxy.port) as ask,
    ):
        with pytest.raises(Unavailable):
            await ask()
        assert (await retrying(ask, first_s=0.1)).node == "here"


async def test_a_refusal_is_not_tried_again(enrol: Enrolment, held: Store) -> None:
    credentials = enrol.odd(uris=CALLER, valid=PAST)
    attempts = 0
    async with (
        serving(enrol("server"), HoldingPeer(held)) as port,
        asking(credentials, port) as ask,
    ):

        async def attempt() -> Any:
            nonlocal attempts
            attempts += 1
            return await ask()

        with pytest.raises(Denied):
            await retrying(attempt)
    assert attempts == 1
