"""Serving artifacts of a store: the methods Manifest and Fetch of the service Peer.

    class PeerService(PeerServicer):
        def __init__(self, artifacts: ArtifactService) -> None:
            self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch

A chunk travels as consecutive messages of its index, each with a piece of at
most 256 KiB; the next chunks are read in a thread while these are sent. Streams
whose reader stands still are ended by the server's gate. Stable within a
protocol version.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final, Protocol

import grpc

from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.manifest import Manifest as ArtifactManifest
from weft.checkpoints.store import Store
from weft.protocol.convert import digest_of
from weft.protocol.errors import ArtifactDenied, BadMessage
from weft.protocol.identity import Identity, identity_of
from weft.protocol.limits import RANGES
from weft.protocol.pieces import encode, pieces_of
from weft.protocol.threads import Threads, ended
from weft.protocol.transfer import Range, indices_of
from weft.protocol.v1.peer_pb2 import (
    ChunkRange,
    FetchRequest,
    ManifestPiece,
    ManifestRequest,
)

MayRead = Callable[[Identity, str], bool]
"""Whether an identity may read the artifact of a digest."""

_BATCH: Final = 2
"""Chunks read at once: a hop to a thread costs as much as reading one."""

_THREADS: Final = 4
"""Streams that read from the disk at the same time; the others wait a moment."""


class Source(Protocol):
    """What chunks are read from: an artifact's payload, or anything that has a manifest."""

    @property
    def manifest(self) -> ArtifactManifest:
        """What it holds."""
        ...

    def fill(self, name: str, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's stored bytes from an offset; blocks."""
        ...


def _everybody(identity: Identity, digest: str) -> bool:
    return True


class ArtifactService:
    """Gives manifests and chunks to those who may read them.

    Args:
        store: where the artifacts lie.
        may_read: asked once a call; everybody may where it is left out.
    """

    def __init__(self, store: Store, may_read: MayRead = _everybody) -> None:
        self._store = store
        self._may_read = may_read
        self._threads = Threads(_THREADS, "weft-serve")

    async def Manifest(  # noqa: N802 - the wire's name
        self, request: ManifestRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncGenerator[ManifestPiece, None]:
        """The canonical manifest in pieces.

        Raises:
            BadMessage, NotFound, Denied: no digest, not here, not for the caller.
        """
        manifest = await self._readable(request.digest, context)
        for piece in pieces_of(await self._threads.begin(manifest.to_bytes)):
            yield ManifestPiece(data=bytes(piece))

    async def Fetch(  # noqa: N802 - the wire's name
        self, request: FetchRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncGenerator[bytes, None]:
        """The chunks of the ranges asked for, in pieces, ascending: Chunk messages, encoded.

        Raises:
            BadMessage, NotFound, Denied: as `Manifest`; ranges that are empty,
                overlap, go backwards or lie outside the artifact.
        """
        manifest = await self._readable(request.digest, context)
        ranges = checked_ranges(request.ranges, manifest.chunk_count)
        with await self._threads.begin(self._store.payload, request.digest) as payload:
            async with aclosing(read_ahead(payload, indices_of(ranges), self._threads)) as chunks:
                async for index, data in chunks:
                    for piece in pieces_of(data):
                        yield encode(index, piece)

    async def _readable(
        self, digest: str, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> ArtifactManifest:
        digest_of(digest)
        caller = identity_of(context)
        if not self._may_read(caller, digest):
            raise ArtifactDenied(f"{caller.name} may not read artifact {digest[:12]} here")
        return await self._threads.begin(self._store.manifest, digest)


async def read_ahead(
    payload: Source, indices: Iterator[int], threads: Threads
) -> AsyncGenerator[tuple[int, memoryview], None]:
    """Chunks of an artifact, verified; the next batch is read in a thread while one is used.

    What is yielded is a view of a buffer that is used again for the batch after next.

    Raises:
        CorruptArtifact: the bytes on the disk have changed.
    """
    spare, buffers = ([bytearray(CHUNK_BYTES) for _ in range(_BATCH)] for _ in "ab")
    reading = _begin(threads, payload, indices, buffers)
    try:
        while batch := await asyncio.shield(reading):
            spare, buffers = buffers, spare
            reading = _begin(threads, payload, indices, buffers)
            for chunk in batch:
                yield chunk
    finally:
        await ended(reading)
        reading.exception()  # seen: whoever left early does not want the next batch


def _begin(
    threads: Threads, payload: Source, indices: Iterator[int], buffers: Sequence[bytearray]
) -> "asyncio.Future[list[tuple[int, memoryview]]]":
    batch = list(islice(indices, len(buffers)))
    return threads.begin(_read, payload, batch, buffers)


def _read(
    payload: Source, indices: Sequence[int], buffers: Sequence[bytearray]
) -> list[tuple[int, memoryview]]:
    return [
        (index, _fill(payload, index, buffer))
        for index, buffer in zip(indices, buffers, strict=False)
    ]


def _fill(payload: Source, index: int, buffer: bytearray) -> memoryview:
    chunk = payload.manifest.chunk(index)
    into = memoryview(buffer)[: chunk.length]
    payload.fill(chunk.name, into, chunk.offset_in_tensor)
    return into


def checked_ranges(ranges: Sequence[ChunkRange], chunk_count: int) -> list[Range]:
    """The ranges of a request: ascending, disjoint, not empty, inside the artifact.

    Raises:
        BadMessage: they are not, or there are too many.
    """
    if len(ranges) > RANGES:
        raise BadMessage(f"{len(ranges)} ranges of chunks; expected at most {RANGES}")
    end, checked = 0, []
    for one in ranges:
        if not end <= one.start < one.stop <= chunk_count:
            raise BadMessage(
                f"range of chunks {one.start} to {one.stop} after {end}; expected ascending, "
                f"disjoint ranges within {chunk_count}"
            )
        checked.append((one.start, one.stop))
        end = one.stop
    return checked
