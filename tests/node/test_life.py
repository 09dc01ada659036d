"""A node's life where another process holds a journal: it is said, and the life goes on."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from tests.node.test_rounds import A, machine, perform, plan, spec
from weft.node import life as life_module
from weft.node.board import Board
from weft.node.entries import Finished, Joined, PlanHeld, to_document
from weft.node.errors import JournalBusy, JournalCorrupt
from weft.node.global_merge import Finish, GlobalMerge, GlobalStage, Linger
from weft.node.journal import MemoryJournal
from weft.node.life import Due, Life
from weft.node.metrics import NodeMetrics
from weft.node.rounds import Stage
from weft.protocol.run import RunState

RUN = spec().model_copy(update={"final": spec().final.model_copy(update={"enabled": False})})

BUSY = "journal stream/journal.sqlite is busy"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_module, "BUSY_PAUSE_S", 0.01)


class HeldJournal(MemoryJournal):
    """The journal of a member of a run; it is busy at the first entries of some kinds."""

    def __init__(self, **busy: int) -> None:
        super().__init__()
        self.busy: dict[str, int] = {}
        self.append(Joined.kind, to_document(Joined(spec=RUN.to_bytes().decode())))
        self.append(PlanHeld.kind, to_document(PlanHeld.of(plan())))
        self.busy = busy

    def append(self, kind: str, entry: Mapping[str, object]) -> int:
        if self.busy.get(kind, 0):
            self.busy[kind] -= 1
            raise JournalBusy(BUSY)
        return super().append(kind, entry)

    def kinds(self) -> list[str]:
        return [each.kind for each in self.entries()]


class Steps:
    """Does every step at once; the first merges end with these errors."""

    def __init__(self, life: Life, *failures: Exception) -> None:
        self.life, self.failures = life, list(failures)
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def step(due: Due) -> object:
            self.done.append(name)
            if name == "merge" and self.failures:
                raise self.failures.pop()
            if isinstance(due, Finish):
                return Finished(model=due.model, metrics={})
            return perform(self.life.rounds, cast(Any, due))

        return step


def life_of(journal: MemoryJournal) -> Life:
    return Life(
        rounds=machine(),
        final=GlobalMerge(A),
        journal=journal,
        board=Board(),
        metrics=NodeMetrics(states=[*Stage, *GlobalStage]),
    )


async def lived(life: Life, *failures: Exception) -> tuple[list[str], list[str]]:
    """The steps that were done until the end, and what was said meanwhile."""
    steps, told = Steps(life, *failures), [""]

    async def listening() -> None:
        while True:
            if life.message != told[-1]:
                told.append(life.message)
            await asyncio.sleep(0.001)

    listener = asyncio.create_task(listening())
    async with asyncio.timeout(20):
        ended = await life.live(cast(Any, steps), cast(Any, steps))
    listener.cancel()
    assert isinstance(ended, Linger)
    assert life.message == ""
    return steps.done, told


async def test_a_merge_that_finds_its_stream_busy_is_done_again() -> None:
    plain, held = HeldJournal(), HeldJournal()
    expected, silent = await lived(life_of(plain))
    found, told = await lived(life_of(held), JournalBusy(BUSY), JournalBusy(BUSY))
    assert silent == [""]
    assert BUSY in told
    assert [step for step in found if step != "merge"] == [s for s in expected if s != "merge"]
    assert found.count("merge") == expected.count("merge") + 2
    assert held.kinds() == plain.kinds()


@pytest.mark.parametrize("kind", ["training", "merged", "evaluated"])
async def test_an_entry_that_finds_the_journal_busy_is_appended_later_and_once(kind: str) -> None:
    plain, held = HeldJournal(), HeldJournal(**{kind: 3})
    expected, _ = await lived(life_of(plain))
    found, told = await lived(life_of(held))
    assert found == expected, "no step is done twice"
    assert BUSY in told
    assert held.kinds() == plain.kinds()


async def test_a_plan_that_finds_it_busy_is_held_later() -> None:
    life = life_of(HeldJournal(plan=2))
    await life.hold(plan(RunState.STOPPED, version=2))
    assert life.rounds.plan is not None
    assert (life.rounds.plan.version, life.message) == (2, "")


async def test_a_damaged_stream_ends_it() -> None:
    life = life_of(HeldJournal())
    with pytest.raises(JournalCorrupt):
        await lived(life, JournalCorrupt("damaged"))
