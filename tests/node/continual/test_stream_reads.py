"""Other programs open the head at any moment, whatever happens to the stream: it is whole."""

import json
import os
import random
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.checkpoints.test_output_kills import wait_for
from tests.node.continual.streams import in_memory, published
from tests.node.continual.test_stream_kills import StreamRunner, entries
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import INDEX_NAME, MemoryReader, open_checkpoint
from weft.node.continual.files import HEAD
from weft.node.continual.head import GENERATION_KEY, GRACE_S
from weft.node.continual.queue import ADVANCED, BEGUN

CONTRIBUTIONS = 50
KILLS = 10
LEAST_READS = 50


@pytest.fixture
def runner() -> Iterator[StreamRunner]:
    with in_memory("stream-reads") as folder:
        made = StreamRunner(folder, CONTRIBUTIONS, grace_s=GRACE_S)
        try:
            yield made
        finally:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.communicate()


def read(path: Path) -> set[str]:
    """The head, opened by safetensors and by weft; digests of what was read."""
    claimed, tensors = published(path)
    found = model_digest(MemoryReader(tensors))
    assert found == claimed
    with open_checkpoint(path / HEAD) as reader:
        return {found, model_digest(reader)}


def generation(path: Path) -> int:
    """The one that readers see; -1 before the first."""
    index = path / HEAD / INDEX_NAME
    return int(json.loads(index.read_bytes())["metadata"][GENERATION_KEY]) if index.exists() else -1


def read_until(path: Path, runner: StreamRunner, number: int) -> tuple[list[set[str]], bool]:
    """Read until a generation is there; and whether the process came to its end meanwhile."""
    reads = []
    assert runner.process.stdout is not None
    while generation(path) < number:
        if (path / HEAD / "model.safetensors.index.json").exists():
            reads.append(read(path))
        if select.select([runner.process.stdout], [], [], 0)[0]:
            return reads, True
    return reads, False


@pytest.mark.timeout(300)
def test_every_read_is_a_whole_head(runner: StreamRunner) -> None:
    chance, path, kills = random.Random(17), runner.fresh("read"), 0
    reads: list[set[str]] = []
    ended = False
    while not ended:
        pid = int(runner.ask(path, 0, resume=True, traced=True).removeprefix("born "))
        wait_for(pid, "State:\tT")
        os.kill(pid, signal.SIGCONT)
        # A few generations further each time; in the middle of whatever comes next.
        number = generation(path) + 3 if kills < KILLS else 2 * CONTRIBUTIONS
        found, ended = read_until(path, runner, number)
        time.sleep(chance.uniform(0.0, 0.01))
        reads += found
        if not ended:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        assert runner.hear() == ("ended 0" if ended else "killed")
    made = {str(each.data["head"]) for each in (*entries(path, ADVANCED), *entries(path, BEGUN))}
    assert set.union(*reads) <= made
    assert kills >= KILLS
    assert len(reads) >= LEAST_READS
    runner.check_that_it_goes_on(path)
    heads = len(set.union(*reads))
    print(f"\n{len(reads)} reads of {heads} heads, {kills} kills, all whole")


def test_what_is_half_written_would_be_noticed(runner: StreamRunner) -> None:
    """The control: a head of two generations, and one that is cut, are no heads."""
    path = runner.folder / "whole" / "out"
    read(path)
    newest, *_ = sorted((path / HEAD).glob("model-g*-00001-*"))[::-1]
    older = sorted((path / HEAD).glob("model-g*-00001-*"))[-2]
    whole = newest.read_bytes()
    newest.write_bytes(older.read_bytes())
    with pytest.raises(AssertionError):
        read(path)
    newest.write_bytes(whole[:-1])
    with pytest.raises(SafetensorError):
        read(path)
