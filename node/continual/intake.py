"""Whether an offered contribution is taken: its schema, its values, its norm, its lineage."""

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from weft.checkpoints.blocks import RangeReader
from weft.node.continual.arrival import norm_and_overlap
from weft.node.continual.errors import StreamCorrupt, Unfit
from weft.node.continual.parts import Parts
from weft.node.continual.records import Contribution, Status

ENOUGH_NORMS: Final = 3
"""From so many contributions on, a median says what norm is usual."""


class Intake:
    """Takes contributions into the store of a stream and looks at them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queue = parts.queue

    def stored(self, offered: Contribution, path: Path, prefix: str = "") -> Contribution:
        """What lies at a path, durable in the store.

        Raises:
            SchemaMismatch, WrongBase, Corrupt: it is no fine-tune of the base, or not whole.
            MissingCheckpoint: nothing is there; or the head that it started from is gone.
            DiskFull: no room.
        """
        with self._started_from(offered.started_from) as head:
            digest, form = self._parts.kept.put(path, head, prefix)
        self._require_own_head(digest, offered.started_from)
        return replace(offered, digest=digest, form=form)

    def examined(self, offered: Contribution) -> Contribution:
        """A stored contribution with its norm, fit to be merged.

        Raises:
            Unfit: an older step than what is there, or a norm out of all proportion.
            NonFinite: a NaN or an infinity; names tensor and element.
        """
        self._require_newer(offered)
        parts = self._parts
        with parts.kept.open(offered) as reader:
            specs = parts.base.schema.parameters
            norm, _ = norm_and_overlap(reader, parts.base, None, specs, offered.name)
        self._require_usual(norm, offered.name)
        return replace(offered, norm=norm)

    def _require_own_head(self, digest: str, generation: int | None) -> None:
        """What it is against was hashed on the way: shards of a head may have rotted."""
        if not generation:
            return
        found = self._parts.store.manifest(digest).against
        if found != self._queue.past(generation).head:
            raise StreamCorrupt(
                f"{self._parts.heads.path}: the shards of generation {generation} have changed on"
                f" the disk: their digest is {found}, not {self._queue.past(generation).head}"
            )

    def _require_usual(self, norm: float, name: str) -> None:
        members = map(self._queue.contribution, self._queue.generation.members)
        if not math.isfinite(norm):
            raise Unfit(f"{name}: the norm of its task vector is beyond what a float64 holds")
        others = [each.norm for each in members if each.norm]
        usual = statistics.median(others) if len(others) >= ENOUGH_NORMS else math.inf
        if norm > usual * self._parts.spec.norm_factor:
            raise Unfit(
                f"{name}: its task vector has norm {norm:.4g}, the median of {len(others)} others"
                f" is {usual:.4g}; beyond {self._parts.spec.norm_factor:g} times that it is not"
                " taken (another base, or a training that diverged?)"
            )

    def _require_newer(self, offered: Contribution) -> None:
        """Of one run, only a later step may take the place of what is there, or waits."""
        steps = [
            each.step
            for each in self._queue.contributions
            if offered.lineage
            and each.lineage == offered.lineage
            and each.status in (Status.WAITING, Status.ABSORBED)
        ]
        if steps and offered.step < max(steps):
            raise Unfit(
                f"{offered.name}: step {offered.step} of {offered.lineage!r}, and step"
                f" {max(steps)} has come already; a newer one replaces an older one, never the"
                " reverse"
            )

    @contextmanager
    def _started_from(self, generation: int | None) -> Iterator[RangeReader | None]:
        if generation is None or self._queue.past(generation).number == 0:
            yield None
            return
        with self._parts.heads.open(generation) as head:
            yield head
