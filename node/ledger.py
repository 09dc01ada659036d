"""The ledger: how every model that a node adopted was made.

One entry a merge: who was merged, with which weights, which edges were missed and
why, by which method, from which seed, on which build. While its parents are kept,
an adopted model can be made again from its entry alone, bit for bit, on the same
build and kind of machine. Where units were aligned, the aligned models are what is kept
for that; to make those again from what was published takes the node's trainer and data.
The entries live in the node's journal, so that they are as durable as the decisions that
they explain.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import metadata
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from weft.node.errors import JournalCorrupt
from weft.node.journal import EntryLog
from weft.protocol.run import Align, Scalar

KIND: Final = "ledger"
"""The kind that ledger entries have in the journal."""


class Statistics(StrEnum):
    """Where an adopted model's running statistics come from."""

    NONE = "none"  # the model has none
    OWN = "own"  # copied from the node's own model
    RE_ESTIMATED = "re_estimated"  # from the node's own calibration data
    FOLDED = "folded"  # from the moments of the committed set: the same on all nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One model that was merged, and with which weight.

    Attributes:
        digest: as its node published it.
        aligned: the same model in the merging node's order of units (in the global merge:
            the anchor's), which is what was merged; None: the published one was.
    """

    node: str
    digest: str
    weight: float
    aligned: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What must be equal for equal bytes."""

    weft: str
    torch: str
    python: str
    machine: str

    @staticmethod
    def here() -> "Build":
        """This process's build; reads package metadata, imports no torch."""
        return Build(
            weft=metadata.version("weft"),
            torch=metadata.version("torch"),
            python=platform.python_version(),
            machine=f"{platform.system()}-{platform.machine()}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One adopted model.

    Attributes:
        kind: a merge with neighbours after a round, the head of the node's own stream
            after one (`continual`), or the global one at the end.
        base: digest that task vectors were taken from; None: merged whole.
        method: name in the registry; `options` its hyperparameters.
        align: how units were brought into one order; see the parents' `aligned`.
        parents: in the order in which they were merged, one's own included; the
            one of `node` gives buffers, and running statistics where they are OWN.
            Of a head all that is in it, in the order of absorption: some are of
            earlier rounds, and kept in the stream.
        missed: the edges that were not used, and why.
        moments: digests that running statistics were folded from, by node.
        result: digest of the adopted model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["neighbours", "continual", "global"]
    run: str
    node: str
    round: int
    seed: int
    base: str | None
    method: str
    options: Mapping[str, Scalar] = field(default_factory=dict)
    align: Align = "none"
    parents: tuple[Parent, ...]
    missed: Mapping[str, str] = field(default_factory=dict)
    statistics: Statistics = Statistics.NONE
    moments: Mapping[str, str] = field(default_factory=dict)
    result: str
    build: Build = field(default_factory=Build.here)

    def needs(self) -> frozenset[str]:
        """The digests that must still be in a store to make the model again."""
        parents = frozenset(parent.aligned or parent.digest for parent in self.parents)
        base = frozenset() if self.base is None else frozenset({self.base})
        return parents | base | frozenset(self.moments.values())

    def to_document(self) -> dict[str, object]:
        """The entry as JSON values, for the journal and for `--json`."""
        return asdict(self)


_ENTRY: Final = TypeAdapter(LedgerEntry)


class Ledger:
    """The adopted models of one node, oldest first.

    Invariant: a merge that is done again after a restart is written down once.

    Args:
        log: the node's journal; entries of other kinds in it are left alone.
    """

    def __init__(self, log: EntryLog) -> None:
        self._log = log
        self._entries = [
            _parsed(record.seq, record.data) for record in log.entries() if record.kind == KIND
        ]

    def append(self, entry: LedgerEntry) -> None:
        """Write down an adopted model; durable when this returns. Blocks on disk."""
        if entry in self._entries[-1:]:
            return
        self._log.append(KIND, entry.to_document())
        self._entries.append(entry)

    def entries(self) -> list[LedgerEntry]:
        """All entries, oldest first."""
        return list(self._entries)

    def of(self, result: str) -> LedgerEntry | None:
        """How a model was made: the newest entry with that result, or None."""
        return next((entry for entry in reversed(self._entries) if entry.result == result), None)


def _parsed(seq: int, document: Mapping[str, object]) -> LedgerEntry:
    try:
        return _ENTRY.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise JournalCorrupt(
            f"journal entry {seq} is no ledger entry: {where}: {first['msg']}; "
            "was it written by a newer weft?"
        ) from error
