"""A process that puts and fetches into a store until it is killed; no torch.

    python kill_child.py random STORE SOURCE     a fork for each line read, to be killed by others
    python kill_child.py points FOLDER SOURCE    killed before each call that touches the disk
    python kill_child.py chunks FOLDER SOURCE    killed after 0, 1, ... chunks of one artifact

Who is killed is a fork: imports are paid once. Lines: `put D`, `fetched D`,
`pinned D`, each after the call has returned; `born PID` and `dead` around a fork.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Final

from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store

TOUCHING: Final = (
    "open",
    "mkdir",
    "pwrite",
    "fsync",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "posix_fallocate",
    "ftruncate",
    "fchmod",
    "chmod",
    "utime",
)
SIZES: Final[Mapping[str, int]] = {"a": 70_000, "b": CHUNK_BYTES + 7, "c": 3}


def put(store: Store, seed: int) -> str:
    """The artifact of a seed: bytes that any process can make again."""
    schema = Schema(tuple(TensorSpec(name, "U8", (size,)) for name, size in SIZES.items()))
    with store.deposit(schema, kind="model", metadata={"seed": str(seed)}) as deposit:
        for spec in schema:
            pattern = f"{seed} {spec.name} ".encode()
            data = (pattern * (spec.size_bytes // len(pattern) + 1))[: spec.size_bytes]
            deposit.write(spec.name, [data[:1000], data[1000:]])
    return deposit.digest


def fetch(source: Store, store: Store, digest: str) -> None:
    """Copy an artifact, chunk by chunk."""
    with store.stage(source.manifest_bytes(digest)) as staging:
        for start, stop in staging.missing():
            for index in range(start, stop):
                staging.write_chunk(index, source.read_chunk(digest, index))
        staging.commit()


def say(line: str) -> None:
    """One line, at once, in one write."""
    os.write(1, f"{line}\n".encode())


def work(root: Path, source: Store, seed: int, theirs: str) -> None:
    """Open the store; put, pin and fetch; collect what is not pinned."""
    store = Store(root)
    put(store, -seed)
    mine = put(store, seed)
    say(f"put {mine}")
    store.pin(mine, "me")
    say(f"pinned {mine}")
    store.pin(theirs, "me")
    say(f"pinned {theirs}")
    fetch(source, store, theirs)
    say(f"fetched {theirs}")
    store.gc(keep_unpinned_s=0)


def die_at(deadline: int) -> None:
    """From now on count the calls that touch the disk, and die just before one of them."""
    calls = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    for name in TOUCHING:
        setattr(os, name, counted(getattr(os, name)))


def run_random(root: Path, source: Store) -> None:
    """For each line read a fork that works for ever, until somebody kills it."""
    for number, _ in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            say(f"born {os.getpid()}")
            for seed in count(1 + 1000 * number):
                work(root, source, seed, put(source, seed + 1_000_000))
        os.waitpid(pid, 0)
        say("dead")


def run_points(folder: Path, source: Store) -> None:
    """Every kill point in turn, each in a fork of its own on a store of its own."""
    theirs, point, alive = put(source, 1_000_000), 0, False
    while not alive:
        point += 1
        say(f"point {point}")
        pid = os.fork()
        if pid == 0:
            die_at(point)
            work(folder / f"{point:04}", source, 1, theirs)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        alive = not os.WIFSIGNALED(status)
    say(f"survived {os.waitstatus_to_exitcode(status)}")


def run_chunks(folder: Path, source: Store) -> None:
    """One fork for each number of chunks, each on a store of its own."""
    digest = put(source, 0)
    manifest = source.manifest_bytes(digest)
    for number in range(source.manifest(digest).chunk_count + 1):
        pid = os.fork()
        if pid == 0:
            with Store(folder / str(number)).stage(manifest) as staging:
                for index in range(number):
                    staging.write_chunk(index, source.read_chunk(digest, index))
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        say(f"killed {number}")


if __name__ == "__main__":
    run = {"random": run_random, "points": run_points, "chunks": run_chunks}[sys.argv[1]]
    run(Path(sys.argv[2]), Store(sys.argv[3]))
