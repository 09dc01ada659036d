"""Tells the coordinator how the node is doing, and people who ask it directly."""

import asyncio
from dataclasses import replace

import structlog

from weft.errors import Unavailable, WeftError
from weft.node.board import Board
from weft.node.collector import Collector
from weft.node.coordinator_link import CoordinatorLink, Pauses
from weft.node.life import Life
from weft.node.traffic import Traffic
from weft.protocol.run import Digest, NodeId, Phase, Report, members_digest

log = structlog.get_logger(__name__)

_SHORTEST_S = 0.1
_LONGEST_MESSAGE = 900


class Reporter:
    """Reports after each change, and often enough to keep the lease.

    Args:
        me: this node.
        life: what is reported.
        link: to whom.
        board: notified at each change.
        collector: knows for whom the node waits.
        traffic: bytes by peer and direction.
    """

    def __init__(
        self,
        *,
        me: NodeId,
        life: Life,
        link: CoordinatorLink,
        board: Board,
        collector: Collector,
        traffic: Traffic,
    ) -> None:
        self._me, self._life, self._link, self._board = me, life, link, board
        self._collector, self._traffic = collector, traffic
        self.delivered: Report | None = None

    async def run(self, lease_s: float) -> None:
        """Report for ever; a coordinator that is away is told when it is back."""
        pause = Pauses()
        while True:
            report = self.report()
            try:
                await self._link.report(report)
                self.delivered = report
                pause.reset()
            except Unavailable as away:
                log.debug("report not delivered", reason=str(away))
                await pause.wait()
                continue
            except WeftError as refused:
                log.warning("report refused", reason=str(refused))
                await pause.wait()
                continue
            await asyncio.sleep(_SHORTEST_S)
            await self._board.wait_for(self._differs, lease_s / 3)

    async def last_words(self, text: str) -> None:
        """Tell the coordinator why this node stops, if it can be told at once."""
        self._life.say(text)
        try:
            await self._link.report(self.report())
        except WeftError as away:
            log.debug("last words not delivered", reason=str(away))

    def _differs(self) -> bool | None:
        # Reporting moves bytes itself: they alone are no reason to report again.
        if self.delivered is None:
            return True
        known = self.delivered
        now = replace(
            self.report(), bytes_sent=known.bytes_sent, bytes_received=known.bytes_received
        )
        return True if now != known else None

    def report(self) -> Report:
        """How the node is doing now."""
        rounds, final = self._life.rounds, self._life.final
        result = final.finished.model.removeprefix("object:") if final.finished else None
        announced = final.announced.get(Phase.PARAMETERS)
        metrics = final.finished.metrics if final.finished else rounds.metrics
        return Report(
            state=self._life.stage,
            round=rounds.round,
            plan_version=rounds.plan.version if rounds.plan else 0,
            metrics={**rounds.metrics, **metrics},
            bytes_sent=self._traffic.sent,
            bytes_received=self._traffic.received,
            merges_adopted=sum(len(chosen.parents) - 1 for chosen in rounds.chosen.values()),
            merges_rejected=sum(len(chosen.missed) for chosen in rounds.chosen.values()),
            message=self._message()[:_LONGEST_MESSAGE],
            announced={phase: entry.digest for phase, entry in final.announced.items()},
            result=None if result is None else Digest(result),
            members_digest=members_digest(announced.members) if announced else None,
        )

    def _message(self) -> str:
        waiting = self._collector.waiting_for
        if self._life.message or not waiting:
            return self._life.message
        return "waiting for " + ", ".join(f"{n} ({why})" for n, why in sorted(waiting.items()))

    def document(self) -> dict[str, object]:
        """The node's status, for `Peer.Status`."""
        report = self.report()
        spec = self._life.rounds.spec
        return {
            "node": self._me,
            "run": None if spec is None else spec.name,
            "state": report.state,
            "round": report.round,
            "message": report.message,
            "metrics": dict(report.metrics),
            "coordinator": "reached" if self._link.connected else "away",
            "merges_adopted": report.merges_adopted,
            "merges_rejected": report.merges_rejected,
            "bytes": self._traffic.by_peer(),
            "training_starts": self._life.rounds.training_starts,
            "result": report.result,
        }
