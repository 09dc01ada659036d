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
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from weft.checkpoints.digest import digest_of
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.errors import WeftError
from weft.protocol.assembly import Chunks
from weft.protocol.channel import ChannelPool, peer_stub, stream
from weft.protocol.errors import CorruptTransfer
from weft.protocol.landing import Desk, SenderFault
from weft.protocol.limits import MANIFEST_BYTES, PROGRESS_S
from weft.protocol.pieces import decode
from weft.protocol.threads import in_thread
from weft.protocol.transfer import (
    AskChunks,
    AskManifest,
    Complete,
    Download,
    GiveUp,
    Range,
    Wait,
    indices_of,
)
from weft.protocol.v1.peer_pb2 import ChunkRange, FetchRequest, ManifestRequest


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
            peer_stub(self.channel(holder)).Manifest,
            request,
            progress_s=self.progress_s,
            first_s=patience_s,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                data += piece.data
                if len(data) > MANIFEST_BYTES or not piece.data:
                    raise CorruptTransfer(f"{holder} sends a manifest that does not end")
        return await in_thread(_parsed, bytes(data), digest, holder)

    def channel(self, holder: str) -> grpc.aio.Channel:
        """To the holder, over a connection for bulk."""
        found = self.holders[holder]
        return self.pool.to(found.address, found.name, bulk=True)

    def fetch_method(self, holder: str) -> Any:
        """The holder's Fetch, whose messages are decoded as `weft.protocol.pieces` does."""
        return self.channel(holder).unary_stream(
            "/weft.v1.Peer/Fetch", FetchRequest.SerializeToString, decode
        )

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
        desk = Desk(staging, partial(self._download.stored, step.holder))
        try:
            await self._take(step, staging.manifest, desk)
        except SenderFault as fault:
            self._asking.failed(step.holder, fault.error)
        finally:
            await desk.abandon()

    async def _take(self, step: AskChunks, manifest: Manifest, desk: Desk) -> None:
        try:
            await self._stream(step, manifest, desk)
        except SenderFault:
            await desk.settle()  # what came before the fault stays
            raise
        await desk.settle()

    async def _stream(self, step: AskChunks, manifest: Manifest, desk: Desk) -> None:
        expected = (manifest.chunk(index) for index in indices_of(step.ranges))
        chunks = Chunks(expected, step.holder, desk.buffer)
        ranges = [ChunkRange(start=start, stop=stop) for start, stop in step.ranges]
        pieces = stream(
            self._asking.fetch_method(step.holder),
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
                    whole = chunks.take(*piece)
                except WeftError as error:
                    raise SenderFault(error) from error
                if whole is not None:
                    await desk.put(whole)
