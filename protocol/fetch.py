"""Fetching an artifact from its holders into a store.

    await fetch_artifact(store, digest, [Holder("node-b", "10.0.0.7:7400")], pool)

Every chunk is verified before it is written, what a cut left is not fetched
again, also after a restart, and the artifact appears in the store whole or not at
all. The decisions are those of `weft.protocol.transfer`; this module performs
them: streams on the event loop, hashing and writing in a thread beside it.
Stable.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from weft.checkpoints.digest import digest_of
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.errors import Corrupt, WeftError
from weft.protocol.channel import ChannelPool, peer_stub, stream
from weft.protocol.errors import CorruptTransfer
from weft.protocol.limits import MANIFEST_BYTES, PROGRESS_S
from weft.protocol.threads import ended, in_thread
from weft.protocol.transfer import (
    AskChunks,
    AskManifest,
    Chunks,
    Complete,
    Download,
    GiveUp,
    Range,
    Wait,
    indices_of,
)
from weft.protocol.v1.peer_pb2 import ChunkRange, FetchRequest, ManifestRequest
from weft.protocol.v1.peer_pb2_grpc import PeerStub

_BATCH = 8
"""Most whole chunks that wait for the disk while others are written."""

Whole = tuple[int, list[bytes]]
"""A chunk's index and its bytes, in parts."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A member that may have an artifact, and where it answers."""

    name: str
    address: str


async def fetch_artifact(
    store: Store,
    digest: str,
    holders: Sequence[Holder],
    pool: ChannelPool,
    *,
    progress_s: float = PROGRESS_S,
    expect: Callable[[Manifest], None] | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Bring an artifact into the store, from whoever gives it.

    Args:
        store: where it lands; asked first, and left alone if it has the artifact.
        digest: the artifact's name.
        holders: whom to ask, the preferred first.
        pool: channels of this member.
        progress_s: a holder from which nothing comes for so long is given up.
        expect: raises where the manifest is not what is wanted; called before any
            chunk is asked for, and what it raises is raised here.
        only: names of tensors; the chunks of the others are left out, and what came
            stays staged, uncommitted.

    Raises:
        Stalled: a holder stood still, and nobody else had it.
        Unavailable: holders could not be reached; trying again may help.
        Corrupt: what came did not match the digests.
        NotFound, Denied, Refused: nobody has it, or gives it.
        WeftError: of the store (a full disk) and of `expect`, unchanged.
    """
    if await in_thread(store.has, digest):
        if expect is not None:
            expect(await in_thread(store.manifest, digest))
        return
    await _Fetch(store, digest, _by_name(holders), pool, progress_s, expect, only).run()


async def fetch_manifest(
    digest: str,
    holders: Sequence[Holder],
    pool: ChannelPool,
    *,
    progress_s: float = PROGRESS_S,
) -> Manifest:
    """The verified manifest of an artifact, without its chunks.

    Raises:
        WeftError: as `fetch_artifact`.
    """
    download = Download(digest, list(_by_name(holders)), progress_s=progress_s)
    return await _Asking(download, _by_name(holders), pool, progress_s).manifest()


def _by_name(holders: Iterable[Holder]) -> dict[str, Holder]:
    """Holders by name, each once, in their order."""
    named: dict[str, Holder] = {}
    for holder in holders:
        named.setdefault(holder.name, holder)
    return named


@dataclass(slots=True)
class _Asking:
    """Drives a download as far as its manifest."""

    download: Download
    holders: dict[str, Holder]
    pool: ChannelPool
    progress_s: float

    async def manifest(self) -> Manifest:
        """The manifest, from the first holder that gives it."""
        while True:
            match self.download.next(time.monotonic()):
                case AskManifest(holder, patience_s):
                    try:
                        manifest = await self._ask(holder, patience_s)
                    except WeftError as error:
                        self.failed(holder, error)
                        continue
                    self.download.manifest_came(holder, manifest)
                    return manifest
                case Wait(until):
                    await asyncio.sleep(max(0.0, until - time.monotonic()))
                case GiveUp(error):
                    raise error
                case step:
                    raise RuntimeError(f"a download without a manifest asked for {step}")

    async def _ask(self, holder: str, patience_s: float) -> Manifest:
        digest, data = self.download.digest, bytearray()
        request = ManifestRequest(digest=digest)
        pieces = stream(
            self.stub(holder).Manifest, request, progress_s=self.progress_s, first_s=patience_s
        )
        async with aclosing(pieces):
            async for piece in pieces:
                data += piece.data
                if len(data) > MANIFEST_BYTES or not piece.data:
                    raise CorruptTransfer(f"{holder} sends a manifest that does not end")
        return await in_thread(_parsed, bytes(data), digest, holder)

    def stub(self, holder: str) -> PeerStub:
        """The holder's methods, over a connection for bulk."""
        found = self.holders[holder]
        return peer_stub(self.pool.to(found.address, found.name, bulk=True))

    def failed(self, holder: str, error: WeftError) -> None:
        """Tell the download."""
        self.download.failed(holder, error, time.monotonic(), random.random())


def _parsed(data: bytes, digest: str, holder: str) -> Manifest:
    found = digest_of(data)
    if found != digest:
        raise CorruptTransfer(f"{holder} sends a manifest of digest {found[:12]}")
    return Manifest.from_bytes(data)


class _Fetch:
    """One artifact on its way into a store."""

    def __init__(
        self,
        store: Store,
        digest: str,
        holders: dict[str, Holder],
        pool: ChannelPool,
        progress_s: float,
        expect: Callable[[Manifest], None] | None,
        only: Collection[str] | None,
    ) -> None:
        self._store = store
        self._expect = expect
        self._only = only
        self._progress_s = progress_s
        self._staging: Staging | None = None
        self._download = Download(digest, list(holders), progress_s=progress_s)
        self._asking = _Asking(self._download, holders, pool, progress_s)

    async def run(self) -> None:
        """Manifest, chunks, commit."""
        manifest = await self._asking.manifest()
        if self._expect is not None:
            self._expect(manifest)
        try:
            staging = await in_thread(self._stage, manifest)
            self._download.want(self._wanted(manifest, staging.missing()))
            await self._chunks(staging)
            if self._only is None:
                await in_thread(staging.commit)
        finally:
            if self._staging is not None:
                self._staging.close()

    def _stage(self, manifest: Manifest) -> Staging:
        """Kept at once: whoever is cancelled meanwhile must still close it."""
        self._staging = self._store.stage(manifest.to_bytes())
        return self._staging

    def _wanted(self, manifest: Manifest, missing: Iterable[Range]) -> Iterable[int]:
        indices = indices_of(missing)
        if self._only is None:
            return indices
        wanted = {chunk.index for name in self._only for chunk in manifest.chunks_of(name)}
        return wanted.intersection(indices)

    async def _chunks(self, staging: Staging) -> None:
        while True:
            match self._download.next(time.monotonic()):
                case AskChunks() as step:
                    await self._ask(step, staging)
                case Wait(until):
                    await asyncio.sleep(max(0.0, until - time.monotonic()))
                case Complete():
                    return
                case GiveUp(error):
                    raise error
                case step:
                    raise RuntimeError(f"a download with a manifest asked for {step}")

    async def _ask(self, step: AskChunks, staging: Staging) -> None:
        """One answer of one holder: as much of it as comes and is right."""
        desk = _Desk(self._download, step.holder, staging)
        try:
            try:
                await self._take(step, staging.manifest, desk)
            finally:
                await desk.settle()
        except _HoldersFault as fault:
            self._asking.failed(step.holder, fault.error)

    async def _take(self, step: AskChunks, manifest: Manifest, desk: "_Desk") -> None:
        expected = (manifest.chunk(index) for index in indices_of(step.ranges))
        chunks = Chunks(expected, step.holder)
        ranges = [ChunkRange(start=start, stop=stop) for start, stop in step.ranges]
        pieces = stream(
            self._asking.stub(step.holder).Fetch,
            FetchRequest(digest=manifest.digest, ranges=ranges),
            progress_s=self._progress_s,
            first_s=step.patience_s,
        )
        async with aclosing(pieces):
            while True:
                try:
                    piece = await anext(pieces, None)
                    if piece is None:
                        chunks.require_end()
                        return
                    whole = chunks.take(piece.index, piece.data)
                except WeftError as error:
                    raise _HoldersFault(error) from error
                if whole is not None:
                    await desk.put(whole)


class _HoldersFault(Exception):
    """What a holder did wrong, apart from what goes wrong on this side."""

    def __init__(self, error: WeftError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Desk:
    """Takes whole chunks to the disk in a thread, a batch at a time, while others arrive."""

    download: Download
    holder: str
    staging: Staging
    _waiting: list[Whole] = field(default_factory=list)
    _writing: "asyncio.Task[_Written] | None" = None

    async def put(self, whole: Whole) -> None:
        """Hand over a chunk; waits where the disk is slower than the network."""
        self._waiting.append(whole)
        if self._writing is None or self._writing.done() or len(self._waiting) >= _BATCH:
            await self._book()
            self._begin()

    async def settle(self) -> None:
        """Wait until everything handed over is stored."""
        await self._book()
        self._begin()
        await self._book()

    def _begin(self) -> None:
        """Start to write what waits."""
        if self._waiting:
            batch, self._waiting = self._waiting, []
            self._writing = asyncio.create_task(asyncio.to_thread(_write, self.staging, batch))

    async def _book(self) -> None:
        """Wait for the batch under way, and tell the download what is stored."""
        if self._writing is None:
            return
        await ended(self._writing)
        writing, self._writing = self._writing, None
        written = writing.result()
        self.download.stored(self.holder, written.indices)
        if written.error is not None:
            raise _HoldersFault(written.error)


@dataclass(frozen=True, slots=True)
class _Written:
    """Which chunks of a batch are stored, and why one is not."""

    indices: list[int]
    error: WeftError | None = None


def _write(staging: Staging, batch: Sequence[Whole]) -> _Written:
    """Verify and write a batch. Blocks.

    Raises:
        WeftError: what is this side's own (a full disk).
    """
    stored: list[int] = []
    error: WeftError | None = None
    for index, parts in batch:
        try:
            staging.write_chunk(index, parts[0] if len(parts) == 1 else b"".join(parts))
            stored.append(index)
        except Corrupt as wrong:
            error = wrong
    return _Written(stored, error)
