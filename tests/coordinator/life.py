"""The whole life of a run as steps that can be broken off anywhere and gone on with.

What the outside world does when the coordinator dies: nodes come back with what
they say at that moment, and whoever got no answer asks again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from tests.coordinator.stories import NODES, ROUNDS, digest_of
from weft.coordinator.errors import NotYet
from weft.coordinator.records import Joined, Left, Promised, StateRequested
from weft.coordinator.runs import Runs
from weft.coordinator.timekeeper import Timekeeper
from weft.protocol.run import (
    Digest,
    MergeSpec,
    NodeId,
    Phase,
    Report,
    RunName,
    RunSpec,
    RunState,
    members_digest,
)

A, B, C, D = NODES
NAME = RunName("quilt")
TICK_S = 5.0
REVOKED = ("0a",)
SPEC = RunSpec(
    name=NAME,
    nodes=3,
    rounds=ROUNDS,
    base="ba" * 32,
    lease_s=20,
    merge=MergeSpec(policy="deadline", deadline_s=30),
)


class Clock:
    """Turned by the steps; a restart does not set it back."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Said: TypeAlias = dict[NodeId, tuple[str, int, dict[Phase, Digest]]]


@dataclass(frozen=True)
class World:
    """The coordinator of the moment, the time, and what each node last said."""

    runs: Runs
    clock: Clock
    said: Said

    async def says(self, node: NodeId, state: str, round: int, *phases: Phase) -> None:
        announced = {phase: digest_of(node, phase) for phase in phases}
        self.said[node] = (state, round, announced)
        await self._report(node)

    async def _report(self, node: NodeId) -> None:
        state, round, announced = self.said[node]
        plan = self.runs.live(NAME).record.plan
        report = Report(
            state=state,
            round=round,
            plan_version=plan.version,
            announced=announced,
            members_digest=members_digest(plan.epochs[-1].members) if plan.epochs else None,
            result=Digest("ee" * 32) if state == "done" else None,
        )
        await self.runs.report(NAME, node, report)

    async def come_back(self) -> None:
        """What connected nodes do first when the coordinator is there again."""
        for node in self.said:
            await self._report(node)

    async def falls_silent(self, node: NodeId) -> None:
        self.said.pop(node, None)

    async def wait(self, seconds: int) -> None:
        """Time passes; who is not silent reports."""
        for _ in range(int(seconds / TICK_S)):
            self.clock.now += TICK_S
            for node in self.said:
                await self._report(node)
            await Timekeeper(self.runs, interval_s=TICK_S, revoked=lambda: REVOKED).tick()

    async def join(self, node: NodeId) -> None:
        self.said[node] = ("waiting", 0, {})
        await self.runs.happen(NAME, Joined(node=node, address=f"{node}:1"))

    async def leave(self, node: NodeId) -> None:
        await self.runs.happen(NAME, Left(node=node))
        self.said.pop(node, None)

    async def promise(self, node: NodeId) -> None:
        standing = [*self.runs.live(NAME).record.plan.proposed]
        standing += self.runs.live(NAME).record.plan.committed
        await self.runs.happen(NAME, Promised(node=node, chosen=standing[0]))

    async def ask(self, state: RunState) -> None:
        await self.runs.happen(NAME, StateRequested(state=state, operator="olga"))


Step: TypeAlias = Callable[[World], Awaitable[object]]

STEPS: list[Step] = [
    lambda w: w.runs.create(SPEC),
    lambda w: w.join(A),
    lambda w: w.join(D),
    lambda w: w.leave(D),
    lambda w: w.join(B),
    lambda w: w.wait(5),
    lambda w: w.join(C),
    lambda w: w.says(A, "training", 1),
    lambda w: w.says(B, "training", 1),
    lambda w: w.says(C, "training", 1),
    lambda w: w.ask(RunState.PAUSED),
    lambda w: w.ask(RunState.RUNNING),
    lambda w: w.join(D),
    lambda w: w.says(A, "training", 2),
    lambda w: w.leave(D),
    lambda w: w.falls_silent(C),
    lambda w: w.wait(30),
    lambda w: w.join(C),
    lambda w: w.says(A, "training", 3),
    lambda w: w.says(C, "training", 3),
    lambda w: w.says(A, "merging", ROUNDS, Phase.PARAMETERS),
    lambda w: w.says(B, "merging", ROUNDS, Phase.PARAMETERS),
    lambda w: w.falls_silent(C),
    lambda w: w.wait(60),
    lambda w: w.promise(A),
    lambda w: w.promise(B),
    lambda w: w.says(A, "merging", ROUNDS, *Phase),
    lambda w: w.says(B, "merging", ROUNDS, *Phase),
    lambda w: w.says(A, "done", ROUNDS, *Phase),
    lambda w: w.says(B, "done", ROUNDS, *Phase),
]


async def go_on(world: World, start: int, answered: Callable[[int], None]) -> None:
    """Take the steps from `start` on; each is told when its answer has arrived."""
    for number in range(start, len(STEPS)):
        for _ in range(len(NODES)):
            try:
                await STEPS[number](world)
                break
            except NotYet:
                await world.come_back()
        answered(number)
