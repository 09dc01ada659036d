"""Brings other nodes' models into this node's order of units, before they are judged or merged.

The node is the anchor: its own contribution stays as it is, its neighbours' are permuted.
The work is done by the training process, on the node's own calibration data; what comes
of it lies in the store, so that a merge never has to match again.
"""

import asyncio
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from weft.node.merging import Merging
from weft.node.metrics import NodeMetrics
from weft.node.training import AlignRequest, TrainerBackend
from weft.node.workspace import Workspace
from weft.protocol.run import Digest, NodeId, RunSpec

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Aligned:
    """A model in this node's order of units.

    Attributes:
        digest: of the whole model, in the store.
        moved: the share of its units that changed places.
    """

    digest: Digest
    moved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligning:
    """Aligns for one run.

    Args:
        spec: the run, which aligns.
        workspace: the node's files.
        training: whose module and calibration data it is done with.
        metrics: told how many units moved.
    """

    spec: RunSpec
    workspace: Workspace
    training: TrainerBackend
    metrics: NodeMetrics

    async def prepare(self) -> None:
        """Trace the model, so that what cannot be aligned is told before the first round.

        Raises:
            CannotAlign: torch cannot trace the model.
            NoCalibration, NoModule: the trainer does not give what it takes.
        """
        found = await self.training.units()
        say = log.info if found.units else log.warning
        say(
            "units that can change places",
            align=self.spec.merge.align,
            groups=found.groups,
            units=found.units,
            operators_without_a_rule=list(found.unruled),
        )

    async def contributions(
        self, round: int, own: Digest, others: Mapping[NodeId, Digest], *, owner: str
    ) -> dict[NodeId, Aligned]:
        """Contributions to a round in the order of one's own, pinned for `owner`.

        Args:
            round: which one.
            own: this node's contribution: the anchor.
            others: those of the neighbours; finite.
            owner: of the pins.

        Returns:
            Those that could be matched, by node.
        """
        if not others:
            return {}
        folder = self.workspace.round_folder(round) / "alignment"
        folder.mkdir(exist_ok=True)
        theirs = {node: folder / f"{node}.safetensors" for node in sorted(others)}
        out = {node: folder / f"{node}.aligned.safetensors" for node in theirs}
        anchor = folder / "anchor.safetensors"
        await asyncio.to_thread(self._merging.restore, own, anchor)
        for node, path in theirs.items():
            await asyncio.to_thread(self._merging.restore, others[node], path)
        moved = await self._moved(anchor, theirs.values(), out.values())
        found: dict[NodeId, Aligned] = {}
        for node, share in zip(theirs, moved, strict=True):
            if share is not None:
                metadata = self._metadata(round, node, others[node], own)
                kept = await asyncio.to_thread(self._merging.keep, out[node], metadata, owner=owner)
                found[node] = Aligned(kept, share)
                self.metrics.units_moved(node, share)
        await asyncio.to_thread(shutil.rmtree, folder)
        return found

    def _metadata(self, round: int, node: NodeId, published: Digest, own: Digest) -> dict[str, str]:
        return {
            "run": self.spec.name,
            "node": node,
            "round": str(round),
            "aligned": self.spec.merge.align,
            "published": published,
            "anchor": own,
        }

    async def model(self, anchor: Path, model: Path, out: Path) -> float | None:
        """Write a model in the order of an anchor's units.

        Returns:
            The share of its units that changed places; None, and no file, where the two
            cannot be matched since what one of them computes overflows.
        """
        (moved,) = await self._moved(anchor, [model], [out])
        return moved

    async def _moved(
        self, anchor: Path, models: Iterable[Path], out: Iterable[Path]
    ) -> tuple[float | None, ...]:
        request = AlignRequest(
            how=self.spec.merge.align, anchor=anchor, models=tuple(models), out=tuple(out)
        )
        result = await self.training.align(request)
        log.debug(
            "models aligned", count=len(request.models), seconds=float(f"{result.seconds:.3g}")
        )
        return result.moved

    @property
    def _merging(self) -> Merging:
        return Merging(self.workspace.store, self.spec)
