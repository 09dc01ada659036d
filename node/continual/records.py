"""What a stream knows of its contributions and generations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BEFORE_ITS_TURN: Final = "revoked before its turn"
"""Why a contribution is set aside that was revoked while it waited."""


class Form(StrEnum):
    """How a contribution is stored."""

    DELTA = "delta"
    """Against the base, coded."""

    VECTOR = "vector"
    """Its task vector against a head, float32."""

    ADAPTER = "adapter"
    """As PEFT wrote it: factors."""


class Status(StrEnum):
    """Where a contribution is."""

    WAITING = "waiting"
    """Durable, and acknowledged; its turn comes."""

    ABSORBED = "absorbed"
    """In the head."""

    SET_ASIDE = "set aside"
    """It was not taken; `reason` says why."""

    REPLACED = "replaced"
    """A newer checkpoint of the same run is there instead."""

    REVOKED = "revoked"
    """Taken out on demand."""

    ROLLED_BACK = "rolled back"
    """The stream went back to before it."""


class Cause(StrEnum):
    """Why there is a new generation."""

    BEGUN = "begun"
    ABSORBED = "absorbed"
    REPLACED = "replaced"
    REVOKED = "revoked"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One checkpoint that came.

    Attributes:
        seq: its number, from 1, in the order in which contributions were acknowledged.
        name: for people: the file or folder that it was.
        digest: of the artifact that holds it; empty where it was refused unread.
        form: how it is stored.
        weight: in the merge.
        lineage: the training run that it is a checkpoint of; empty: none.
        step: of that run.
        started_from: the generation that it was trained from; its task vector is against
            that head. None: against the base.
        norm: of its task vector over all parameters.
        overlap: cosine to the merged task vector as it was when it was absorbed.
        at: seconds since the epoch when it was acknowledged.
        status: where it is.
        reason: why it was not taken.
        generation: the first one that it was part of.
        source: what it came from, for whoever asks whether that has come already: an upload,
            or a watched file as it was; empty: not noted.
    """

    seq: int
    name: str
    digest: str
    form: Form = Form.DELTA
    weight: float = 1.0
    lineage: str = ""
    step: int = 0
    started_from: int | None = None
    norm: float | None = None
    overlap: float | None = None
    at: float = 0.0
    status: Status = Status.WAITING
    reason: str = ""
    generation: int | None = None
    source: str = ""

    @property
    def is_revoked(self) -> bool:
        """Whether it was taken out on demand, from the head or from those that wait."""
        if self.status is Status.SET_ASIDE:
            return self.reason == BEFORE_ITS_TURN
        return self.status is Status.REVOKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One state of the merge, and the head made of it.

    Attributes:
        number: from 0, the base itself.
        cause: why it was made.
        contribution: number of the contribution that it is about; None: no single one.
        state: digest of the artifact; empty: nothing absorbed.
        head: digest of the model.
        spans: of the numbers of the contributions in it, in the order of absorption: first
            and last of each run of consecutive ones.
        norm: of the merged task vector, scaled as it is in the head.
        scale: the factor that it was scaled with.
        score: what the gate measured; None: no gate.
        warnings: what a user should know of it.
        at: seconds since the epoch.
    """

    number: int
    cause: Cause
    head: str
    contribution: int | None = None
    state: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    norm: float = 0.0
    scale: float = 1.0
    score: float | None = None
    warnings: tuple[str, ...] = ()
    at: float = 0.0

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the contributions in it, in the order of absorption."""
        return tuple(seq for first, last in self.spans for seq in range(first, last + 1))


def spans_of(members: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers, ascending, as runs of consecutive ones."""
    spans: list[tuple[int, int]] = []
    for seq in members:
        if spans and spans[-1][1] == seq - 1:
            spans[-1] = (spans[-1][0], seq)
        else:
            spans.append((seq, seq))
    return tuple(spans)


def beyond(spans: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The numbers in some spans that are in none of the others; both ascending.

    Takes as long as there are spans and answers, however long the spans are.
    """
    rest = list(others)
    for first, last in spans:
        start = first
        for low, high in rest:
            if high < start or low > last:
                continue
            yield from range(start, low)
            start = max(start, high + 1)
        yield from range(start, last + 1)
