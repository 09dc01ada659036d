"""The life of one download, without sockets, clocks or disks.

Events go in (a manifest came, a piece came, a chunk was stored, a holder failed),
and `next` says what to do now: ask a holder for the manifest or for ranges of
chunks, wait, be done, or give up. The shell around it is `weft.protocol.fetch`.

What holds whatever the holders do:

- no chunk is asked for twice once it is stored, so a cut costs at most the chunk
  that was under way;
- a holder that sends what it should not (another chunk, too much, bytes that do
  not match) is not asked again; one that stands still neither;
- a holder that cannot be reached, or cuts off, is asked again with growing pauses,
  until nothing has come from it for `progress_s`; others are asked first;
- when nobody is left the download ends, and its error tells what each one did.

    download = Download(digest, ["node-a", "node-b"], progress_s=10.0)
    match download.next(now): ...

Stable within a protocol version.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from weft.checkpoints.manifest import Manifest
from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    NotFound,
    Refused,
    Stalled,
    Unavailable,
    WeftError,
)
from weft.protocol.errors import (
    ArtifactDenied,
    ArtifactNotFound,
    CorruptTransfer,
    TransferFailed,
    TransferStalled,
)
from weft.protocol.limits import RANGES, RECONNECT_FIRST_S, RECONNECT_LONGEST_S

Range: TypeAlias = tuple[int, int]
"""A half-open range of chunk indices."""


@dataclass(frozen=True, slots=True)
class AskManifest:
    """Ask the holder for the manifest; its first message is waited for `patience_s`."""

    holder: str
    patience_s: float


@dataclass(frozen=True, slots=True)
class AskChunks:
    """Ask the holder for these ranges, ascending and disjoint; patience as above."""

    holder: str
    patience_s: float
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this moment."""

    until: float


@dataclass(frozen=True, slots=True)
class Complete:
    """Every chunk that was wanted is stored."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody is left to ask."""

    error: WeftError


Step: TypeAlias = AskManifest | AskChunks | Wait | Complete | GiveUp


@dataclass(slots=True)
class _Standing:
    """What came of asking one holder."""

    failures: int = 0
    failing_since: float = 0.0
    not_before: float = float("-inf")
    error: WeftError | None = None
    is_dropped: bool = False


class Download:
    """One artifact from several holders; see the module.

    Args:
        digest: the artifact's.
        holders: their names, the preferred first.
        progress_s: how long a holder may fail in a row.
    """

    def __init__(self, digest: str, holders: Sequence[str], *, progress_s: float) -> None:
        self.digest = digest
        self.manifest: Manifest | None = None
        self._progress_s = progress_s
        self._missing: set[int] = set()
        self._standings = {name: _Standing() for name in holders}

    def next(self, now: float) -> Step:
        """What to do now."""
        if self.manifest is not None and not self._missing:
            return Complete()
        waiting = {n: s for n, s in self._standings.items() if not s.is_dropped}
        if not waiting:
            return GiveUp(self._verdict())
        ready = [name for name, standing in waiting.items() if standing.not_before <= now]
        if not ready:
            return Wait(min(standing.not_before for standing in waiting.values()))
        # min keeps the first of equals, so the callers' preference breaks ties.
        holder = min(ready, key=lambda name: self._standings[name].failures)
        patience_s = self._patience_s(self._standings[holder], now)
        if self.manifest is None:
            return AskManifest(holder, patience_s)
        ranges = tuple(islice(ranges_of(self._missing), RANGES))
        return AskChunks(holder, patience_s, ranges)

    def _patience_s(self, standing: _Standing, now: float) -> float:
        """What is left of the progress deadline: a holder that failed has used some of it."""
        if standing.failures == 0:
            return self._progress_s
        return max(0.1 * self._progress_s, standing.failing_since + self._progress_s - now)

    def manifest_came(self, holder: str, manifest: Manifest) -> None:
        """The manifest is there and verified."""
        self.manifest = manifest
        self._standings[holder].failures = 0

    def want(self, indices: Iterable[int]) -> None:
        """These chunks are to come; the others are stored already, or not wanted."""
        self._missing = set(indices)

    def stored(self, holder: str, indices: Collection[int]) -> None:
        """Chunks of this holder are verified and stored: it is doing well."""
        if not indices:
            return
        self._missing.difference_update(indices)
        standing = self._standings[holder]
        standing.failures, standing.not_before = 0, float("-inf")

    def failed(self, holder: str, error: WeftError, now: float, chance: float = 1.0) -> None:
        """Asking a holder ended with an error.

        Args:
            holder: who.
            error: what happened; its family decides whether to ask again.
            now: seconds of a monotonic clock.
            chance: uniform in [0, 1): how much of the pause's random half to wait.
        """
        standing = self._standings[holder]
        standing.error = error
        if standing.failures == 0:
            standing.failing_since = now
        standing.failures += 1
        mendable = isinstance(error, Unavailable | Exhausted) and not isinstance(error, Stalled)
        if not mendable or now - standing.failing_since >= self._progress_s:
            standing.is_dropped = True
        standing.not_before = now + pause_s(standing.failures, chance)

    def _verdict(self) -> WeftError:
        """One error for all holders; mendable if any of theirs was."""
        errors = {n: s.error for n, s in self._standings.items() if s.error is not None}
        said = "; ".join(f"{name}: {error}" for name, error in errors.items())
        message = f"artifact {self.digest[:12]}: {said or 'nobody is known to hold it'}"
        for family, verdict in _VERDICTS:
            if any(isinstance(error, family) for error in errors.values()):
                return verdict(message)
        return TransferFailed(message)


_VERDICTS: tuple[tuple[type[WeftError], type[WeftError]], ...] = (
    (Stalled, TransferStalled),
    (Unavailable, TransferFailed),
    (Exhausted, TransferFailed),
    (Corrupt, CorruptTransfer),
    (Denied, ArtifactDenied),
    (NotFound, ArtifactNotFound),
    (Refused, Refused),
)


def pause_s(
    failures: int,
    chance: float,
    *,
    first_s: float = RECONNECT_FIRST_S,
    longest_s: float = RECONNECT_LONGEST_S,
) -> float:
    """How long to leave somebody alone after so many failures in a row.

    Doubles from `first_s` to `longest_s`; half of it is certain, the other half is
    multiplied by `chance`, so that many who lost one server do not come back together.
    """
    ceiling = min(longest_s, first_s * 2.0 ** min(failures - 1, 60))
    return ceiling * (0.5 + chance / 2)


def ranges_of(indices: Iterable[int]) -> Iterator[Range]:
    """The fewest half-open ranges that hold exactly these indices, ascending."""
    start = stop = None
    for index in sorted(indices):
        if stop is not None and start is not None and index != stop:
            yield start, stop
            start = None
        start = index if start is None else start
        stop = index + 1
    if start is not None and stop is not None:
        yield start, stop


def indices_of(ranges: Iterable[Range]) -> Iterator[int]:
    """Every index of some ranges, in their order."""
    return (index for start, stop in ranges for index in range(start, stop))
