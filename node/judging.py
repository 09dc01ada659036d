"""Judges the contributions to a round: what cannot be decoded, merged or trusted is refused.

Where the run aligns, contributions are measured in this node's order of units: before
that, even a good neighbour's points anywhere, and its distance means nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from weft.checkpoints.engine import DeltaStatistics
from weft.errors import Corrupt, InvalidInput
from weft.node.aligning import Aligned, Aligning
from weft.node.guards import Reason, Rejected, judge
from weft.node.merging import Merging, Weighted
from weft.node.metrics import NodeMetrics
from weft.node.workspace import Workspace
from weft.protocol.run import Digest, NodeId, RunSpec

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of a round's contributions.

    Attributes:
        refused: which, and why.
        aligned: the others in this node's order of units, where the run aligns.
    """

    refused: Mapping[NodeId, Reason]
    aligned: Mapping[NodeId, Aligned] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """Judges for one run.

    Args:
        me: this node.
        spec: the run.
        workspace: the node's files.
        aligning: where the run aligns.
        metrics: told of what is measured and refused.
    """

    me: NodeId
    spec: RunSpec
    workspace: Workspace
    aligning: Aligning | None
    metrics: NodeMetrics

    async def judge(
        self, round: int, own: Digest, arrived: Mapping[NodeId, Digest], *, owner: str
    ) -> Judgement:
        """Judge what arrived, all of it in the store.

        Args:
            round: which one.
            own: this node's contribution, the yardstick.
            arrived: the neighbours'.
            owner: of the pins of what is aligned.
        """
        statistics, broken = await asyncio.to_thread(self._measured, own, arrived)
        decoded = {node: digest for node, digest in arrived.items() if node not in broken}
        aligned: dict[NodeId, Aligned] = {}
        refused = dict(broken)
        if self.aligning is not None:
            finite = {n: d for n, d in decoded.items() if not statistics.non_finite.get(n)}
            aligned = await self.aligning.contributions(round, own, finite, owner=owner)
            refused |= dict.fromkeys(finite.keys() - aligned.keys(), Reason.NON_FINITE)
            left = {n: d for n, d in decoded.items() if n not in refused}
            left |= {node: found.digest for node, found in aligned.items()}
            statistics = await asyncio.to_thread(self._measure, own, left)
        self.metrics.measured_distance(_consensus_distance(statistics))
        refused |= self._distrusted(statistics)
        for reason in refused.values():
            self.metrics.merge_rejected(reason)
        kept = {node: found for node, found in aligned.items() if node not in refused}
        return Judgement(refused=refused, aligned=kept)

    def _distrusted(self, statistics: DeltaStatistics) -> dict[NodeId, Reason]:
        verdicts = judge(statistics, own=0, spec=self.spec.guards)
        return {
            NodeId(name): verdict.reason
            for name, verdict in verdicts.items()
            if isinstance(verdict, Rejected)
        }

    def _measured(
        self, own: Digest, arrived: Mapping[NodeId, Digest]
    ) -> tuple[DeltaStatistics, dict[NodeId, Reason]]:
        """The statistics of what can be decoded, and what cannot: that is removed."""
        try:
            return self._measure(own, arrived), {}
        except (Corrupt, InvalidInput) as damaged:
            log.warning("a contribution cannot be decoded", reason=str(damaged))
            broken = {node for node, digest in arrived.items() if not self._decodes(node, digest)}
            if not broken:
                raise
            for node in broken:
                self.workspace.store.remove(arrived[node])
            sound = {node: digest for node, digest in arrived.items() if node not in broken}
            return self._measure(own, sound), dict.fromkeys(broken, Reason.CORRUPT)

    def _measure(self, own: Digest, others: Mapping[NodeId, Digest]) -> DeltaStatistics:
        pairs = [(self.me, own), *sorted(others.items())]
        return self._merging.measure([Weighted(node=n, digest=d, weight=1.0) for n, d in pairs])

    def _decodes(self, node: NodeId, digest: Digest) -> bool:
        try:
            self._merging.measure([Weighted(node=node, digest=digest, weight=1.0)])
        except (Corrupt, InvalidInput):
            return False
        return True

    @property
    def _merging(self) -> Merging:
        return Merging(self.workspace.store, self.spec)


def _consensus_distance(statistics: DeltaStatistics) -> float:
    """The consensus distance over the finite contributions, from their Gram matrix."""
    kept = [i for i, name in enumerate(statistics.names) if name not in statistics.non_finite]
    count = len(kept)
    gram = statistics.gram[kept][:, kept]
    mean_square = float(gram.diagonal().sum()) / count - float(gram.sum()) / count**2
    return float(max(0.0, mean_square) ** 0.5)
