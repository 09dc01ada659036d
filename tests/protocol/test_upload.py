"""Both ends of PutArtifact: whole and verified, or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.support.wire import MIB, Enrolment, deposit, payload
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.store import Store
from weft.errors import Corrupt, NotFound, Refused, Unavailable, WeftError
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool
from weft.protocol.errors import BadMessage, CorruptTransfer
from weft.protocol.identity import Role
from weft.protocol.limits import PIECE_BYTES
from weft.protocol.pieces import pieces_of
from weft.protocol.server import Server
from weft.protocol.upload import put_artifact, receive_artifact
from weft.protocol.v1.coordinator_pb2 import PutArtifactReply, PutArtifactRequest
from weft.protocol.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)
from weft.protocol.v1.peer_pb2 import Chunk

SIZES = {"a": 2 * MIB, "b": 8, "c": MIB + 4}


class Hub(CoordinatorServicer):
    def __init__(self, store: Store) -> None:
        self._store = store
        self.messages = 0
        self.expect: Any = None

    async def PutArtifact(  # noqa: N802
        self, request_iterator: AsyncIterator[PutArtifactRequest], context: Any
    ) -> PutArtifactReply:
        async def counted() -> AsyncIterator[PutArtifactRequest]:
            async for request in request_iterator:
                self.messages += 1
                yield request

        digest = await receive_artifact(
            self._store, counted(), sender="operator", expect=self.expect
        )
        return PutArtifactReply(digest=digest)


@asynccontextmanager
async def hub_at(enrol: Enrolment, hub: Hub) -> AsyncIterator[grpc.aio.Channel]:
    server = Server(
        credentials=enrol("hub", Role.COORDINATOR), listen="127.0.0.1:0", authorizer=Authorizer()
    )
    server.add(lambda to: add_CoordinatorServicer_to_server(hub, to))
    pool = ChannelPool(enrol("operator", Role.OPERATOR))
    try:
        yield pool.to(f"127.0.0.1:{await server.start()}", "hub", bulk=True)
    finally:
        await pool.close()
        await server.stop(0)


async def test_every_byte_arrives(enrol: Enrolment, held: Store, fetched: Store) -> None:
    digest = deposit(held, SIZES)
    async with hub_at(enrol, Hub(fetched)) as channel:
        await put_artifact(held, digest, channel)
    assert payload(fetched, digest) == payload(held, digest)


@pytest.mark.parametrize("sizes", [{}, {"empty": 0}])
async def test_an_artifact_without_bytes(
    sizes: dict[str, int], enrol: Enrolment, held: Store, fetched: Store
) -> None:
    digest = deposit(held, sizes)
    async with hub_at(enrol, Hub(fetched)) as channel:
        await put_artifact(held, digest, channel)
    assert fetched.has(digest)


async def test_the_same_again_changes_nothing(
    enrol: Enrolment, held: Store, fetched: Store
) -> None:
    digest = deposit(held, SIZES)
    async with hub_at(enrol, Hub(fetched)) as channel:
        for _ in range(2):
            await put_artifact(held, digest, channel)
    assert fetched.digests() == [digest]


async def test_a_refusal_comes_before_the_chunks(
    enrol: Enrolment, held: Store, fetched: Store
) -> None:
    def refuse(manifest: Manifest) -> None:
        raise Refused(f"no {manifest.kind} may be sent here")

    digest = deposit(held, {"a": 16 * MIB})
    hub = Hub(fetched)
    hub.expect = refuse
    async with hub_at(enrol, hub) as channel:
        with pytest.raises(Refused, match=r"^hub .*: no model may be sent here$"):
            await put_artifact(held, digest, channel)
    assert hub.messages == 2
    assert list((fetched.root / "staging").iterdir()) == []


async def test_what_is_not_here_cannot_be_sent(
    enrol: Enrolment, held: Store, fetched: Store
) -> None:
    async with hub_at(enrol, Hub(fetched)) as channel:
        with pytest.raises(NotFound):
            await put_artifact(held, "ab" * 32, channel)


# -- what may come instead ---------------------------------------------------


def manifest_of(store: Store, digest: str) -> PutArtifactRequest:
    return PutArtifactRequest(manifest_piece=store.manifest_bytes(digest))


def chunks_of(store: Store, digest: str, *indices: int) -> list[PutArtifactRequest]:
    return [
        PutArtifactRequest(chunk=Chunk(index=index, data=bytes(piece)))
        for index in indices
        for piece in pieces_of(store.read_chunk(digest, index))
    ]


async def received(store: Store, requests: list[PutArtifactRequest]) -> str:
    async def messages() -> AsyncIterator[PutArtifactRequest]:
        for request in requests:
            yield request

    return await receive_artifact(store, messages(), sender="operator")


async def test_messages_one_by_one(held: Store, fetched: Store) -> None:
    digest = deposit(held, SIZES)
    requests = [manifest_of(held, digest), *chunks_of(held, digest, 0, 1, 2, 3, 4)]
    assert await received(fetched, requests) == digest
    assert payload(fetched, digest) == payload(held, digest)


Make = list[PutArtifactRequest]


def wrong_answers(held: Store, digest: str) -> dict[str, tuple[Make, type[WeftError], str]]:
    good = manifest_of(held, digest)
    flipped = chunks_of(held, digest, 0, 1, 2, 3, 4)
    flipped[1].chunk.data = bytes(PIECE_BYTES)
    endless = [PutArtifactRequest(manifest_piece=bytes(MIB))] * 65
    return {
        "nothing": ([], BadMessage, "sends no manifest"),
        "no manifest": (chunks_of(held, digest, 0), Corrupt, "manifest"),
        "no chunks": ([good], Unavailable, "ended after 0 of 1048576 bytes of chunk 0"),
        "not all": (
            [good, *chunks_of(held, digest, 0)],
            Unavailable,
            "ended after 0 of 1048576 bytes of chunk 1",
        ),
        "wrong order": ([good, *chunks_of(held, digest, 1)], CorruptTransfer, "chunk 0 was to"),
        "flipped": ([good, *flipped], Corrupt, "does not match its digest"),
        "neither": ([good, PutArtifactRequest()], BadMessage, "neither manifest nor chunk"),
        "late manifest": ([good, *flipped[:1], good], BadMessage, "neither manifest nor chunk"),
        "no manifest's end": (endless, BadMessage, "more than 67108864 bytes"),
        "garbage": (
            [PutArtifactRequest(manifest_piece=b"{}"), *flipped],
            Corrupt,
            "manifest",
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "no manifest",
        "no chunks",
        "not all",
        "wrong order",
        "flipped",
        "neither",
        "late manifest",
        "no manifest's end",
        "garbage",
    ],
)
async def test_what_is_wrong_is_refused_and_never_whole(
    name: str, held: Store, fetched: Store
) -> None:
    digest = deposit(held, SIZES)
    requests, family, told = wrong_answers(held, digest)[name]
    with pytest.raises(family, match=told):
        await received(fetched, requests)
    assert not fetched.has(digest)
    full = [manifest_of(held, digest), *chunks_of(held, digest, 0, 1, 2, 3, 4)]
    assert await received(fetched, full) == digest
