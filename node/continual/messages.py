"""Between what a stream knows and the messages of `continual.proto`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from weft.node.continual.records import Cause, Contribution, Form, Generation, Status
from weft.protocol.errors import BadMessage
from weft.protocol.status import public
from weft.protocol.transfer import Range
from weft.protocol.v1 import continual_pb2 as pb
from weft.protocol.v1.peer_pb2 import ChunkRange

MOST_CHARACTERS: Final = 200
_LARGEST: Final = 2**53


def contribution_message(each: Contribution) -> pb.Contribution:
    """A contribution as it travels."""
    return pb.Contribution(
        seq=each.seq,
        name=_text(each.name),
        digest=each.digest,
        form=each.form.value,
        weight=each.weight,
        lineage=_text(each.lineage),
        step=each.step,
        started_from=each.started_from,
        norm=each.norm,
        overlap=each.overlap,
        at=each.at,
        status=each.status.value,
        reason=_text(public(each.reason)),
        generation=each.generation,
        source=_text(each.source),
    )


def generation_message(each: Generation) -> pb.Generation:
    """A generation as it travels."""
    return pb.Generation(
        number=each.number,
        cause=each.cause.value,
        head=each.head,
        contribution=each.contribution,
        members=sum(last - first + 1 for first, last in each.spans),
        norm=each.norm,
        scale=each.scale,
        score=each.score,
        at=each.at,
        warnings=map(_text, each.warnings),
        state=each.state,
        spans=[pb.Span(first=first, last=last) for first, last in each.spans],
    )


def contribution_from(message: pb.Contribution) -> Contribution:
    """A contribution as the other end tells of it.

    Raises:
        BadMessage: of a form or a status that this version does not know.
    """
    with _known_here(f"contribution {message.seq}"):
        return Contribution(
            seq=message.seq,
            name=message.name,
            digest=message.digest,
            form=Form(message.form),
            weight=message.weight,
            lineage=message.lineage,
            step=message.step,
            started_from=_given(message, "started_from"),
            norm=_given(message, "norm"),
            overlap=_given(message, "overlap"),
            at=message.at,
            status=Status(message.status),
            reason=message.reason,
            generation=_given(message, "generation"),
            source=message.source,
        )


def generation_from(message: pb.Generation) -> Generation:
    """A generation as the other end tells of it.

    Raises:
        BadMessage: of a cause that this version does not know.
    """
    with _known_here(f"generation {message.number}"):
        return Generation(
            number=message.number,
            cause=Cause(message.cause),
            head=message.head,
            contribution=_given(message, "contribution"),
            state=message.state,
            spans=tuple((span.first, span.last) for span in message.spans),
            norm=message.norm,
            scale=message.scale,
            score=_given(message, "score"),
            warnings=tuple(message.warnings),
            at=message.at,
        )


def _given(message: pb.Contribution | pb.Generation, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


@contextmanager
def _known_here(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BadMessage(f"{what}: {error}; is the server of a newer weft?") from error


def _text(told: str) -> str:
    """As UTF-8 can hold it: bytes of a file's name that are no text are escaped."""
    return told.encode("utf-8", "backslashreplace").decode()


def ranges_message(ranges: list[Range]) -> list[ChunkRange]:
    """Ranges of chunks as they travel."""
    return [ChunkRange(start=start, stop=stop) for start, stop in ranges]


def require_offer(offer: pb.Offer) -> None:
    """Check what a caller says of what it pushes.

    Raises:
        BadMessage: a name or a lineage too long or not printable, a weight that is no
            number, a step or a generation beyond any.
    """
    for what, text in (("name", offer.name), ("lineage", offer.lineage)):
        if len(text) > MOST_CHARACTERS or not text.isprintable():
            raise BadMessage(f"{what}: at most {MOST_CHARACTERS} printable characters")
    if not math.isfinite(offer.weight):
        raise BadMessage(f"weight {offer.weight}: expected a finite number")
    for what, number in (("step", offer.step), ("started_from", offer.started_from)):
        if number > _LARGEST:
            raise BadMessage(f"{what} {number}: at most {_LARGEST}")


def source_of(digest: str, offer: pb.Offer) -> str:
    """Under which name a stream remembers an upload: what it holds, and what it is against."""
    against = f"@{offer.started_from}" if offer.HasField("started_from") else ""
    return f"upload:{digest}{against}"
