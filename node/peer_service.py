"""What the other members of the run may ask of this node.

Every answer is read off the journalled state, so a node that was killed answers
as before. What is not there yet is waited for, on the board, up to what the
caller asked for.
"""

import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from weft.errors import Refused, Unavailable
from weft.node.board import Board
from weft.node.global_merge import GlobalMerge
from weft.node.rounds import RoundMachine
from weft.node.shares import ShareDesk
from weft.protocol.convert import phase_of
from weft.protocol.identity import Identity, identity_of
from weft.protocol.run import NodeId, members_digest
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.v1 import peer_pb2 as pb
from weft.protocol.v1.peer_pb2_grpc import PeerServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

LONGEST_WAIT_S = 30.0


class PeerService(PeerServicer):
    """Servicer of `weft.v1.Peer`; every method parses, looks and answers.

    Args:
        rounds: the rounds of this node.
        final: its global merge.
        board: notified at every change of the two.
        artifacts: serves manifests and chunks.
        shares: folds a share of the global merge when asked.
        status: the node's status document.
        is_member: whether an identity belongs to the run.
    """

    def __init__(
        self,
        *,
        rounds: RoundMachine,
        final: GlobalMerge,
        board: Board,
        artifacts: ArtifactService,
        shares: ShareDesk,
        status: Callable[[], dict[str, object]],
        is_member: Callable[[Identity], bool],
    ) -> None:
        self._rounds, self._final, self._board = rounds, final, board
        self._shares = shares
        # Chunks leave as encoded messages; the gate sends bytes as they are.
        self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch  # type: ignore[method-assign]
        self._status, self._is_member = status, is_member

    async def Contribution(  # noqa: N802 - the wire's name
        self, request: pb.ContributionRequest, context: Context
    ) -> pb.ContributionReply:
        """This node's contribution to a round, once it is published."""
        self._member(context, request.run)
        if not request.members_digest:
            return self._newest(request.round)
        published = await self._board.wait_for(
            lambda: self._rounds.published.get(request.round), _bounded(request.wait_s)
        )
        reply = pb.ContributionReply(state=self._rounds.stage, at_round=self._rounds.round)
        if published is None:
            return reply
        reply.members_digest = published.members_digest
        if published.members_digest == request.members_digest:
            reply.ready, reply.digest = True, published.digest
        return reply

    def _newest(self, before: int) -> pb.ContributionReply:
        """For a node that joins late and names no list: a model to start from."""
        kept = [round for round in self._rounds.published if round <= before]
        if not kept:
            return pb.ContributionReply(state=self._rounds.stage, at_round=self._rounds.round)
        newest = max(kept)
        digest = self._rounds.published[newest].digest
        return pb.ContributionReply(ready=True, digest=digest, at_round=newest)

    async def Verdict(  # noqa: N802
        self, request: pb.VerdictRequest, context: Context
    ) -> pb.VerdictReply:
        """Whether this node accepted the caller's contribution to a round."""
        caller = NodeId(self._member(context, request.run).name)
        judged = await self._board.wait_for(
            lambda: self._rounds.judged.get(request.round), _bounded(request.wait_s)
        )
        if judged is None:
            return pb.VerdictReply(ready=self._rounds.round > request.round, reason="late")
        if caller in judged.accepted:
            return pb.VerdictReply(ready=True, accepted=True)
        return pb.VerdictReply(ready=True, reason=judged.missed.get(caller, "late"))

    async def Announcement(  # noqa: N802
        self, request: pb.AnnouncementRequest, context: Context
    ) -> pb.AnnouncementReply:
        """What this node holds for a phase of the global merge."""
        self._member(context, request.run)
        phase = phase_of(request.phase)
        known = await self._board.wait_for(
            lambda: self._final.committed.get(phase) or self._final.announced.get(phase),
            _bounded(request.wait_s),
        )
        reply = pb.AnnouncementReply(ready=known is not None, state=self._rounds.stage)
        if announced := self._final.announced.get(phase):
            reply.digest = announced.digest
            reply.members.extend(announced.members)
            reply.members_digest = members_digest(announced.members)
        if promised := self._final.promised.get(phase):
            reply.promised = promised.digest
        if committed := self._final.committed.get(phase):
            reply.committed.extend(
                pb.Contributor(node=node, digest=digest) for node, digest in committed.contributors
            )
        return reply

    async def Share(self, request: pb.ShareRequest, context: Context) -> pb.ShareReply:  # noqa: N802
        """The digest of a merged share, folded now if it was not yet."""
        self._member(context, request.run)
        chosen = await self._board.wait_for(lambda: self._final.to_fold, _bounded(request.wait_s))
        if chosen is None:
            return pb.ShareReply()
        if chosen.digest != request.set_digest:
            raise Refused(
                f"share {request.share}: asked for the set {request.set_digest[:12]}, "
                f"this node committed {chosen.digest[:12]}"
            )
        digest = await self._shares.folded(chosen, request.share, _bounded(request.wait_s))
        return pb.ShareReply(ready=digest is not None, digest=digest or "")

    async def Status(  # noqa: N802
        self, request: pb.StatusRequest, context: Context
    ) -> pb.StatusReply:
        """What this node does, for people."""
        document = self._status()
        return pb.StatusReply(node=str(document["node"]), document=json.dumps(document))

    def _member(self, context: Context, run: str) -> Identity:
        caller = identity_of(context)
        own = self._rounds.spec
        if own is None:
            raise Unavailable("this node has not joined its run yet")
        if own.name != run:
            raise Refused(f"run {run!r} is not this node's run ({own.name})")
        if not self._is_member(caller):
            # Its plan may be on the way; whoever is no member asks in vain.
            raise Unavailable(f"{caller.name} is not among the members that this node knows")
        return caller


def _bounded(wait_s: float) -> float:
    if not math.isfinite(wait_s):
        return 0.0
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)
