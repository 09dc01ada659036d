"""Gets what a round needs from its neighbours: contributions, then verdicts.

Under `wait` it asks for ever and says for whom it waits; under `deadline` a
neighbour that did not deliver in time is a missed edge with its reason.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from weft.checkpoints.errors import DiskFull, SchemaMismatch, WrongBase
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.store import Store
from weft.errors import Corrupt, Unavailable, WeftError
from weft.node.coordinator_link import Pauses
from weft.node.errors import NotAContribution
from weft.node.guards import Reason
from weft.protocol.channel import ChannelPool, call, peer_stub
from weft.protocol.fetch import Holder, fetch_artifact
from weft.protocol.run import Digest, NodeId, Phase, Plan
from weft.protocol.v1 import peer_pb2 as pb
from weft.protocol.v1.peer_pb2_grpc import PeerStub

log = structlog.get_logger(__name__)

T = TypeVar("T")

LONG_POLL_S = 15.0
_GRACE_S = 5.0
_CORRUPT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Arrived:
    """A contribution that lies verified in the store."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Missed:
    """An edge that carried nothing, and why."""

    reason: Reason


class Peers:
    """Stubs and holders of the run's members, by the plan of the moment."""

    def __init__(
        self, me: NodeId, pool: ChannelPool, run: str, plan_of: Callable[[], Plan | None]
    ) -> None:
        self._me, self._pool, self.run, self._plan_of = me, pool, run, plan_of

    def holder(self, node: NodeId) -> Holder:
        """Where a member is reached.

        Raises:
            Unavailable: the plan that this node holds does not know it.
        """
        plan = self._plan_of()
        member = None if plan is None else plan.member(node)
        if member is None:
            raise Unavailable(f"{node} is not in the plan that this node holds")
        return Holder(name=member.node, address=member.address)

    def is_planned(self, node: NodeId) -> bool:
        """Whether a member is among those of the newest epoch.

        Who left, was dropped or whose certificate was revoked is not: nothing is
        fetched from it any more, and nobody waits for it.
        """
        plan = self._plan_of()
        return plan is not None and bool(plan.epochs) and node in plan.epochs[-1].members

    def data_size(self, node: NodeId) -> int:
        """Examples that a member trains on; 0 where it did not say."""
        plan = self._plan_of()
        member = None if plan is None else plan.member(node)
        return 0 if member is None else member.data_size

    def stub(self, node: NodeId) -> PeerStub:
        """The Peer service of a member."""
        holder = self.holder(node)
        return peer_stub(self._pool.to(holder.address, holder.name))

    def holders(self, first: NodeId) -> list[Holder]:
        """A member, then all others: whoever else has the artifact will do."""
        return [self.holder(first), *(h for h in self.others() if h.name != first)]

    def others(self) -> list[Holder]:
        """All members but this node."""
        plan = self._plan_of()
        members = () if plan is None else plan.members
        return [Holder(name=m.node, address=m.address) for m in members if m.node != self._me]


class Collector:
    """Fetches contributions and verdicts of one round from many neighbours at once.

    Args:
        peers: the members of the run.
        pool: channels.
        store: where artifacts land.
        progress_s: a transfer that stands still for so long is given up.
        check: raises where a manifest is not what the run expects of that node in
            that round; called before any tensor byte moves.
        on_contact: called with a neighbour's name whenever it answered.
    """

    def __init__(
        self,
        peers: Peers,
        pool: ChannelPool,
        store: Store,
        *,
        progress_s: float,
        check: Callable[[Manifest, NodeId, int], None],
        on_contact: Callable[[NodeId], None],
    ) -> None:
        self._peers, self._pool, self._store = peers, pool, store
        self._progress_s, self._check, self._on_contact = progress_s, check, on_contact
        self.waiting_for: dict[NodeId, str] = {}

    async def contributions(
        self,
        round: int,
        members_digest: Digest,
        neighbours: tuple[NodeId, ...],
        deadline_s: float | None,
    ) -> Mapping[NodeId, Arrived | Missed]:
        """What each neighbour contributed to the round, fetched and verified."""

        async def one(node: NodeId) -> Arrived | Missed:
            return await self._contribution(round, members_digest, node)

        return await self._each(neighbours, one, deadline_s)

    async def newest_before(self, round: int, members: Sequence[NodeId]) -> Digest | None:
        """A member's newest contribution before a round, for a node that joins late."""
        for node in members:
            request = pb.ContributionRequest(run=self._peers.run, round=round - 1, wait_s=1.0)
            try:
                reply = await call(
                    self._peers.stub(node).Contribution, request, timeout_s=1.0 + _GRACE_S
                )
                if reply.ready:
                    digest = Digest(reply.digest)
                    await self._fetch(digest, node, reply.at_round)
                    return digest
            except WeftError as failed:
                log.info("no model to start from", peer=node, reason=str(failed))
        return None

    async def _fetch(self, digest: Digest, node: NodeId, round: int) -> None:
        await fetch_artifact(
            self._store,
            digest,
            self._peers.holders(node),
            self._pool,
            progress_s=self._progress_s,
            expect=lambda manifest: self._check(manifest, node, round),
        )

    async def verdicts(
        self, round: int, neighbours: tuple[NodeId, ...], deadline_s: float | None
    ) -> Mapping[NodeId, str]:
        """The neighbours that declined this node's contribution, and why."""

        async def one(node: NodeId) -> str:
            return await self._verdict(round, node)

        found = await self._each(neighbours, one, deadline_s)
        return {
            node: reason for node, reason in found.items() if isinstance(reason, str) and reason
        }

    async def _each(
        self,
        neighbours: tuple[NodeId, ...],
        one: Callable[[NodeId], Awaitable[T]],
        deadline_s: float | None,
    ) -> dict[NodeId, T | Missed]:
        tasks = {node: asyncio.ensure_future(one(node)) for node in neighbours}
        self.waiting_for = dict.fromkeys(neighbours, "not asked yet")
        try:
            if tasks:
                await asyncio.wait(
                    tasks.values(), timeout=deadline_s, return_when=asyncio.FIRST_EXCEPTION
                )
            _raise_first(tasks.values())
            return {
                node: task.result() if task.done() else Missed(Reason.LATE)
                for node, task in tasks.items()
            }
        finally:
            self.waiting_for = {}
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _contribution(
        self, round: int, members_digest: Digest, node: NodeId
    ) -> Arrived | Missed:
        pause, corrupt = Pauses(), 0
        while self._peers.is_planned(node):
            try:
                digest = await self._published(round, members_digest, node)
                await self._fetch(digest, node, round)
                self._heard(node)
                return Arrived(digest)
            except (SchemaMismatch, WrongBase, NotAContribution) as refused:
                log.warning("contribution refused", peer=node, round=round, reason=str(refused))
                wrong_base = isinstance(refused, WrongBase)
                return Missed(Reason.BASE if wrong_base else Reason.SCHEMA)
            except Corrupt as damaged:
                corrupt += 1
                self._say(node, str(damaged))
                if corrupt == _CORRUPT_TRIES:
                    return Missed(Reason.CORRUPT)
            except DiskFull:
                raise  # this node's own disk: nothing that a neighbour could mend
            except WeftError as away:
                # Away, or not in a state to answer: a node that comes back may not
                # have joined yet. Asked again, and told, until the policy ends it.
                self._say(node, str(away))
            await pause.wait()
        return Missed(Reason.LEFT)

    async def _published(self, round: int, members_digest: Digest, node: NodeId) -> Digest:
        while self._peers.is_planned(node):
            request = pb.ContributionRequest(
                run=self._peers.run,
                round=round,
                wait_s=LONG_POLL_S,
                members_digest=members_digest,
            )
            reply = await call(
                self._peers.stub(node).Contribution, request, timeout_s=LONG_POLL_S + _GRACE_S
            )
            self._on_contact(node)
            if reply.ready:
                return Digest(reply.digest)
            if reply.members_digest:
                raise Unavailable(f"{node} holds another list of members for round {round}")
            self._say(node, f"{reply.state} in round {reply.at_round}")
        raise Unavailable(f"{node} is not among the members any more")

    async def _verdict(self, round: int, node: NodeId) -> str:
        pause = Pauses()
        while self._peers.is_planned(node):
            request = pb.VerdictRequest(run=self._peers.run, round=round, wait_s=LONG_POLL_S)
            try:
                reply = await call(
                    self._peers.stub(node).Verdict, request, timeout_s=LONG_POLL_S + _GRACE_S
                )
                self._heard(node)
                if reply.ready:
                    return "" if reply.accepted else str(reply.reason)
            except WeftError as away:
                self._say(node, str(away))
                await pause.wait()
        return str(Reason.LEFT)

    def _heard(self, node: NodeId) -> None:
        self._on_contact(node)
        self.waiting_for.pop(node, None)

    def _say(self, node: NodeId, reason: str) -> None:
        if self.waiting_for.get(node) != reason:
            log.info("waiting for a neighbour", peer=node, reason=reason)
        self.waiting_for[node] = reason


def _raise_first(tasks: Iterable[asyncio.Future[T]]) -> None:
    """What one task cannot go on with ends the others too, and the node with a word."""
    for task in tasks:
        if task.done() and (failure := task.exception()) is not None:
            raise failure


async def ask_announcement(peers: Peers, node: NodeId, phase: Phase) -> pb.AnnouncementReply:
    """What a member holds for a phase of the global merge; one long poll."""
    request = pb.AnnouncementRequest(run=peers.run, phase=phase, wait_s=1.0)
    reply: pb.AnnouncementReply = await call(
        peers.stub(node).Announcement, request, timeout_s=1.0 + _GRACE_S
    )
    return reply


async def ask_share(
    peers: Peers, node: NodeId, set_digest: Digest, share: int, wait_s: float
) -> Digest | None:
    """The digest of a merged share from one member; None: not yet."""
    request = pb.ShareRequest(
        run=peers.run, set_digest=set_digest, share=share, wait_s=min(wait_s, LONG_POLL_S)
    )
    reply = await call(peers.stub(node).Share, request, timeout_s=LONG_POLL_S + _GRACE_S)
    return Digest(reply.digest) if reply.ready else None
