"""The global merge, sharded: each share of the tensors is folded once, for all.

A node announces its last model as slices, one a share, named by a small index
artifact. The owner of a share fetches that slice of every contributor, folds
it, and everybody pulls the result: about two models' bytes a node, whatever the
number of nodes. Folding is exact, so a share has one digest whoever folds it;
when its owner is gone the next in line does it, and nobody has to be asked.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from weft.checkpoints.artifacts import (
    ArtifactSink,
    open_contribution,
    open_model,
    put_delta,
    put_model,
    put_tensors,
)
from weft.checkpoints.engine import Contribution, merge
from weft.checkpoints.errors import DiskFull, WrongBase
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.schema import Schema, check
from weft.checkpoints.store import Store
from weft.checkpoints.subset import Subset, Union
from weft.checkpoints.writer import SafetensorsWriter
from weft.errors import InvalidInput, WeftError
from weft.merging.registry import create
from weft.node.collector import Peers, ask_share
from weft.node.coordinator_link import until_available
from weft.node.errors import NotAContribution
from weft.node.merging import Merging
from weft.protocol.channel import ChannelPool
from weft.protocol.convert import digest_of
from weft.protocol.fetch import fetch_artifact
from weft.protocol.run import Digest, GlobalSet, NodeId, RunSpec
from weft.topology.shares import owners, split_shares

log = structlog.get_logger(__name__)

_SLICE = "slice-"
PIN = "global"


def cut_schema(schema: Schema, shares: int) -> list[list[str]]:
    """The tensor names of each share; what is not merged travels with the first."""
    merged = {spec.name: spec.size_bytes for spec in schema.tensors if spec.kind == "parameter"}
    cut = split_shares(merged, shares)
    cut[0] = sorted({*cut[0], *(s.name for s in schema.tensors if s.name not in merged)})
    return cut


class ShareDesk:
    """Announces, folds and gathers shares.

    Args:
        me: this node.
        spec_of: the run; asked for only once it is joined.
        store: where artifacts lie.
        peers: the members.
        pool: channels.
        progress_s: a transfer that stands still for so long is given up.
        patience_s: how long the owner of a share is waited for before the next
            in line is asked.
    """

    def __init__(
        self,
        *,
        me: NodeId,
        spec_of: Callable[[], RunSpec],
        store: Store,
        peers: Peers,
        pool: ChannelPool,
        progress_s: float,
        patience_s: float,
    ) -> None:
        self._me, self._spec_of, self._store = me, spec_of, store
        self._peers, self._pool = peers, pool
        self._progress_s, self._patience_s = progress_s, patience_s
        self._folding: dict[int, asyncio.Task[Digest]] = {}
        self._fetching: dict[Digest, asyncio.Lock] = {}
        self._one_at_a_time = asyncio.Semaphore(1)

    @property
    def _spec(self) -> RunSpec:
        return self._spec_of()

    @property
    def _merging(self) -> Merging:
        return Merging(self._store, self._spec)

    # -- announcing ----------------------------------------------------------

    @property
    def _count(self) -> int:
        # From the specification: nodes that hold different lists cut alike.
        return self._spec.nodes

    def announce(self, model: Path) -> Digest:
        """Put the slices of a model and their index into the store. Blocks."""
        slices: dict[str, str] = {}
        with self._merging.base() as base, open_checkpoint(model) as finetuned:
            for number, names in enumerate(cut_schema(finetuned.schema, self._count)):
                slices[_slice(number)] = self._put_part(finetuned, base, names, {})
        index = put_tensors(self._store, "index", {}, metadata={"node": self._me, **slices})
        self._store.pin(index, PIN)
        return Digest(index)

    def _put_part(
        self,
        finetuned: TensorReader,
        base: TensorReader | None,
        names: Sequence[str],
        metadata: Mapping[str, str],
    ) -> Digest:
        digest = put_delta(
            self._store,
            Subset(finetuned, names),
            None if base is None else Subset(base, names),
            against=self._spec.base,
            codec=self._spec.merge.codec,
            metadata=metadata,
        )
        self._store.pin(digest, PIN)
        return Digest(digest)

    # -- aligning ------------------------------------------------------------

    async def restore(self, node: NodeId, announced: Digest, out: Path) -> None:
        """Fetch what a member of the committed set announced, and write its whole model."""
        slices = await asyncio.gather(
            *(self._slice(node, announced, share) for share in range(self._count))
        )
        await asyncio.to_thread(self._write, [digest for _, digest in slices], out)

    def _write(self, slices: Sequence[Digest], out: Path) -> None:
        with self._joined(slices) as whole:
            self._merging.check_schema(whole.schema, f"the model that {out.name} is made of")
            with SafetensorsWriter(out, whole.schema, {}) as writer:
                for spec in whole.schema:
                    writer.write(spec.name, whole.blocks(spec.name))

    @contextmanager
    def _joined(self, parts: Sequence[Digest]) -> Iterator[Union]:
        """The whole model of which these are all slices, or all merged shares."""
        with (
            self._merging.base() as base,
            Union([self._open_part(digest, base) for digest in parts]) as whole,
        ):
            yield whole

    # -- folding -------------------------------------------------------------

    async def folded(self, chosen: GlobalSet, share: int, wait_s: float) -> Digest | None:
        """The share's digest, folding it here if need be; None after `wait_s`.

        Raises:
            InvalidInput: there is no such share.
        """
        if not 0 <= share < self._count:
            raise InvalidInput(f"share {share}: the run has shares 0 to {self._count - 1}")
        task = self._start(chosen, share)
        done, _ = await asyncio.wait({task}, timeout=wait_s)
        return task.result() if done else None

    def _start(self, chosen: GlobalSet, share: int) -> asyncio.Task[Digest]:
        task = self._folding.get(share)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._folding[share] = asyncio.create_task(self._fold(chosen, share))
        return task

    async def _fold(self, chosen: GlobalSet, share: int) -> Digest:
        slices = await asyncio.gather(
            *(self._slice(node, digest, share) for node, digest in chosen.contributors)
        )
        async with self._one_at_a_time:  # a fold holds blocks of every contributor
            return await asyncio.to_thread(self._fold_slices, chosen, share, slices)

    async def _slice(self, node: NodeId, index: Digest, share: int) -> tuple[NodeId, Digest]:
        await self._await(index, node, _expect_index)
        metadata = self._store.manifest(index).metadata
        if _slice(share) not in metadata:
            raise NotAContribution(f"what {node} announced has no slice {share}")
        digest = digest_of(metadata[_slice(share)])
        await self._await(digest, node, lambda manifest: self._expect_part(manifest, share))
        return node, digest

    def _expect_part(self, manifest: Manifest, share: int) -> None:
        """Refuse a slice or share of another base or other tensors, before its bytes move."""
        what = f"share {share}: artifact {manifest.digest[:12]}"
        if manifest.kind != "delta" or manifest.against != self._spec.base:
            raise WrongBase(f"{what} is a {manifest.kind} against {manifest.against}")
        with self._merging.base() as base:
            if base is not None:
                names = cut_schema(base.schema, self._count)[share]
                check(manifest.schema, Subset(base, names).schema, what)

    async def _await(
        self, digest: Digest, node: NodeId, expect: Callable[[Manifest], None]
    ) -> None:
        """Fetch what only its contributor can give: a committed one comes back or is waited for."""

        async def attempt() -> None:
            await self._fetch(digest, node, expect)

        await until_available(attempt, what=f"the contribution of {node} to the global merge")

    async def _fetch(
        self, digest: Digest, first: NodeId, expect: Callable[[Manifest], None]
    ) -> None:
        # Several shares want the same index at once; one transfer is enough.
        async with self._fetching.setdefault(digest, asyncio.Lock()):
            if first != self._me:
                holders = self._peers.holders(first)
                await fetch_artifact(
                    self._store,
                    digest,
                    holders,
                    self._pool,
                    progress_s=self._progress_s,
                    expect=expect,
                )
            await asyncio.to_thread(self._store.pin, digest, PIN)

    def _fold_slices(
        self, chosen: GlobalSet, share: int, slices: Sequence[tuple[NodeId, Digest]]
    ) -> Digest:
        metadata = {"set": chosen.digest, "share": str(share)}
        with self._merging.base() as base, ExitStack() as stack:
            opened = [
                Contribution(
                    name=node,
                    reader=stack.enter_context(self._open_part(digest, base)),
                    weight=self.weight(node),
                    key=bytes.fromhex(digest),
                )
                for node, digest in slices
            ]
            first = opened[0].reader
            part = None if base is None else Subset(base, first.schema.names)
            final = self._spec.final
            with ArtifactSink(self._store, first.schema, metadata=metadata) as sink:
                merge(create(final.method, **final.options), part, opened, own=first, sink=sink)
            with open_model(self._store, sink.digest) as merged:
                return self._put_part(merged, base, merged.schema.names, metadata)

    def _open_part(self, digest: Digest, base: TensorReader | None) -> TensorReader:
        names = self._store.manifest(digest).schema.names
        part = None if base is None else Subset(base, names)
        return open_contribution(self._store, digest, part)

    def weight(self, node: NodeId) -> float:
        """What a contributor weighs in the global merge."""
        if self._spec.final.weights == "uniform":
            return 1.0
        return float(max(1, self._peers.data_size(node)))

    # -- gathering -----------------------------------------------------------

    async def gather(self, chosen: GlobalSet) -> Digest:
        """Fetch or fold every share; the merged model, whole, in the store."""
        obtaining = [self._obtain(chosen, share) for share in range(self._count)]
        digests = await asyncio.gather(*obtaining)
        return await asyncio.to_thread(self._join, chosen, digests)

    async def _obtain(self, chosen: GlobalSet, share: int) -> Digest:
        line = owners(share, [node for node, _ in chosen.contributors])
        for owner in line:
            if owner == self._me:
                break
            try:
                return await self._from(owner, chosen, share)
            except DiskFull:
                raise
            except (WeftError, TimeoutError) as away:
                log.warning("share's owner away", share=share, owner=owner, reason=str(away))
        return await self._start(chosen, share)

    async def _from(self, owner: NodeId, chosen: GlobalSet, share: int) -> Digest:
        digest = None
        while digest is None:
            # An owner that answers "not yet" is at work; one that is silent is not.
            async with asyncio.timeout(self._patience_s):
                digest = await ask_share(self._peers, owner, chosen.digest, share, self._patience_s)
        await self._fetch(digest, owner, lambda manifest: self._expect_part(manifest, share))
        return digest

    def _join(self, chosen: GlobalSet, digests: Sequence[Digest]) -> Digest:
        with self._joined(digests) as whole:
            self._merging.check_schema(whole.schema, "the merged model")
            metadata = {"run": self._spec.name, "set": chosen.digest}
            digest = put_model(self._store, whole, metadata=metadata)
        self._store.pin(digest, PIN)
        return Digest(digest)


def _expect_index(manifest: Manifest) -> None:
    if manifest.kind != "index" or manifest.total_bytes:
        raise NotAContribution(f"artifact {manifest.digest[:12]} is no index of slices")


def _slice(share: int) -> str:
    return f"{_SLICE}{share:05d}"
