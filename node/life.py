"""A node's life: what is due, done; what was done, journalled; then the next.

The loop owns the order in which things become true. An entry is durable before
the machines apply it, and the machines have applied it before anybody is told.
"""

import asyncio
import time
from typing import Final

import structlog

from weft.node.board import Board
from weft.node.due import (
    Agree,
    Begin,
    Collect,
    Evaluate,
    Merge,
    Publish,
    RoundsDone,
    Start,
    Step,
    Stop,
    Train,
    Wait,
)
from weft.node.entries import Entry, Evaluated, PlanHeld, from_document, to_document
from weft.node.errors import JournalBusy
from weft.node.global_merge import (
    Announce,
    Finish,
    Fold,
    GlobalMerge,
    GlobalStep,
    Linger,
    Settle,
)
from weft.node.global_steps import GlobalSteps
from weft.node.journal import EntryLog
from weft.node.ledger import KIND as LEDGER
from weft.node.metrics import NodeMetrics
from weft.node.round_steps import RoundSteps
from weft.node.rounds import RoundMachine
from weft.protocol.run import Plan, RunState

log = structlog.get_logger(__name__)

Due = Step | GlobalStep

BUSY_PAUSE_S: Final = 1.0
"""Between attempts while another process holds a journal, on top of what SQLite waits."""


class Life:
    """The machines of a node, kept true by its journal.

    Args:
        rounds: the rounds.
        final: the global merge.
        journal: where entries become durable.
        board: notified after each applied entry.
        metrics: counters.
    """

    def __init__(
        self,
        *,
        rounds: RoundMachine,
        final: GlobalMerge,
        journal: EntryLog,
        board: Board,
        metrics: NodeMetrics,
    ) -> None:
        self.rounds, self.final = rounds, final
        self.message = self._busy = ""
        self._journal, self._board, self._metrics = journal, board, metrics
        self._writing = asyncio.Lock()
        kept_entries = journal.entries()
        metrics.journal_holds(len(kept_entries))
        for kept in kept_entries:
            if kept.kind != LEDGER:
                self._apply(from_document(kept.kind, kept.data))
        rounds.resumed()

    @property
    def stage(self) -> str:
        """What the node is doing, in one word."""
        step = self.due()
        if isinstance(step, Wait):
            return "waiting"
        if isinstance(self.rounds.step(), RoundsDone):
            return str(self.final.stage)
        return str(self.rounds.stage)

    def due(self) -> Due:
        """What the node should do now."""
        step = self.rounds.step()
        if not isinstance(step, RoundsDone):
            return step
        plan, spec = self.rounds.plan, self.rounds.spec
        if plan is None or spec is None:
            raise RuntimeError("the rounds are done, but there is no plan")
        return self.final.step(
            step.model, plan.epoch_of(spec.rounds).members, enabled=spec.final.enabled
        )

    async def record(self, entry: Entry) -> None:
        """Make an entry durable, apply it, then let everybody see it."""
        async with self._writing:
            await self._write(entry)
        self._board.notify()
        if isinstance(entry, Evaluated):
            self._tell(entry)
        log.debug("journalled", kind=entry.kind, round=self.rounds.round)

    def _tell(self, ended: Evaluated) -> None:
        chosen = self.rounds.chosen.get(ended.round)
        log.info(
            "round done",
            round=ended.round,
            merged_with=[] if chosen is None else sorted(chosen.parents),
            missed={} if chosen is None else dict(chosen.missed),
            **{name: round(value, 4) for name, value in self.rounds.metrics.items()},
        )

    async def _write(self, entry: Entry) -> None:
        count = await self._durable(entry)
        self._apply(entry)
        self._metrics.journal_holds(count)
        if self.message == self._busy:
            self.say("")

    async def _durable(self, entry: Entry) -> int:
        """Append an entry, and again while another process holds the journal's file."""
        while True:
            try:
                return await asyncio.to_thread(self._journal.append, entry.kind, to_document(entry))
            except JournalBusy as busy:
                await self._pause(busy)

    async def _pause(self, busy: JournalBusy) -> None:
        """Say what holds the node up, and give it time; nothing was read or added."""
        log.error("cannot go on; tried again", reason=str(busy), in_s=BUSY_PAUSE_S)
        self.message = self._busy = str(busy)
        await asyncio.sleep(BUSY_PAUSE_S)

    def _apply(self, entry: Entry) -> None:
        self.rounds.apply(entry)
        self.final.apply(entry)

    async def hold(self, plan: Plan) -> None:
        """Take in a newer plan; an older one is left alone."""
        async with self._writing:
            held = self.rounds.plan
            if held is not None and plan.version <= held.version:
                return
            await self._write(PlanHeld.of(plan))
        self._board.notify()

    def say(self, message: str) -> None:
        """What the node waits for, for status pages; said in the log when it changes."""
        if message and message != self.message:
            log.info("waiting", reason=message)
        self.message = message

    async def live(self, round_steps: RoundSteps, global_steps: GlobalSteps) -> Linger | Stop:
        """Run until the node is done or the run is stopped."""
        while True:
            step = self.due()
            match step:
                case Linger() | Stop():
                    return step
                case Wait():
                    await self._wait(step)
                case _:
                    await self._unless_stopped(step, round_steps, global_steps)

    async def _wait(self, step: Wait) -> None:
        self.say(step.reason)
        self._metrics.enter("waiting", self.rounds.round)
        await self._board.wait_for(lambda: self.due() != step or None, 60.0)
        self.say("")

    async def _unless_stopped(
        self, step: Due, round_steps: RoundSteps, global_steps: GlobalSteps
    ) -> None:
        started = time.monotonic()
        stage = self.stage
        self._metrics.enter(stage, self.rounds.round)
        doing = asyncio.ensure_future(_perform(step, round_steps, global_steps))
        stopped = asyncio.ensure_future(self._until_stopped())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return
            try:
                entry = doing.result()
            except JournalBusy as busy:  # its stream's, or the ledger's: the step is due again
                await self._pause(busy)
                return
            await self.record(entry)
            self._metrics.phase_took(stage, time.monotonic() - started)
        finally:
            for task in (doing, stopped):
                task.cancel()
            await asyncio.gather(doing, stopped, return_exceptions=True)

    async def _until_stopped(self) -> None:
        while not self._is_stopped():
            await self._board.wait_for(lambda: self._is_stopped() or None, 60.0)

    def _is_stopped(self) -> bool:
        return self.rounds.plan is not None and self.rounds.plan.state is RunState.STOPPED


async def _perform(step: Due, rounds: RoundSteps, final: GlobalSteps) -> Entry:
    match step:
        case Start():
            return await rounds.start(step)
        case Begin():
            return await rounds.begin(step)
        case Train():
            return await rounds.train(step)
        case Publish():
            return await rounds.publish(step)
        case Collect():
            return await rounds.collect(step)
        case Agree():
            return await rounds.agree(step)
        case Merge():
            return await rounds.merge(step)
        case Evaluate():
            return await rounds.evaluate(step)
        case _:
            return await _perform_global(step, final)


async def _perform_global(step: Due, final: GlobalSteps) -> Entry:
    match step:
        case Announce():
            return await final.announce(step)
        case Settle():
            return await final.settle(step)
        case Fold():
            return await final.fold(step)
        case Finish():
            return await final.finish(step)
        case _:
            raise RuntimeError(f"nothing performs {step}")
