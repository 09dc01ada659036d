"""A stream survives SIGKILL at any instant: what was acknowledged is merged, and once.

Whoever goes on comes to the bytes, of state and head, that nobody's death would have led to.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.test_output_kills import SYSTEM_CALLS, Runner, killed_by_strace
from tests.node.continual.stream_kill_child import ACKS, GRACE, REVOKED, take_all
from tests.node.continual.streams import in_memory, published, save, save_tiny, tiny
from tests.support.repository import ROOT
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import INDEX_NAME, MemoryReader, open_checkpoint
from weft.node.continual.files import HEAD, JOURNAL, STREAM, read_identity
from weft.node.continual.queue import ACCEPTED, ADVANCED
from weft.node.journal import Journal, Record

SAMPLED = 32
LEAST_POINTS = 500
CHAINS = 4
CHECKPOINTS = 20


class StreamRunner(Runner):
    """Streams in forks of a process that has paid its imports."""

    def __init__(self, folder: Path, count: int = 3, *, grace_s: float = 0.0) -> None:
        self.folder = folder
        self.base = folder / "models"
        self.count = count
        save_tiny(self.base, count)
        (self.base / REVOKED).write_text("2")
        (folder / "whole").mkdir()
        self.expected = take_all(folder / "whole" / "out", self.base)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.continual.stream_kill_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", GRACE: str(grace_s)},
        )

    def check(self, path: Path) -> None:
        """What others see: no head, or a whole one; and no promise was broken."""
        if (path / HEAD / INDEX_NAME).exists():
            require_whole_head(path)
        known = Counter(str(each.data["digest"]) for each in entries(path, ACCEPTED))
        assert set(acknowledged(path)) <= set(known)

    def check_that_it_goes_on(self, path: Path) -> None:
        """A later process comes to the same bytes, each contribution was merged once."""
        assert take_all(path, self.base) == self.expected
        require_whole_head(path)
        came = Counter(str(each.data["digest"]) for each in entries(path, ACCEPTED))
        assert set(came.values()) == {1}
        assert len(came) == self.count
        assert set(acknowledged(path)) == set(came)
        absorbed = [int(str(e.data["contribution"])) for e in entries(path, ADVANCED)]
        causes = [e.data["cause"] for e in entries(path, ADVANCED)]
        merged = [n for n, c in zip(absorbed, causes, strict=True) if c == "absorbed"]
        assert sorted(merged) == list(range(1, len(came) + 1))
        require_tidy(path)


def entries(path: Path, kind: str) -> list[Record]:
    """The journal's entries of a kind; a journal that was never begun has none."""
    if not (path / STREAM).exists() or not (path / JOURNAL).exists():
        return []
    with Journal.open(path / JOURNAL, identity=read_identity(path).whose) as journal:
        return [each for each in journal.entries() if each.kind == kind]


def acknowledged(path: Path) -> list[str]:
    """What the client was told is safe."""
    acks = path.parent / ACKS
    return acks.read_text().split() if acks.exists() else []


def require_whole_head(path: Path) -> str:
    """Open the head as any program would; what it holds has the digest that it claims."""
    claimed, tensors = published(path)
    assert model_digest(MemoryReader(tensors)) == claimed
    with open_checkpoint(path / HEAD) as reader:
        assert model_digest(reader) == claimed
    return claimed


def require_tidy(path: Path) -> None:
    """Nothing half written stays, whoever was killed."""
    left = [found for found in path.rglob("*") if found.name.endswith(".tmp")]
    assert left == []
    assert [found.name for found in (path / "store" / "staging").iterdir()] == []
    assert not (path / "candidate").exists()


@pytest.fixture
def runner() -> Iterator[StreamRunner]:
    with in_memory("stream-kills") as folder:
        made = StreamRunner(folder)
        try:
            yield made
        finally:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.communicate()


def kill(runner: StreamRunner, point: int) -> str:
    """Kill a process there, look at what is left, and go on with it."""
    path = runner.fresh(f"{point}")
    said = runner.ask(path, point, resume=False)
    runner.check(path)
    runner.check_that_it_goes_on(path)
    shutil.rmtree(path.parent)
    return said


def test_some_of_the_calls_that_touch_the_disk(runner: StreamRunner) -> None:
    points = sorted(random.Random(3).sample(range(1, LEAST_POINTS + 1), SAMPLED))
    assert all(kill(runner, point) == "killed" for point in points)
    print(f"\n{len(points)} kill points")


def test_killed_again_and_again(runner: StreamRunner) -> None:
    """Processes that go on and are killed at random, until one lives."""
    chance, kills = random.Random(7), 0
    for chain in range(CHAINS):
        path, said = runner.fresh(f"chain-{chain}"), "killed"
        while said == "killed":
            said = runner.ask(path, chance.randint(1, 250), resume=True)
            runner.check(path)
            kills += said == "killed"
        assert said == "ended 0"
        runner.check_that_it_goes_on(path)
    print(f"\n{kills} kills in {CHAINS} streams")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_call_that_touches_the_disk(runner: StreamRunner) -> None:
    """Killed before each of them in turn, and gone on with."""
    point = 1
    while kill(runner, point) == "killed":
        point += 1
    print(f"\n{point - 1} kill points")
    assert point > LEAST_POINTS


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_call_of_twenty_checkpoints(runner: StreamRunner) -> None:
    """A longer life, one checkpoint after the other: each begins where the last one ended."""
    kills, before = 0, runner.folder / "before"
    before.mkdir()
    for number in range(1, CHECKPOINTS + 1):
        after = runner.folder / f"after-{number}"
        (runner.base, runner.count) = step_of(runner, number), number
        shutil.copytree(before, after)
        runner.expected = take_all(after / "out", runner.base)
        point, said = 1, "killed"
        while said == "killed":
            path = runner.folder / f"{number}-{point}" / "out"
            shutil.copytree(before, path.parent)
            said = runner.ask(path, point, resume=False)
            runner.check(path)
            runner.check_that_it_goes_on(path)
            shutil.rmtree(path.parent)
            point += 1
        kills, before = kills + point - 2, after
    print(f"\n{kills} kill points in a stream of {CHECKPOINTS} checkpoints")
    assert kills > 2 * LEAST_POINTS


def step_of(runner: StreamRunner, number: int) -> Path:
    """A folder of models with one contribution; every fifth revokes an older one."""
    found = runner.folder / f"step-{number}"
    save(found / "base", tiny(0.5))
    save(found / f"c{number}", tiny(0.5 + number))
    if number % 5 == 0:
        (found / REVOKED).write_text(f"{number - 3}")
    return found


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_system_call(runner: StreamRunner) -> None:
    """As the kernel sees them, SQLite's too: strace kills at the n-th of each kind."""
    if shutil.which("strace") is None:
        pytest.skip("not run: there is no strace")
    found: dict[str, int] = {}
    for call in SYSTEM_CALLS:
        number, said = 1, "killed"
        while said == "killed":
            path = runner.fresh(f"{call}-{number}")
            said = killed_by_strace(runner, path, call, number)
            runner.check(path)
            runner.check_that_it_goes_on(path)
            shutil.rmtree(path.parent)
            number += 1
        assert said == "ended 0"
        found[call] = number - 2
    print(f"\n{sum(found.values())} kill points: { ({k: n for k, n in found.items() if n}) }")
    assert sum(found.values()) >= LEAST_POINTS
