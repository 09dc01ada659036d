"""The coordinator dies at every change it keeps: before, after, and after its effect.

First in memory, where a kill is an exception and nothing of the process is used
again; then with SIGKILL on a process of its own and a database on the disk. The
history must be that of a run that nobody disturbed.
"""

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.coordinator.life import NAME, STEPS, Clock, Said, World, go_on
from weft.coordinator.database import SqlRepository
from weft.coordinator.documents import Entry
from weft.coordinator.repository import Change, MemoryRepository, Repository
from weft.coordinator.runs import Runs
from weft.protocol.run import Phase, RunState

WHERE = ("before", "after", "effect")


class Killed(BaseException):
    """Not an Exception: nothing in the code under test may catch it."""


class Mortal(MemoryRepository):
    """Counts the changes, and dies at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.dies: tuple[int, str] | None = None

    def commit(self, change: Change) -> None:
        self.commits += 1
        self._maybe_die("before")
        super().commit(change)
        self._maybe_die("after")

    def _maybe_die(self, where: str) -> None:
        if self.dies == (self.commits, where):
            raise Killed

    def answered(self, _: int) -> None:
        if self.dies is not None and self.dies[1] == "effect" and self.commits >= self.dies[0]:
            self.dies = None
            raise Killed


def told(history: list[Entry]) -> list[tuple[int, int, object]]:
    """All of a history but the time on the wall."""
    return [(entry.revision, entry.version, entry.event) for entry in history]


async def lived(repository: Repository, dies: tuple[int, str] | None) -> int:
    """Live through all steps, dying once on the way; returns how often we were born."""
    clock = Clock()
    said: Said = {}
    start, births = 0, 0
    if isinstance(repository, Mortal):
        repository.dies = dies
    while start < len(STEPS):
        births += 1
        runs = await Runs.open(repository, clock=clock, wall=lambda: 0.0)
        world = World(runs, clock, said)

        def answered(number: int) -> None:
            nonlocal start
            if isinstance(repository, Mortal):
                repository.answered(number)
            start = number + 1

        try:
            if births > 1:
                await _back(world)
            await go_on(world, start, answered)
        except Killed:
            continue
    return births


async def _back(world: World) -> None:
    members = world.runs.live(NAME).record.members if world.runs.all() else {}
    for node in list(world.said):
        if node not in members:
            del world.said[node]
    await world.come_back()


async def undisturbed() -> list[tuple[int, int, object]]:
    repository = Mortal()
    assert await lived(repository, None) == 1
    return told(repository.history(NAME))


async def test_the_steps_lead_through_the_whole_life() -> None:
    repository = Mortal()
    await lived(repository, None)
    record = repository.load()[NAME]
    assert record.plan.state is RunState.FINISHED
    assert len(record.plan.committed) == len(Phase)
    kinds = {type(entry.event).__name__ for entry in repository.history(NAME)}
    assert len(kinds) == 9, "all but VersionPresented, which halts the run"
    assert repository.commits >= 20


@pytest.mark.parametrize("where", WHERE)
async def test_killed_at_any_change_the_history_is_the_undisturbed_one(where: str) -> None:
    expected = await undisturbed()
    for number in range(1, len(expected) + 1):
        repository = Mortal()
        births = await lived(repository, (number, where))
        assert births == 2, (number, where)
        assert told(repository.history(NAME)) == expected, (number, where)


class Suicidal(SqlRepository):
    """The real repository in a real process that sends itself SIGKILL."""

    dies: tuple[int, str] | None = None
    commits = 0

    def commit(self, change: Change) -> None:
        self.commits += 1
        if self.dies == (self.commits, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit(change)
        if self.dies == (self.commits, "after"):
            os.kill(os.getpid(), signal.SIGKILL)


def child(folder: Path, dies: tuple[int, str] | None, start: int) -> None:
    """Go on with the steps; each answered one is a byte in a file outside the database."""
    repository = Suicidal(f"sqlite:///{folder}/runs.sqlite", federation="here")
    repository.dies = dies
    answers = os.open(folder / "answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def live() -> None:
        said: Said = {}
        clock = Clock()
        # What the nodes last said is theirs, and outlives the coordinator.
        if start:
            memory = World(await _forgetful(clock), clock, said)
            for step in STEPS[:start]:
                await step(memory)
        runs = await Runs.open(repository, clock=clock, wall=lambda: 0.0)
        world = World(runs, clock, said)
        if start:
            await _back(world)
        await go_on(world, start, lambda _: (os.write(answers, b"."), None)[1])
        await runs.close()

    asyncio.run(live())


async def _forgetful(clock: Clock) -> Runs:
    return await Runs.open(MemoryRepository(), clock=clock, wall=lambda: 0.0)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def run_child(
    processes: ForkServerContext, folder: Path, dies: tuple[int, str] | None
) -> int | None:
    answers = folder / "answers"
    start = answers.stat().st_size if answers.exists() else 0
    process = processes.Process(target=child, args=(folder, dies, start))
    process.start()
    process.join(30)
    assert not process.is_alive()
    return process.exitcode


async def killed_and_gone_on(
    processes: ForkServerContext, folder: Path, dies: tuple[int, str]
) -> list[tuple[int, int, object]]:
    """The history of a run whose coordinator was killed once and started again."""
    folder.mkdir()  # noqa: ASYNC240
    assert run_child(processes, folder, dies) == -signal.SIGKILL
    assert run_child(processes, folder, None) == 0
    repository = SqlRepository(f"sqlite:///{folder}/runs.sqlite", federation="here")
    try:
        assert repository.load()[NAME].plan.state is RunState.FINISHED
        return told(repository.history(NAME))
    finally:
        repository.close()


async def test_sigkill_at_some_changes_of_the_database(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    expected = await undisturbed()
    for number, where in [(1, "after"), (8, "before"), (16, "after"), (21, "before")]:
        folder = tmp_path / f"{number}-{where}"
        found = await killed_and_gone_on(processes, folder, (number, where))
        assert found == expected, (number, where)


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_sigkill_at_every_change_of_the_database(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    expected = await undisturbed()
    points = [(n, where) for n in range(1, len(expected) + 1) for where in ("before", "after")]
    for number, where in points:
        folder = tmp_path / f"{number}-{where}"
        found = await killed_and_gone_on(processes, folder, (number, where))
        assert found == expected, (number, where)
    print(f"kill points: {len(points)}")
