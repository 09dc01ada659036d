"""Does what the single global merge needs: announce, settle, fold, finish.

The counterpart of `weft.node.round_steps` for `weft.node.global_merge`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from weft.checkpoints.artifacts import export_checkpoint, put_tensors
from weft.checkpoints.reader import open_checkpoint
from weft.errors import Unavailable, WeftError
from weft.node.aligning import Aligning
from weft.node.board import Board
from weft.node.collector import Peers, ask_announcement
from weft.node.coordinator_link import CoordinatorLink
from weft.node.entries import Announced, Committed, Finished, Folded, Promised
from weft.node.errors import NotFinite
from weft.node.global_merge import Announce, Announcement, Finish, Fold, GlobalMerge, Settle
from weft.node.ledger import Ledger, LedgerEntry, Parent, Statistics
from weft.node.merging import Merging
from weft.node.pooled_statistics import (
    MEASURED,
    fold_moments,
    has_statistics,
    local_moments,
    write_with_statistics,
)
from weft.node.shares import PIN, ShareDesk
from weft.node.training import TrainerBackend
from weft.node.workspace import Workspace
from weft.protocol.channel import ChannelPool
from weft.protocol.convert import contributors_of, digest_of, digest_or_none
from weft.protocol.fetch import fetch_artifact
from weft.protocol.run import Digest, GlobalSet, NodeId, Phase, Plan, RunSpec
from weft.protocol.v1.peer_pb2 import AnnouncementReply

log = structlog.get_logger(__name__)

_ASK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSteps:
    """Performs the steps of the global merge.

    Args:
        me: this node.
        spec: the run.
        final: the machine whose steps these are.
        plan_of: the newest plan that this node holds.
        workspace: the node's files.
        training: the user's training code.
        aligning: where the run aligns.
        desk: shares.
        peers: the members of the run.
        pool: channels.
        link: the coordinator.
        board: notified at each change, a newer plan included.
        ledger: where adopted models are written down.
        progress_s: a transfer that stands still for so long is given up.
        say: takes what the node waits for, in words.
    """

    me: NodeId
    spec: RunSpec
    final: GlobalMerge
    plan_of: Callable[[], Plan]
    workspace: Workspace
    training: TrainerBackend
    aligning: Aligning | None
    desk: ShareDesk
    peers: Peers
    pool: ChannelPool
    link: CoordinatorLink
    board: Board
    ledger: Ledger
    progress_s: float
    say: Callable[[str], None]

    @property
    def merging(self) -> Merging:
        """The tensor work, for this run."""
        return Merging(self.workspace.store, self.spec)

    async def announce(self, step: Announce) -> Announced:
        """Publish this node's part of a phase, under a frozen list of members."""
        model = self.workspace.path(step.model)
        if step.phase is Phase.PARAMETERS:
            epoch = self.plan_of().epoch_of(self.spec.rounds)
            digest = await asyncio.to_thread(self.desk.announce, model)
            return Announced(phase=step.phase, digest=digest, members=epoch.members)
        members = self.final.members(step.phase, ())
        if step.phase is Phase.ALIGNED:
            digest = await self._announce_aligned(model)
            return Announced(phase=step.phase, digest=digest, members=members)
        moments = self.workspace.folder / "moments.safetensors"
        measured = await self.training.calibrate(model, moments)
        if not measured:
            await asyncio.to_thread(local_moments, model, moments)
        digest = await asyncio.to_thread(self._keep_moments, moments, measured)
        moments.unlink()
        return Announced(phase=step.phase, digest=digest, members=members)

    async def _announce_aligned(self, model: Path) -> Digest:
        """Announce the model again in the anchor's order of units; the anchor's is as it was."""
        node, digest = self.final.anchor
        if node == self.me:
            return digest
        if self.aligning is None:
            raise RuntimeError("models are to be aligned in a run that does not align")
        anchor, out = (self.workspace.folder / f"{n}.safetensors" for n in ("anchor", "aligned"))
        await self.desk.restore(node, digest, anchor)
        moved = await self.aligning.model(anchor, model, out)
        if moved is None:
            raise NotFinite(
                f"the last model cannot be aligned to that of {node}: what one of them computes on"
                " this node's calibration data overflows"
            )
        log.info("aligned", anchor=node, moved_units=round(moved, 4))
        announced = await asyncio.to_thread(self.desk.announce, out)
        for path in (anchor, out):
            path.unlink()
        return announced

    def _keep_moments(self, moments: Path, measured: bool) -> Digest:
        with open_checkpoint(moments) as reader:
            tensors = {spec.name: reader.read(spec.name) for spec in reader.schema.tensors}
        digest = put_tensors(
            self.workspace.store,
            "moments",
            tensors,
            metadata={"node": self.me, MEASURED: str(measured).lower()},
        )
        self.workspace.store.pin(digest, PIN)
        return Digest(digest)

    async def settle(self, step: Settle) -> Committed | Promised:
        """Ask and watch until the next entry towards a committed set is due."""
        heard: dict[NodeId, Announcement] = {}
        while True:
            next_entry = self.final.consider(step.phase, self.plan_of(), heard)
            if not isinstance(next_entry, str):
                self.say("")
                return next_entry
            self.say(next_entry)
            await self._renew_promise(step.phase)
            await self._newer_plan(_ASK_EVERY_S)
            others = [node for node in step.members if node != self.me]
            answers = await asyncio.gather(*(self._ask(node, step.phase) for node in others))
            heard |= {node: answer for node, answer in answers if answer is not None}

    async def _newer_plan(self, timeout_s: float) -> None:
        held = self.plan_of().version
        await self.board.wait_for(lambda: self.plan_of().version != held or None, timeout_s)

    async def _ask(self, node: NodeId, phase: Phase) -> tuple[NodeId, Announcement | None]:
        try:
            reply = await ask_announcement(self.peers, node, phase)
        except WeftError as away:
            log.debug("no announcement", peer=node, reason=str(away))
            return node, None
        if not reply.ready:
            return node, None
        try:
            return node, _announcement_of(reply)
        except WeftError as unreadable:
            log.warning("announcement refused", peer=node, reason=str(unreadable))
            return node, None

    async def _renew_promise(self, phase: Phase) -> None:
        promised = self.final.promised.get(phase)
        if promised is None or promised not in self.plan_of().proposed:
            return
        try:
            await self.link.promise(promised)
        except WeftError as away:
            # Superseded, or the coordinator is away: the next plan settles it.
            log.info("promise not delivered", reason=str(away))

    async def fold(self, step: Fold) -> Folded:
        """Merge the committed set, share by share, with everybody else."""
        digest = await self.desk.gather(step.chosen)
        path = self.workspace.store.payload_path(digest)
        statistics = await asyncio.to_thread(has_statistics, path)
        return Folded(model=f"object:{digest}", has_statistics=statistics)

    async def finish(self, step: Finish) -> Finished:
        """Give the model its statistics, export it, and measure it."""
        if step.statistics is not None:
            digest = await self._with_statistics(step.model, step.statistics)
        else:
            digest = await asyncio.to_thread(self._kept, step.model)
        store = self.workspace.store
        await asyncio.to_thread(self._write_ledger, digest)
        metrics = await self.training.evaluate(store.payload_path(digest))
        await asyncio.to_thread(export_checkpoint, store, digest, self.workspace.merged_folder)
        return Finished(model=f"object:{digest}", metrics=dict(metrics or {}))

    def _kept(self, model: str) -> Digest:
        kind, _, digest = model.partition(":")
        if kind == "object":
            return Digest(digest)
        path = self.workspace.path(model)
        return self.merging.keep(path, {"run": self.spec.name, "node": self.me}, owner=PIN)

    def _write_ledger(self, result: Digest) -> None:
        folded = self.final.to_fold
        if folded is None:
            return
        published = dict(self.final.committed[Phase.PARAMETERS].contributors)
        aligns = self.spec.merge.aligns
        moments = self.final.committed.get(Phase.STATISTICS)
        self.ledger.append(
            LedgerEntry(
                kind="global",
                run=self.spec.name,
                node=self.me,
                round=self.spec.rounds,
                seed=self.spec.seed,
                base=self.spec.base,
                method=self.spec.final.method,
                options=dict(self.spec.final.options),
                align=self.spec.merge.align,
                parents=tuple(
                    Parent(
                        node=node,
                        digest=published[node],
                        weight=self.desk.weight(node),
                        aligned=digest if aligns else None,
                    )
                    for node, digest in folded.contributors
                ),
                statistics=Statistics.FOLDED if moments else Statistics.NONE,
                moments=dict(moments.contributors) if moments else {},
                result=result,
            )
        )

    async def _with_statistics(self, model: str, chosen: GlobalSet) -> Digest:
        store = self.workspace.store
        for node, digest in chosen.contributors:
            if node != self.me:
                await self._fetch_moments(node, digest)
            store.pin(digest, PIN)
        moments = await asyncio.to_thread(fold_moments, store, chosen.contributors)
        out = self.workspace.folder / "final.safetensors"
        await asyncio.to_thread(write_with_statistics, self.workspace.path(model), moments, out)
        digest = await asyncio.to_thread(
            self.merging.keep, out, {"run": self.spec.name, "set": chosen.digest}, owner=PIN
        )
        out.unlink()
        return digest

    async def _fetch_moments(self, node: NodeId, digest: Digest) -> None:
        while True:
            try:
                return await fetch_artifact(
                    self.workspace.store,
                    digest,
                    self.peers.holders(node),
                    self.pool,
                    progress_s=self.progress_s,
                )
            except Unavailable as away:
                self.say(f"waiting for the statistics of {node}: {away}")
                await self._newer_plan(_ASK_EVERY_S)


def _announcement_of(reply: AnnouncementReply) -> Announcement:
    return Announcement(
        digest=digest_of(reply.digest) if reply.digest else Digest(""),
        members_digest=digest_of(reply.members_digest) if reply.members_digest else Digest(""),
        promised=digest_or_none(reply.promised),
        committed=contributors_of(reply.committed) if reply.committed else None,
    )
