"""Both ends of PutArtifact: an artifact that is sent and not fetched.

An operator has no address at which a coordinator could fetch a run's base, and so
sends it: the manifest's pieces first, then every chunk in ascending order. What
arrives is verified as in a fetch, and is an artifact whole or not at all.

    await put_artifact(store, digest, channel)                  # here
    digest = await receive_artifact(store, request_iterator)    # there

Stable within a protocol version.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc

from weft.checkpoints.manifest import Manifest
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.protocol.assembly import Chunks
from weft.protocol.channel import coordinator_stub, send
from weft.protocol.errors import BadMessage, CorruptTransfer
from weft.protocol.landing import Desk, SenderFault
from weft.protocol.limits import MANIFEST_BYTES, PROGRESS_S
from weft.protocol.pieces import pieces_of
from weft.protocol.serve_artifacts import read_ahead
from weft.protocol.threads import Threads, in_thread
from weft.protocol.v1.coordinator_pb2 import PutArtifactRequest
from weft.protocol.v1.peer_pb2 import Chunk

Expect = Callable[[Manifest], None]


async def put_artifact(
    store: Store, digest: str, channel: grpc.aio.Channel, *, progress_s: float = PROGRESS_S
) -> None:
    """Send an artifact of this store to the coordinator at the other end of a channel.

    Raises:
        MissingArtifact, CorruptArtifact: it is not here, or has rotted.
        Corrupt: the coordinator says that it holds something else now.
        Stalled: nothing was taken for `progress_s`.
        WeftError: what the coordinator raised.
    """
    method = coordinator_stub(channel).PutArtifact
    reply = await send(method, _requests(store, digest), progress_s=progress_s)
    if reply.digest != digest:
        raise CorruptTransfer(f"sent artifact {digest[:12]}, received as {reply.digest[:12]!r}")


async def _requests(store: Store, digest: str) -> AsyncGenerator[PutArtifactRequest, None]:
    threads = Threads(1, "weft-upload")
    try:
        with await in_thread(store.payload, digest) as payload:
            for piece in pieces_of(await in_thread(payload.manifest.to_bytes)):
                yield PutArtifactRequest(manifest_piece=bytes(piece))
            every = iter(range(payload.manifest.chunk_count))
            async with aclosing(read_ahead(payload, every, threads)) as chunks:
                async for index, data in chunks:
                    for piece in pieces_of(data):
                        yield PutArtifactRequest(chunk=Chunk(index=index, data=bytes(piece)))
    finally:
        threads.close()


async def receive_artifact(
    store: Store,
    requests: AsyncIterator[PutArtifactRequest],
    *,
    sender: str = "the sender",
    expect: Expect | None = None,
) -> str:
    """Take an artifact from the messages of a call; returns its digest.

    Args:
        store: where it lands.
        requests: the call's messages.
        sender: who sends, for errors.
        expect: raises where the manifest is not what may be sent here.

    Raises:
        BadMessage: no manifest, or the messages end early.
        Corrupt: what came is no manifest, or does not match it.
        WeftError: of the store (a full disk) and of `expect`.
    """
    arrival = _Arrival(store, sender, expect)
    try:
        async for request in requests:
            if request.WhichOneof("part") == "chunk":
                await arrival.take_chunk(request.chunk.index, request.chunk.data)
            else:
                arrival.take_manifest(request.manifest_piece)
        return await arrival.finish()
    except SenderFault as fault:
        raise fault.error from fault
    finally:
        await arrival.close()


class _Arrival:
    """One artifact that is being sent here: its manifest, then its chunks."""

    def __init__(self, store: Store, sender: str, expect: Expect | None) -> None:
        self._store = store
        self._sender = sender
        self._expect = expect
        self._manifest = bytearray()
        self._staging: Staging | None = None
        self._landing: tuple[Chunks, Desk] | None = None

    def take_manifest(self, piece: bytes) -> None:
        """The next piece of the manifest."""
        if self._landing is not None or not piece:
            raise BadMessage(f"{self._sender} sends a part that is neither manifest nor chunk")
        self._manifest += piece
        if len(self._manifest) > MANIFEST_BYTES:
            raise BadMessage(f"{self._sender} sends a manifest of more than {MANIFEST_BYTES} bytes")

    async def take_chunk(self, index: int, data: bytes) -> None:
        """The next piece of a chunk; the first says that the manifest is complete."""
        chunks, desk = self._landing or await self._open()
        whole = chunks.take(index, data)
        if whole is not None:
            await desk.put(whole)

    async def finish(self) -> str:
        """Nothing more comes: the artifact is whole, or the sender is told that it is not."""
        if not self._manifest:
            raise BadMessage(f"{self._sender} sends no manifest")
        chunks, desk = self._landing or await self._open()
        await desk.settle()
        chunks.require_end()
        return await in_thread(desk.staging.commit)

    async def close(self) -> None:
        """Let go of the file, once nothing is being written to it."""
        if self._landing is not None:
            await self._landing[1].abandon()
        if self._staging is not None:
            self._staging.close()

    async def _open(self) -> tuple[Chunks, Desk]:
        manifest = await in_thread(Manifest.from_bytes, bytes(self._manifest))
        if self._expect is not None:
            self._expect(manifest)
        desk = Desk(await in_thread(self._stage), lambda indices: None)
        every = map(manifest.chunk, range(manifest.chunk_count))
        self._landing = Chunks(every, self._sender, desk.buffer), desk
        return self._landing

    def _stage(self) -> Staging:
        """Kept at once: whoever is cancelled meanwhile must still close it."""
        self._staging = self._store.stage(bytes(self._manifest))
        return self._staging
