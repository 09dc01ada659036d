"""Pushing an artifact into a stream at the other end: what `weft push` does.

    with source_of(path) as source:
        reply = await Push(source, offer, pool, address, name).run()
    told = await settled(pool, address, name, reply.contribution.seq)

Only what is missing there is sent. A cut, or a server that was killed, costs the chunk
that was under way: the next attempt asks again what is missing. It gives up once nothing
has got through for `patience_s`. Stable within a protocol version.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

from weft.errors import NotFound, Unavailable
from weft.protocol.channel import ChannelPool, call, continual_stub, send
from weft.protocol.limits import PROGRESS_S
from weft.protocol.pieces import pieces_of
from weft.protocol.serve_artifacts import Source, read_ahead
from weft.protocol.threads import Threads, in_thread
from weft.protocol.transfer import indices_of, pause_s
from weft.protocol.v1 import continual_pb2 as pb
from weft.protocol.v1.continual_pb2_grpc import ContinualStub
from weft.protocol.v1.peer_pb2 import Chunk, ChunkRange

Answer = TypeVar("Answer")

PATIENCE_S: Final = 120.0
ANNOUNCE_S: Final = 120.0
"""An announcement is answered once what an earlier process left there has been hashed."""

WAIT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stream's server, and through what it is reached."""

    pool: ChannelPool
    address: str
    name: str

    def stub(self, *, bulk: bool = False) -> ContinualStub:
        """Its methods; chunks go over a connection of their own."""
        return continual_stub(self.pool.to(self.address, self.name, bulk=bulk))


class Patience:
    """How long to try again: until nothing has got through for some time.

    Args:
        seconds: so long.
        clock: seconds, of a monotonic clock.
        sleep: waits between attempts.
        say: told why there is another attempt.
    """

    def __init__(
        self,
        seconds: float = PATIENCE_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._seconds, self._clock, self._sleep, self._say = seconds, clock, sleep, say
        self._failures, self._failing_since = 0, 0.0

    def progressed(self) -> None:
        """Something got through."""
        self._failures = 0

    async def after(self, error: Unavailable) -> None:
        """An attempt failed: wait before the next one.

        Raises:
            Unavailable: the error itself, where it is enough.
        """
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
            self._say(f"{error}; trying again")
        if now - self._failing_since >= self._seconds:
            raise error
        self._failures += 1
        await self._sleep(pause_s(self._failures, random.random()))


class Push:
    """One artifact on its way into a stream.

    Args:
        source: what is sent.
        offer: how it is to be taken.
        target: by whom.
        patience: how long to try again.
        on_missing: told how many bytes are to be sent, before an attempt sends them.
        on_sent: told of bytes that were sent.
        progress_s: how long the other side may stand still.
    """

    def __init__(
        self,
        source: Source,
        offer: pb.Offer,
        target: Target,
        *,
        patience: Patience | None = None,
        on_missing: Callable[[int], None] = lambda count: None,
        on_sent: Callable[[int], None] = lambda count: None,
        progress_s: float = PROGRESS_S,
    ) -> None:
        self._source, self._offer, self._target = source, offer, target
        self._patience = patience or Patience()
        self._on_missing, self._on_sent = on_missing, on_sent
        self._progress_s = progress_s
        self._fewest = source.manifest.chunk_count + 1

    async def run(self) -> pb.CommitReply:
        """Until it is durable there, or refused; a contribution that is set aside is an answer.

        Raises:
            Unavailable: nothing got through for too long.
            WeftError: the stream does not take it, for good.
        """
        while True:
            try:
                return await self._attempt()
            except Unavailable as error:
                await self._patience.after(error)

    async def _attempt(self) -> pb.CommitReply:
        bulk = self._target.stub(bulk=True)
        begun = await send(bulk.Begin, self._announcement(), progress_s=ANNOUNCE_S)
        if begun.HasField("known"):
            return pb.CommitReply(ready=True, known=True, contribution=begun.known)
        missing, left = begun.missing, begun.missing_chunks
        self._on_missing(self._bytes_of(missing, left))
        while missing:
            self._note(left)
            reply = await _announced(
                send(bulk.Upload, self._chunks(missing), progress_s=self._progress_s)
            )
            missing, left = reply.missing, reply.missing_chunks
        self._note(left)
        return await self._commit()

    async def _commit(self) -> pb.CommitReply:
        stub, digest = self._target.stub(), self._source.manifest.digest
        request = pb.CommitRequest(digest=digest, offer=self._offer, wait_s=WAIT_S)
        while True:
            asked = call(stub.Commit, request, timeout_s=WAIT_S + self._progress_s)
            reply: pb.CommitReply = await _announced(asked)
            if reply.ready:
                return reply
            self._patience.progressed()

    def _note(self, left: int) -> None:
        if left < self._fewest:
            self._fewest = left
            self._patience.progressed()

    def _bytes_of(self, ranges: Sequence[ChunkRange], left: int) -> int:
        """Bytes of the missing chunks; of those that were not named, as of whole ones."""
        manifest = self._source.manifest
        named = list(indices_of((each.start, each.stop) for each in ranges))
        whole = max((manifest.chunk(index).length for index in named), default=0)
        known = sum(manifest.chunk(index).length for index in named)
        return known + (left - len(named)) * whole

    async def _announcement(self) -> AsyncGenerator[pb.BeginRequest, None]:
        yield pb.BeginRequest(offer=self._offer)
        for piece in pieces_of(await in_thread(self._source.manifest.to_bytes)):
            yield pb.BeginRequest(manifest_piece=bytes(piece))

    async def _chunks(self, ranges: Sequence[ChunkRange]) -> AsyncGenerator[pb.UploadRequest, None]:
        digest = self._source.manifest.digest
        yield pb.UploadRequest(head=pb.UploadHead(digest=digest, ranges=ranges))
        indices = indices_of([(each.start, each.stop) for each in ranges])
        threads = Threads(1, "weft-push")
        try:
            async with aclosing(read_ahead(self._source, indices, threads)) as chunks:
                async for index, data in chunks:
                    for piece in pieces_of(data):
                        yield pb.UploadRequest(chunk=Chunk(index=index, data=bytes(piece)))
                        self._on_sent(len(piece))
        finally:
            threads.close()


async def settled(
    target: Target, seq: int, *, patience: Patience, say: Callable[[str], None]
) -> pb.Contribution:
    """A contribution once it is absorbed, or set aside; waits as long as that takes.

    Args:
        target: the server.
        seq: of the contribution.
        patience: how long to try again while it cannot be reached.
        say: told what keeps the stream from going on.

    Raises:
        Unavailable: it cannot be reached.
    """
    told, request = "", pb.WaitRequest(seq=seq, wait_s=WAIT_S)
    while True:
        try:
            reply = await call(target.stub().Wait, request, timeout_s=WAIT_S + PROGRESS_S)
        except Unavailable as error:
            await patience.after(error)
            continue
        patience.progressed()
        if reply.contribution.status != "waiting":
            contribution: pb.Contribution = reply.contribution
            return contribution
        if reply.message and reply.message != told:
            say(f"the stream cannot go on: {reply.message}")
        told = reply.message


async def _announced(asked: Awaitable[Answer]) -> Answer:
    """A server that has forgotten what was announced is told again: try again."""
    try:
        return await asked
    except NotFound as error:
        raise Unavailable(str(error)) from error
