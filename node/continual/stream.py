"""A stream in a folder: checkpoints come in, one merged model is always there.

    DIR/stream.json      what the stream is; written once
    DIR/journal.sqlite   what became of every contribution (`queue.py`)
    DIR/lock             held by the one process that works on it
    DIR/store/           the base, kept contributions, states
    DIR/head/            the merged model (`head.py`)

A contribution is acknowledged when its artifact and the journal's entry are durable. It is
absorbed like this: state, then shards, each synced; then one journal entry; then the index
of the head. Whatever the process is killed in, the next one begins where the journal ends.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

import structlog

from weft.checkpoints.errors import BadTensor, SchemaMismatch, WrongBase
from weft.checkpoints.parallel import Workers
from weft.errors import Corrupt
from weft.merging.errors import BadOption, CannotMerge, FoldFull, NonFinite, OutOfBound
from weft.node.continual.errors import BadStream, NotKept, StreamCorrupt, Unfit
from weft.node.continual.files import JOURNAL, read_identity, sweep
from weft.node.continual.generations import Generations
from weft.node.continual.history import queue_of
from weft.node.continual.housekeeping import owner_of, require_whole, tidy
from weft.node.continual.intake import Intake
from weft.node.continual.parts import Parts, open_parts
from weft.node.continual.queue import (
    ACCEPTED,
    ADVANCED,
    ASKED,
    BEGUN,
    DROPPED,
    REFUSED,
    SET_ASIDE,
    Advance,
)
from weft.node.continual.records import (
    BEFORE_ITS_TURN,
    Cause,
    Contribution,
    Generation,
    Status,
)
from weft.node.continual.wishes import require_reachable, require_revocable
from weft.node.journal import Journal
from weft.node.lock import FolderLock

log = structlog.get_logger()

UNFIT: Final = (NonFinite, OutOfBound, FoldFull, CannotMerge, BadOption, NotKept, Unfit)
"""What a contribution is set aside for, and a wish dropped; anything else stops the stream."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an offer.

    Attributes:
        contribution: durable by now.
        known: the same content had come before; nothing has changed.
    """

    contribution: Contribution
    known: bool = False


class Stream:
    """A stream that this process works on; use it in a context.

    Args:
        folder: made by `files.begin`.
        threads: workers.
        memory_bytes: what they may fill between them.
        clock: seconds since the epoch; noted, never believed.

    Attributes:
        queue: what became of every contribution.

    Raises:
        NoStream: there is none.
        FolderInUse: another process works on it.
        JournalCorrupt, StreamCorrupt: what lies there is not what was written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 1,
        memory_bytes: int = 2**40,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.identity = read_identity(folder)
        self._clock = clock
        self._stack = ExitStack()
        self._base_is_whole = self._settled = False
        try:
            self._stack.enter_context(FolderLock(folder))
            self._journal = self._stack.enter_context(
                Journal.open(folder / JOURNAL, identity=self.identity.whose)
            )
            self.queue = queue_of(self._journal)
            workers = Workers(threads, memory_bytes)
            self.parts: Parts = open_parts(folder, self.identity, self.queue, workers, self._stack)
            self._intake, self._generations = Intake(self.parts), Generations(self.parts)
            self._recover()
        except BaseException:
            self._stack.close()
            raise

    def offer(
        self,
        path: Path,
        *,
        name: str = "",
        weight: float = 1.0,
        lineage: str = "",
        step: int = 0,
        started_from: int | None = None,
        again: bool = False,
        source: str = "",
        check: Callable[[], None] | None = None,
        prefix: str = "",
    ) -> Receipt:
        """Take a checkpoint, an adapter or a delta folder; durable when it returns.

        Args:
            path: what is taken; it is not needed afterwards.
            name: for people; the path's name where nothing is said.
            weight: in the merge.
            lineage: the training run that it is a checkpoint of: it replaces an older one.
            step: of that run.
            started_from: the generation whose head it was trained from.
            again: take it although the same content was revoked or set aside before.
            source: noted with it; `Queue.of_source` finds it.
            check: called once all was read; raises where that is no longer what lies there,
                and nothing is noted.
            prefix: of a torch.distributed checkpoint only tensors that begin with it,
                without it.

        Raises:
            Unfit: it is not taken; noted in the history with its reason.
            MissingCheckpoint, UnsupportedFile: nothing that could be taken is there.
            NoSuchGeneration: it cannot have started from there.
            DiskFull: no room; nothing has changed.
        """
        offered = Contribution(
            seq=self.queue.next_seq,
            name=name or path.name,
            digest="",
            weight=weight,
            lineage=lineage,
            step=step,
            started_from=started_from,
            at=self._clock(),
            source=source,
        )
        if not math.isfinite(weight):
            raise BadStream(f"{offered.name}: a contribution cannot have weight {weight}")
        self._require_base()
        with self._refusing(offered):
            stored = self._intake.stored(offered, path, prefix)
        if check is not None:
            check()
        return self.take(stored, again=again)

    def take(
        self, offered: Contribution, *, again: bool = False, distinct: bool = False
    ) -> Receipt:
        """Take a contribution whose artifact is in the store already; see `offer`.

        Args:
            offered: with the artifact's digest and form.
            again: see `offer`.
            distinct: equal content is only known if it is the same step of the same run.
        """
        known = self.queue.of_digest(offered.digest)
        if distinct:
            known = self.queue.of_round(offered.digest, offered.lineage, offered.step)
        if known is not None and (not again or known.status in (Status.WAITING, Status.ABSORBED)):
            return Receipt(known, known=True)
        self._require_base()
        with self._refusing(offered):
            offered = self._intake.examined(offered)
        self.parts.store.pin(offered.digest, owner_of(offered))
        self._write(ACCEPTED, asdict(offered))
        log.info("accepted", contribution=offered.seq, name=offered.name, norm=offered.norm)
        return Receipt(offered)

    def refuse(
        self, reason: str, *, name: str, lineage: str = "", step: int = 0, source: str = ""
    ) -> Contribution:
        """Note something that is not taken, unread; see `offer`."""
        told = Contribution(
            seq=self.queue.next_seq,
            name=name,
            digest="",
            lineage=lineage,
            step=step,
            at=self._clock(),
            status=Status.SET_ASIDE,
            reason=reason,
            source=source,
        )
        self._write(REFUSED, asdict(told))
        log.warning("set aside", name=name, reason=reason)
        return told

    def revoke(self, seq: int) -> Generation:
        """Take a contribution out, as if it had never come; again, it changes nothing.

        Returns:
            The newest generation.

        Raises:
            NoSuchContribution: there is none.
            NotKept: what the method needs for it was not kept; nothing has changed.
        """
        each = self.queue.contribution(seq)
        if each.status is Status.WAITING:
            self._write(SET_ASIDE, {"seq": seq, "reason": BEFORE_ITS_TURN})
            tidy(self.parts, self.identity.base)
        elif not each.is_revoked:
            require_revocable(self.parts, self._generations, seq)
            self._wish({"revoke": seq})
        return self.queue.generation

    def rollback(self, number: int, *, seen: int | None = None) -> Generation:
        """Make the head what it was in an earlier generation; what came since goes out.

        Args:
            number: of that generation.
            seen: the newest generation when this was asked for the first time: if the stream
                has gone back to the same merge since then, nothing is done again.

        Returns:
            The generation that this made.

        Raises:
            NoSuchGeneration: there is none.
            NotKept: it holds what was revoked since; or its state is gone, and what is needed
                to make it again was not kept.
        """
        done = None if seen is None else self.queue.gone_back(number, seen)
        if done is not None:
            return done
        require_reachable(self.parts, self._generations, number)
        self._wish({"back_to": number})
        return self.queue.generation

    def work(self) -> Generation | None:
        """Do one thing that is due; None where nothing is.

        Raises:
            DiskFull: no room; try again.
            BadStream: the gate does not say what a head is worth; nothing has changed.
            One of `UNFIT`: a revocation or a rollback cannot be done; it is dropped.
            StreamCorrupt, Corrupt: the stream's own files are damaged.
        """
        self._settle()
        due = self.queue.due()
        if due is None:
            return None
        try:
            return self._advance(due)
        except UNFIT as error:
            self._give_up(due, str(error))
            if due.cause not in (Cause.ABSORBED, Cause.REPLACED):
                raise
            return self.queue.generation

    def drain(self) -> None:
        """Do all that is due."""
        while self.work() is not None:
            pass

    def close(self) -> None:
        """Let the stream go."""
        self._stack.close()

    def _wish(self, wish: dict[str, object]) -> None:
        """Ask for it, unless it has been asked for and was not done yet; do all that was."""
        if not self.queue.wishes(wish):
            self._write(ASKED, wish)
        while self.queue.wishing:
            self.work()

    def _give_up(self, due: Advance, reason: str) -> None:
        """Go on without what cannot be done."""
        if due.cause in (Cause.ABSORBED, Cause.REPLACED):
            self._write(SET_ASIDE, {"seq": due.contribution, "reason": reason})
            log.warning("set aside", contribution=due.contribution, reason=reason)
        else:
            self._write(DROPPED, {"reason": reason})
            log.warning("dropped", cause=due.cause, about=due.contribution, reason=reason)
        self._settled = False
        self._settle()

    def _advance(self, due: Advance) -> Generation:
        self._require_base()
        self._settled = False  # whatever comes of it, something is left that nobody needs
        made = self._generations.make(due, self._clock())
        overlap = self._generations.overlap(due)
        self._write(ADVANCED, {**asdict(made), "overlap": overlap})
        self._settle()
        log.info("generation", number=made.number, cause=due.cause, about=due.contribution)
        return made

    @contextmanager
    def _refusing(self, offered: Contribution) -> Iterator[None]:
        """Note what is not taken, with its reason, and say so."""
        try:
            yield
        except (Unfit, NonFinite, BadTensor, SchemaMismatch, WrongBase, Corrupt) as error:
            told = replace(offered, status=Status.SET_ASIDE, reason=str(error))
            self._write(REFUSED, asdict(told))
            log.warning("set aside", name=offered.name, reason=str(error))
            raise Unfit(str(error)) from error

    def _recover(self) -> None:
        """Make what the journal says true, whatever the last process left."""
        sweep(self.folder)
        if not self.queue.generations:
            self._first()
        newest = self.queue.generation
        if not self.parts.heads.has(newest.number):
            self._write_again(newest)
        self._settle()

    def _settle(self) -> None:
        """Publish what the journal says, and keep what it needs: once more where that failed."""
        if not self._settled:
            self.parts.heads.publish(self.queue.generation)
            tidy(self.parts, self.identity.base)
            self._settled = True

    def _require_base(self) -> None:
        """All is against the base, which is read unhashed: hash it once before that."""
        if self._base_is_whole:
            return
        require_whole(self.parts, self.identity.base)
        self._base_is_whole = True

    def _first(self) -> None:
        self._require_base()
        made = Generation(number=0, cause=Cause.BEGUN, head="", at=self._clock())
        made = replace(made, head=self._generations.write_head(made)[0])
        self._write(BEGUN, asdict(made))

    def _write_again(self, newest: Generation) -> None:
        self._require_base()
        head, _ = self._generations.write_head(newest)
        if head != newest.head:
            raise StreamCorrupt(
                f"{self.folder}: the head of generation {newest.number} was lost, and is made"
                " otherwise now; the store may be damaged (weft store verify)"
            )

    def _write(self, kind: str, entry: dict[str, object]) -> None:
        """Durable first, then in effect."""
        self._journal.append(kind, entry)
        self.queue.apply(kind, entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
