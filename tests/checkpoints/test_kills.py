"""A store survives SIGKILL at any instant: nothing half, nothing lost, staging goes on.

What a kill leaves behind does not depend on the kind of file system, so the stores
lie in memory where that is possible: no time is spent on syncing.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.checkpoints.kill_child import SIZES, fetch, put
from weft.checkpoints.store import Store

CHILD = Path(__file__).with_name("kill_child.py")
MEMORY = Path("/dev/shm")
RANDOM_KILLS = 40
LEAST_POINTS = 100


@pytest.fixture
def folder() -> Iterator[Path]:
    base = MEMORY if os.access(MEMORY, os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="weft-kills-", dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def running(*arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """The child, in a group of its own, so that none of its forks outlives the test."""
    with subprocess.Popen(
        [sys.executable, str(CHILD), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=1,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def check(root: Path, lines: Sequence[str]) -> Store:
    """What a new process finds: all that was acknowledged and kept, and nothing half."""
    store = Store(root)
    there = {line.split()[1] for line in lines if line.startswith(("put ", "fetched "))}
    pinned = {line.split()[1] for line in lines if line.startswith("pinned ")}
    assert pinned <= {digest for digest, _ in store.pins()}
    assert there & pinned <= set(store.digests())
    assert [verdict for verdict in store.verify() if verdict.fault] == []
    for digest in store.digests():
        assert {e.name: e.size_bytes for e in store.manifest(digest).tensors} == SIZES
    return store


def check_that_it_works_on(store: Store, source: Store) -> None:
    """Put, fetch and collect on what a killed process left; nothing of it stays behind."""
    for digest in source.digests():
        store.pin(digest, "test")
        fetch(source, store, digest)
    store.pin(put(store, 5), "test")
    store.gc(keep_staging_s=-60, keep_unpinned_s=-60)
    assert {digest for digest, _ in store.pins()} >= set(store.digests()) >= set(source.digests())
    assert [verdict for verdict in store.verify() if verdict.fault] == []
    assert os.listdir(store.root / "staging") == []


def test_random_kills(folder: Path) -> None:
    """40 kills at random instants in the life of one store, and then it works on."""
    root, source = folder / "store", folder / "source"
    chance = random.Random(7)
    lines: list[str] = []
    interrupted = 0
    with running("random", root, source) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(RANDOM_KILLS):
            child.stdin.write("go\n")
            pid = int(child.stdout.readline().removeprefix("born "))
            lines += [child.stdout.readline() for _ in range(chance.randint(0, 7))]
            time.sleep(chance.uniform(0, 0.01))
            os.kill(pid, signal.SIGKILL)
            lines += iter(child.stdout.readline, "dead\n")
            interrupted += bool(os.listdir(check(root, lines).root / "staging"))
    assert sum(line.startswith(("put ", "fetched ")) for line in lines) >= RANDOM_KILLS
    assert interrupted >= 5
    check_that_it_works_on(Store(root), Store(source))


def test_every_call_that_touches_the_disk(folder: Path) -> None:
    """Killed before each of them in turn."""
    source = folder / "source"
    with running("points", folder, source) as child:
        assert child.stdout is not None
        told = child.stdout.read()
    *points, last = told.split("point ")[1:]
    assert last.endswith("survived 0\n")
    assert len(points) >= LEAST_POINTS
    for number, acknowledged in enumerate(points, start=1):
        root = folder / f"{number:04}"
        store = check(root, acknowledged.splitlines())
        check_that_it_works_on(store, Store(source))
        shutil.rmtree(root)


def test_staging_goes_on_with_the_chunks_that_came(folder: Path) -> None:
    """Killed before every later chunk; what was written before stays and is not sent again."""
    with running("chunks", folder, folder / "source") as child:
        assert child.stdout is not None
        assert child.stdout.read().split("\n")[:-1] == [f"killed {n}" for n in range(5)]
    source = Store(folder / "source")
    (digest,) = source.digests()
    for number in range(5):
        store = Store(folder / str(number))
        assert store.digests() == []
        with store.stage(source.manifest_bytes(digest)) as staging:
            assert staging.missing() == ([(number, 4)] if number < 4 else [])
        fetch(source, store, digest)
        assert store.digests() == [digest]
