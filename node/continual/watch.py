"""Which of the checkpoints in a watched folder are to be taken now. No disk, no clock.

    watch = Watch(settle_s=3.0)
    for each in watch.due(found, now):      # unchanged for long enough, and not yet judged
        watch.judged(each, Verdict.TAKEN, now)

A checkpoint is known by its path and its stamp: names, sizes and times of its files. Where
the stamp changes it is a new one, and everything begins again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TypeAlias

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]
"""Of each file its name, its size in bytes and when it was last written, in nanoseconds."""

SETTLE_S: Final = 3.0
STALE_S: Final = 300.0
"""What is not whole and has not changed for so long is set aside."""

LOOK_AGAIN_S: Final = 1.0
LONGEST_LOOK_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint in a watched folder.

    Attributes:
        path: below the folder, with slashes.
        stamp: of its files.
        lineage: the training run that it is a checkpoint of; empty: none.
        step: of that run.
    """

    path: str
    stamp: Stamp
    lineage: str = ""
    step: int = 0

    @property
    def source(self) -> str:
        """What a stream remembers it by: the path, and the files as they are."""
        text = repr((self.path, self.stamp)).encode()
        return f"watch:{blake2b(text, digest_size=16).hexdigest()}"

    @property
    def order(self) -> tuple[str, int, int, str]:
        """Of a run by step; others as they were written."""
        written = max((at for _, _, at in self.stamp), default=0)
        return (self.lineage, self.step, written, self.path)


class Verdict(StrEnum):
    """What became of a checkpoint that was due."""

    TAKEN = "taken"
    """Taken, known or set aside: done with, until it changes."""

    NOT_WHOLE = "not whole"
    """Somebody still writes it: looked at again soon."""

    LATER = "later"
    """It cannot be taken now, whatever it is: tried again."""


@dataclass(slots=True)
class _Standing:
    stamp: Stamp
    since: float
    done: bool = False
    looks: int = 0
    not_before: float = 0.0


class Watch:
    """What is known of each checkpoint in a folder.

    Args:
        settle_s: how long nothing may have changed before it is read.
        stale_s: how long one that is not whole is waited for, unchanged.
    """

    def __init__(self, *, settle_s: float = SETTLE_S, stale_s: float = STALE_S) -> None:
        self._settle_s, self._stale_s = settle_s, stale_s
        self._standings: dict[str, _Standing] = {}

    def due(self, found: Iterable[Found], now: float) -> list[Found]:
        """What is to be looked at now, in the order in which it is to be taken.

        Args:
            found: all that is in the folder; what is not is forgotten.
            now: seconds of a monotonic clock.
        """
        present = {each.path: each for each in found}
        for gone in self._standings.keys() - present.keys():
            del self._standings[gone]
        for path, each in present.items():
            standing = self._standings.get(path)
            if standing is None or standing.stamp != each.stamp:
                self._standings[path] = _Standing(each.stamp, now)
        ready = (each for each in present.values() if self._is_due(each.path, now))
        return sorted(ready, key=lambda each: each.order)

    def judged(self, each: Found, verdict: Verdict, now: float) -> None:
        """What became of one that was due."""
        standing = self._standings.get(each.path)
        if standing is None or standing.stamp != each.stamp:
            return
        standing.done = verdict is Verdict.TAKEN
        standing.looks += 1
        pause_s = LOOK_AGAIN_S * 2.0 ** min(standing.looks - 1, 60)
        standing.not_before = now + min(pause_s, LONGEST_LOOK_S)

    @property
    def waits_for_any(self) -> bool:
        """Whether some are not done with: they are looked at again without being told."""
        return any(not standing.done for standing in self._standings.values())

    def is_stale(self, each: Found, now: float) -> bool:
        """Whether one that is not whole has been waited for long enough."""
        standing = self._standings.get(each.path)
        return standing is not None and now - standing.since >= self._stale_s

    def _is_due(self, path: str, now: float) -> bool:
        standing = self._standings[path]
        settled = now - standing.since >= self._settle_s
        return settled and not standing.done and now >= standing.not_before
