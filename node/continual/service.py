"""What a stream answers to those who push into it: the service Continual.

Every method parses, looks and answers. Reading is from the keeper's view and waits for
nobody; what changes the stream is begun once, whoever asks for it how often, and waited
for up to what the caller asked for.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, TypeAlias

import grpc
import structlog

from weft.checkpoints.digest import digest_of as content_digest
from weft.checkpoints.staging import Staging
from weft.errors import InvalidInput
from weft.node.continual.errors import NoSuchContribution, NoSuchGeneration, Unfit
from weft.node.continual.incoming import announcement, land
from weft.node.continual.keeper import Keeper
from weft.node.continual.messages import (
    contribution_message,
    generation_message,
    ranges_message,
    require_offer,
    source_of,
)
from weft.node.continual.once import Once, bounded, within
from weft.node.continual.records import Contribution, Generation, Status
from weft.node.continual.stream import Receipt, Stream
from weft.node.continual.uploads import Uploads
from weft.protocol.assembly import Chunks
from weft.protocol.convert import digest_of
from weft.protocol.errors import BadMessage
from weft.protocol.identity import identity_of
from weft.protocol.landing import Desk, SenderFault
from weft.protocol.limits import RANGES
from weft.protocol.serve_artifacts import checked_ranges
from weft.protocol.status import public
from weft.protocol.threads import Threads
from weft.protocol.transfer import indices_of
from weft.protocol.v1 import continual_pb2 as pb
from weft.protocol.v1.continual_pb2_grpc import ContinualServicer

log = structlog.get_logger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_THREADS: Final = 4


class ContinualService(ContinualServicer):
    """Servicer of `weft.v1.Continual`.

    Args:
        keeper: of the stream.
        uploads: where what is pushed lies until it is taken.
    """

    def __init__(self, keeper: Keeper, uploads: Uploads) -> None:
        self._keeper, self._uploads = keeper, uploads
        self._threads = Threads(_THREADS, "weft-uploads")
        self._takes = Once()
        self._changes = Once()
        # Content that came before from elsewhere; the journal has no entry of its own for it.
        self._known: dict[str, int] = {}

    async def Begin(  # noqa: N802 - the wire's name
        self, request_iterator: AsyncIterator[pb.BeginRequest], context: Context
    ) -> pb.BeginReply:
        """Announce an artifact; what cannot be taken is refused now.

        Raises:
            WrongBase, WrongKind, SchemaMismatch: not for this stream.
            NoSuchGeneration: it cannot have started from there.
            DiskFull: no room for it.
        """
        offer, manifest = await announcement(request_iterator)
        digest = await self._threads.begin(content_digest, manifest)
        if known := self._known_answer(digest, offer):
            return pb.BeginReply(digest=digest, known=contribution_message(known))
        await self._threads.begin(self._require_possible, offer)
        staging = await self._threads.begin(self._uploads.begin, manifest)
        return pb.BeginReply(digest=digest, **_missing(staging))

    async def Upload(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UploadRequest], context: Context
    ) -> pb.UploadReply:
        """Chunks of an announced artifact; each is durable by the commit, verified at once.

        Raises:
            MissingArtifact: it was not announced; begin again.
            BadMessage, Corrupt: what comes is not what was to come.
        """
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "head":
            raise BadMessage("an upload begins with its digest and its ranges")
        with self._uploads.using(digest_of(first.head.digest)) as staging:
            ranges = checked_ranges(first.head.ranges, staging.manifest.chunk_count)
            expected = (staging.manifest.chunk(index) for index in indices_of(ranges))
            desk = Desk(staging, lambda indices: None)
            chunks = Chunks(expected, identity_of(context).name, desk.buffer)
            try:
                await land(request_iterator, chunks, desk)
            except SenderFault as fault:
                raise fault.error from fault
            finally:
                await desk.abandon()
            return pb.UploadReply(**_missing(staging))

    async def Commit(  # noqa: N802
        self, request: pb.CommitRequest, context: Context
    ) -> pb.CommitReply:
        """Take an artifact whose chunks are all there.

        Raises:
            MissingArtifact, IncompleteArtifact: it is not all there; begin again.
            DiskFull: no room; nothing has changed.
        """
        digest, offer = digest_of(request.digest), request.offer
        require_offer(offer)
        source = source_of(digest, offer)
        if source not in self._takes and (known := self._known_answer(digest, offer)):
            return pb.CommitReply(ready=True, known=True, contribution=contribution_message(known))
        taking = self._takes.begin(source, lambda: self._take(digest, offer))
        receipt: Receipt | None = await within(taking, request.wait_s)
        if receipt is None:
            return pb.CommitReply()
        told = contribution_message(receipt.contribution)
        log.info("pushed", caller=identity_of(context).name, contribution=told.seq)
        return pb.CommitReply(ready=True, known=receipt.known, contribution=told)

    async def Wait(self, request: pb.WaitRequest, context: Context) -> pb.WaitReply:  # noqa: N802
        """A contribution, as soon as it does not wait any more.

        Raises:
            NoSuchContribution: there is none of that number.
        """

        def settled() -> Contribution | None:
            each = self._contribution(request.seq)
            return None if each.status is Status.WAITING else each

        found = await self._keeper.board.wait_for(settled, bounded(request.wait_s))
        told = contribution_message(found or self._contribution(request.seq))
        return pb.WaitReply(contribution=told, message=public(self._keeper.trouble))

    async def Head(self, request: pb.HeadRequest, context: Context) -> pb.HeadReply:  # noqa: N802
        """The merged model as it is now, and what waits."""
        view = self._keeper.view
        return pb.HeadReply(
            path=str(self._keeper.head),
            generation=generation_message(view.newest),
            base=self._keeper.base,
            contributions=len(view.contributions),
            waiting=view.waiting,
            message=public(self._keeper.trouble),
        )

    async def History(  # noqa: N802
        self, request: pb.HistoryRequest, context: Context
    ) -> AsyncGenerator[pb.HistoryEntry, None]:
        """Contributions, then generations, with larger numbers than those that are known."""
        view = self._keeper.view
        for each in view.contributions[min(request.after_contribution, len(view.contributions)) :]:
            yield pb.HistoryEntry(contribution=contribution_message(each))
        start = request.after_generation + 1 if request.after_generation else 0
        for made in view.generations[min(start, len(view.generations)) :]:
            yield pb.HistoryEntry(generation=generation_message(made))

    async def Revoke(  # noqa: N802
        self, request: pb.RevokeRequest, context: Context
    ) -> pb.RevokeReply:
        """Take a contribution out, as if it had never come; again, it changes nothing.

        Raises:
            NoSuchContribution, NotKept: nothing has changed.
        """
        seq = request.seq
        if self._contribution(seq).is_revoked:
            newest = generation_message(self._keeper.view.newest)
            return pb.RevokeReply(ready=True, generation=newest)
        made = await self._change(f"revoke {seq}", lambda it: it.revoke(seq), request.wait_s)
        return pb.RevokeReply(ready=made is not None, generation=made)

    async def Rollback(  # noqa: N802
        self, request: pb.RollbackRequest, context: Context
    ) -> pb.RollbackReply:
        """Make the head what it was in an earlier generation; with `seen` only once.

        Raises:
            NoSuchGeneration, NotKept: nothing has changed.
        """
        number = request.generation
        seen = request.seen if request.HasField("seen") else None
        what = f"back to {number}, known {seen}"
        made = await self._change(what, lambda it: it.rollback(number, seen=seen), request.wait_s)
        return pb.RollbackReply(ready=made is not None, generation=made)

    def close(self) -> None:
        """Let threads and files go."""
        self._takes.cancel()
        self._changes.cancel()
        self._threads.close()
        self._uploads.close()

    async def _change(
        self, what: str, job: Callable[[Stream], Generation], wait_s: float
    ) -> pb.Generation | None:
        changing = self._changes.begin(what, lambda: self._keeper.ask(job))
        made = await within(changing, wait_s)
        return None if made is None else generation_message(made)

    async def _take(self, digest: str, offer: pb.Offer) -> Receipt:
        """Durable, then offered in its turn, then dropped; runs on when nobody waits."""
        await self._threads.begin(self._uploads.commit, digest)
        try:
            receipt = await self._keeper.ask(lambda stream: self._offer(stream, digest, offer))
        except InvalidInput:  # it never will be taken: nobody goes on with it
            await self._threads.begin(self._uploads.drop, digest)
            raise
        if receipt.known:
            self._known[source_of(digest, offer)] = receipt.contribution.seq
        await self._threads.begin(self._uploads.drop, digest)
        return receipt

    def _offer(self, stream: Stream, digest: str, offer: pb.Offer) -> Receipt:
        """In the stream's thread; what is not taken is an answer too."""
        source = source_of(digest, offer)
        with self._uploads.path(digest) as path:
            try:
                return stream.offer(
                    path,
                    name=offer.name or digest[:12],
                    weight=offer.weight,
                    lineage=offer.lineage,
                    step=offer.step,
                    started_from=offer.started_from if offer.HasField("started_from") else None,
                    again=offer.again,
                    source=source,
                )
            except Unfit:
                return Receipt(stream.queue.contributions[-1])

    def _known_answer(self, digest: str, offer: pb.Offer) -> Contribution | None:
        source = source_of(digest, offer)
        found = self._keeper.view.of_source(source)
        if found is None and source in self._known:
            found = self._contribution(self._known[source])
        if found is None:
            return None
        stays = found.status in (Status.WAITING, Status.ABSORBED)
        return found if stays or not offer.again else None

    def _require_possible(self, offer: pb.Offer) -> None:
        generations = len(self._keeper.view.generations)
        if offer.HasField("started_from") and offer.started_from >= generations:
            raise NoSuchGeneration(
                f"no generation {offer.started_from}; there are 0 to {generations - 1}"
            )
        if offer.started_from and not self._keeper.keeps(offer.started_from):
            raise NoSuchGeneration(
                f"generation {offer.started_from} is not kept any more; the stream retains only"
                " the newest ones"
            )

    def _contribution(self, seq: int) -> Contribution:
        contributions = self._keeper.view.contributions
        if not 1 <= seq <= len(contributions):
            raise NoSuchContribution(f"no contribution {seq}; there are {len(contributions)}")
        return contributions[seq - 1]


def _missing(staging: Staging) -> dict[str, Any]:
    ranges = ranges_message(staging.missing()[:RANGES])
    return {"missing": ranges, "missing_chunks": staging.missing_chunks}
