"""The queue of a stream: who comes, what is due, what became of whom. No disk, no clock.

    queue.due()            what is to be done next, or None
    queue.apply(entry)     a journal entry takes effect; the only thing that changes a queue

Whoever drives it does what is due and hands back one entry, which is made durable first
and applied then. A queue that applies its journal is where it was, so a step that was cut
short is due again, and one whose entry is in the journal never is.

    entry      says
    begun      generation 0: the base is the head
    accepted   a contribution is durable; it may be acknowledged
    refused    something came that is not taken, and why
    advanced   a new generation: one contribution in, out or replaced, or a step back
    set_aside  a contribution that was acknowledged cannot be absorbed, and why
    asked      a contribution is to be revoked, or the stream to be rolled back
    dropped    the oldest of these wishes cannot be done, and why
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeAlias

from weft.node.continual.errors import NoSuchContribution, NoSuchGeneration
from weft.node.continual.records import (
    Cause,
    Contribution,
    Form,
    Generation,
    Status,
    beyond,
)

Entry: TypeAlias = Mapping[str, object]

BEGUN: Final = "begun"
ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
ADVANCED: Final = "advanced"
SET_ASIDE: Final = "set_aside"
ASKED: Final = "asked"
DROPPED: Final = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """A new generation is due.

    Attributes:
        cause: why.
        members: who will be in it, in the order of absorption.
        contribution: whom it is about.
        back_to: the generation that a rollback goes back to.
    """

    cause: Cause
    members: tuple[int, ...]
    contribution: int | None = None
    back_to: int | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """A revocation or a rollback that was asked for and is not yet done."""

    revoke: int | None = None
    back_to: int | None = None


class Queue:
    """What the journal of a stream says; see the head of this module."""

    def __init__(self) -> None:
        self._contributions: dict[int, Contribution] = {}
        self._generations: list[Generation] = []
        self._wishes: list[_Wish] = []

    @property
    def generation(self) -> Generation:
        """The newest."""
        return self._generations[-1]

    @property
    def generations(self) -> tuple[Generation, ...]:
        """All, oldest first."""
        return tuple(self._generations)

    @property
    def contributions(self) -> tuple[Contribution, ...]:
        """All that ever came, in the order in which they came."""
        return tuple(self._contributions.values())

    @property
    def waiting(self) -> tuple[Contribution, ...]:
        """Acknowledged and not yet absorbed, in their order."""
        return tuple(c for c in self._contributions.values() if c.status is Status.WAITING)

    @property
    def wishing(self) -> bool:
        """Whether a revocation or a rollback was asked for and not yet done."""
        return bool(self._wishes)

    def wishes(self, entry: Entry) -> bool:
        """Whether exactly this was asked for and not yet done."""
        return _Wish(**entry) in self._wishes  # type: ignore[arg-type]

    @property
    def next_seq(self) -> int:
        """The number of the next contribution."""
        return len(self._contributions) + 1

    def contribution(self, seq: int) -> Contribution:
        """The contribution of that number.

        Raises:
            NoSuchContribution: there is none.
        """
        if seq not in self._contributions:
            raise NoSuchContribution(
                f"no contribution {seq}; there are {len(self._contributions)} (weft stream history)"
            )
        return self._contributions[seq]

    def find(self, text: str) -> Contribution:
        """A contribution by its number, its digest or a part of that, or its name.

        Raises:
            NoSuchContribution: none, or several.
        """
        return named(self.contributions, text)

    def of_digest(self, digest: str) -> Contribution | None:
        """The newest contribution of that content."""
        same = [each for each in self._contributions.values() if each.digest == digest]
        return same[-1] if same else None

    def of_source(self, source: str) -> Contribution | None:
        """The newest contribution that came from there."""
        same = (each for each in reversed(self._contributions.values()) if each.source == source)
        return next(same, None)

    def of_round(self, digest: str, lineage: str, step: int) -> Contribution | None:
        """The newest contribution of that content, of that step of that run."""
        same = (c for c in self._contributions.values() if c.digest == digest)
        found = [each for each in same if (each.lineage, each.step) == (lineage, step)]
        return found[-1] if found else None

    def past(self, number: int) -> Generation:
        """The generation of that number.

        Raises:
            NoSuchGeneration: there is none.
        """
        if not 0 <= number < len(self._generations):
            raise NoSuchGeneration(
                f"no generation {number}; there are 0 to {len(self._generations) - 1}"
            )
        return self._generations[number]

    def gone_back(self, number: int, seen: int) -> Generation | None:
        """The first rollback to a generation's merge that came after `seen`; None: none did.

        Raises:
            NoSuchGeneration: there is none of that number.
        """
        past = self.past(number)
        return next(
            (
                made
                for made in self._generations[max(seen, number) + 1 :]
                if made.cause is Cause.ROLLED_BACK
                and (made.spans, made.scale) == (past.spans, past.scale)
            ),
            None,
        )

    def due(self) -> Advance | None:
        """What is to be done next; None: nothing."""
        members = self.generation.members
        for wish in self._wishes:
            return self._wished(wish, members)
        for each in self._contributions.values():
            if each.status is Status.WAITING:
                older = self.predecessor(each)
                kept = tuple(seq for seq in members if older is None or seq != older.seq)
                cause = Cause.ABSORBED if older is None else Cause.REPLACED
                return Advance(cause=cause, members=(*kept, each.seq), contribution=each.seq)
        return None

    def _wished(self, wish: _Wish, members: tuple[int, ...]) -> Advance:
        if wish.revoke is not None:
            kept = tuple(seq for seq in members if seq != wish.revoke)
            return Advance(cause=Cause.REVOKED, members=kept, contribution=wish.revoke)
        back_to = wish.back_to or 0
        return Advance(cause=Cause.ROLLED_BACK, members=self.past(back_to).members, back_to=back_to)

    def predecessor(self, contribution: Contribution) -> Contribution | None:
        """The member of the same lineage, which this one replaces."""
        if not contribution.lineage:
            return None
        members = (self._contributions[seq] for seq in self.generation.members)
        return next((each for each in members if each.lineage == contribution.lineage), None)

    def apply(self, kind: str, data: Entry) -> None:
        """An entry takes effect."""
        if kind in (ACCEPTED, REFUSED):
            each = contribution_of(data)
            self._contributions[each.seq] = each
        elif kind == SET_ASIDE:
            self._set_aside(int(str(data["seq"])), str(data["reason"]))
        elif kind == ASKED:
            self._wishes.append(_Wish(**data))  # type: ignore[arg-type]
        elif kind == DROPPED:
            del self._wishes[0]
        else:
            self._advance(generation_of(data), data)

    def _set_aside(self, seq: int, reason: str) -> None:
        self._change(seq, status=Status.SET_ASIDE, reason=reason)

    def _advance(self, made: Generation, data: Entry) -> None:
        before = self._generations[-1].spans if self._generations else ()
        self._generations.append(made)
        gone = {
            Cause.REVOKED: Status.REVOKED,
            Cause.REPLACED: Status.REPLACED,
            Cause.ROLLED_BACK: Status.ROLLED_BACK,
        }
        for seq in beyond(before, made.spans):
            self._change(seq, status=gone[made.cause])
        for seq in beyond(made.spans, before):
            self._change(seq, status=Status.ABSORBED, generation=made.number)
        if made.cause is Cause.REVOKED and made.contribution is not None:
            self._change(made.contribution, status=Status.REVOKED)
        if made.cause is Cause.ABSORBED or made.cause is Cause.REPLACED:
            self._change(made.contribution or 0, overlap=data.get("overlap"))
        if made.cause in (Cause.REVOKED, Cause.ROLLED_BACK):
            del self._wishes[0]

    def _change(self, seq: int, **changes: Any) -> None:
        self._contributions[seq] = replace(self._contributions[seq], **changes)


def named(contributions: Sequence[Contribution], text: str) -> Contribution:
    """One of all that came, by its number, its digest or a part of that, or its name.

    Raises:
        NoSuchContribution: none, or several.
    """
    if text.isdecimal() and 1 <= int(text) <= len(contributions):
        return contributions[int(text) - 1]
    found = [
        each
        for each in contributions
        if each.name == text or (len(text) >= 8 and each.digest.startswith(text))
    ]
    if len(found) != 1:
        what = "no contribution" if not found else f"{len(found)} contributions"
        raise NoSuchContribution(f"{text!r} names {what}; give its number (weft stream history)")
    return found[0]


def contribution_of(data: Entry) -> Contribution:
    """What an entry says of a contribution."""
    known = _known(Contribution, data)
    known["form"], known["status"] = Form(known["form"]), Status(known["status"])
    return Contribution(**known)


def generation_of(data: Entry) -> Generation:
    """What an entry says of a generation."""
    known = _known(Generation, data)
    known["cause"] = Cause(known["cause"])
    known["spans"] = tuple((first, last) for first, last in known["spans"])
    known["warnings"] = tuple(known["warnings"])
    return Generation(**known)


def _known(kind: type, data: Entry) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def replayed(entries: Iterator[tuple[str, Entry]]) -> Queue:
    """The queue that a journal leads to."""
    queue = Queue()
    for kind, data in entries:
        queue.apply(kind, data)
    return queue
