"""A disk that fails or is full: said aloud or absorbed, and never anything worse.

Whatever call fails, with whatever number: whoever goes on comes to the bytes, of state and
head, that no fault would have led to, and the head that others see was whole all the time.
"""

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.checkpoints.kill_child import TOUCHING
from tests.checkpoints.test_output_kills import wait_for
from tests.node.continual.stream_kill_child import REVOKED, take_all
from tests.node.continual.streams import (
    begun,
    in_memory,
    newest,
    offered,
    published,
    save,
    save_tiny,
)
from tests.node.continual.test_stream_kills import (
    StreamRunner,
    acknowledged,
    entries,
    require_tidy,
    require_whole_head,
)
from weft.checkpoints.reader import INDEX_NAME
from weft.errors import WeftError
from weft.node.continual.files import HEAD
from weft.node.continual.queue import ACCEPTED
from weft.node.continual.stream import Stream
from weft.node.journal import Journal

NUMBERS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
LOUD = (WeftError, OSError, sqlite3.Error)
FREEING = ("unlink", "rmdir")
"""What a full disk does not refuse."""

INJECTIONS = 160
LEAST_CALLS = 500
WRITING = ("write", "pwrite64", "fsync", "fdatasync", "openat", "rename", "ftruncate", "mkdir")


class Faults:
    """Makes calls that touch the disk fail, from the n-th on or just the n-th."""

    def __init__(self) -> None:
        self.left = 0
        self.number = 0
        self.lasting = False
        self.struck = 0

    def arm(self, call: int, number: int, *, lasting: bool = False) -> None:
        self.left, self.number, self.lasting, self.struck = call, number, lasting, 0

    def disarm(self) -> int:
        """Let everything work again; how often something failed."""
        self.left = 0
        return self.struck

    def wrap(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            if self.due() and not (self.lasting and name in FREEING):
                self.struck += 1
                raise OSError(self.number, os.strerror(self.number))
            return call(*arguments, **options)

        return wrapper

    def wrap_commit(self, commit: Callable[..., None]) -> Callable[..., None]:
        """The journal's commits, as SQLite would fail: before, or after all was written."""

        def wrapper(*arguments: object) -> None:
            if self.due():
                raise self.refusal()
            commit(*arguments)
            if self.due():
                raise self.refusal()

        return wrapper

    def refusal(self) -> sqlite3.Error:
        self.struck += 1
        error = sqlite3.OperationalError("injected")
        full = self.number != errno.EIO
        error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
        return error

    def due(self) -> bool:
        if self.left == 1:
            self.left = 1 if self.lasting else 0
            return True
        self.left = max(self.left - 1, 0)
        return False


@contextmanager
def injected() -> Iterator[Faults]:
    """Calls that can be made to fail."""
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        for name in TOUCHING:
            patch.setattr(os, name, faults.wrap(name, getattr(os, name)))
        patch.setattr(Journal, "_commit", faults.wrap_commit(Journal._commit))
        yield faults


@pytest.fixture
def work() -> Iterator[tuple[Path, tuple[str, str]]]:
    """A folder with tiny models, and what they come to."""
    with in_memory("stream-faults") as folder:
        save_tiny(folder / "models", 3)
        (folder / "models" / REVOKED).write_text("2")
        (folder / "whole").mkdir()
        yield folder, take_all(folder / "whole" / "out", folder / "models")


def tried(path: Path, models: Path) -> tuple[str, str] | None:
    """What a life comes to; None: it failed, and said so."""
    try:
        return take_all(path, models)
    except LOUD:
        return None


def check(path: Path) -> None:
    """What others see, and what was promised."""
    if (path / HEAD / INDEX_NAME).exists():
        require_whole_head(path)
    assert set(acknowledged(path)) <= {str(each.data["digest"]) for each in entries(path, ACCEPTED)}


def test_faults_again_and_again(work: tuple[Path, tuple[str, str]]) -> None:
    """One fault a life, at random, until somebody comes to the end; then anew."""
    folder, expected = work
    chance, loud, absorbed, chain = random.Random(11), 0, 0, 0
    with injected() as faults:
        while loud + absorbed < INJECTIONS:
            chain += 1
            path = folder / f"{chain}" / "out"
            path.parent.mkdir()
            found = None
            while found is None:
                lasting = chance.random() < 0.3
                faults.arm(chance.randint(1, 250), chance.choice(NUMBERS), lasting=lasting)
                found = tried(path, folder / "models")
                struck = faults.disarm() > 0
                loud += struck and found is None
                absorbed += struck and found is not None
                assert struck or found is not None
                check(path)
            assert found == expected
            assert take_all(path, folder / "models") == expected
            require_tidy(path)
    print(f"\n{loud + absorbed} injections: {loud} said aloud, {absorbed} absorbed")


def each_call(folder: Path, expected: tuple[str, str], number: int, *, lasting: bool) -> list[bool]:
    """Every call of one life in turn; whether it was said aloud."""
    told: list[bool] = []
    with injected() as faults:
        while True:
            path = folder / f"{number}-{lasting}-{len(told)}" / "out"
            path.parent.mkdir()
            faults.arm(len(told) + 1, number, lasting=lasting)
            found = tried(path, folder / "models")
            if not faults.disarm():
                assert found == expected
                return told
            check(path)
            assert found in (None, expected)
            told.append(found is None)
            assert take_all(path, folder / "models") == expected
            require_tidy(path)
            shutil.rmtree(path.parent)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
def test_every_call_fails(work: tuple[Path, tuple[str, str]], number: int, lasting: bool) -> None:
    told = each_call(*work, number, lasting=lasting)
    how = "from then on" if lasting else "once"
    print(
        f"\n{len(told)} injections of {errno.errorcode[number]}, {how}: {sum(told)} said aloud,"
        f" {len(told) - sum(told)} absorbed"
    )
    assert len(told) >= LEAST_CALLS


@pytest.fixture
def runner() -> Iterator[StreamRunner]:
    with in_memory("stream-faults") as folder:
        made = StreamRunner(folder)
        try:
            yield made
        finally:
            os.killpg(made.process.pid, signal.SIGKILL)
            made.process.communicate()


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["ENOSPC", "EIO"])
def test_every_system_call_fails(runner: StreamRunner, name: str) -> None:
    """As the kernel would say it, to SQLite as well: strace makes the n-th of each kind fail."""
    if shutil.which("strace") is None:
        pytest.skip("not run: there is no strace")
    found: dict[str, int] = {}
    for call in WRITING:
        number = 1
        while failed_by_strace(
            runner, path := runner.fresh(f"{call}-{number}"), call, number, name
        ):
            runner.check(path)
            runner.check_that_it_goes_on(path)
            shutil.rmtree(path.parent)
            number += 1
        found[call] = number - 1
    print(f"\n{sum(found.values())} injections of {name} by the kernel: {found}")
    assert sum(found.values()) >= LEAST_CALLS // 2


def failed_by_strace(runner: StreamRunner, path: Path, call: str, number: int, name: str) -> bool:
    """A life in which one system call fails; whether there were so many of them."""
    pid = int(runner.ask(path, 0, resume=False, traced=True).removeprefix("born "))
    wait_for(pid, "State:\tT")
    log = path.parent / "strace"
    tracer = subprocess.Popen(
        [
            *("strace", "-q", "-p", str(pid), "-o", str(log), "-e", f"trace=?{call}"),
            *("-e", f"inject=?{call}:error={name}:when={number}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(pid, f"TracerPid:\t{tracer.pid}", tracer)
    finally:
        os.kill(pid, signal.SIGCONT)
    said = runner.hear()
    tracer.communicate()
    assert said in ("ended 0", "ended 1")
    return "INJECTED" in log.read_text()


# A disk that is really full

MIB = 2**20
SIZE = 6 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"not run: no tmpfs may be mounted here ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_says_so_and_goes_on_when_there_is_room(disk: Path, home: Path) -> None:
    generator = torch.Generator().manual_seed(1)

    def large() -> dict[str, torch.Tensor]:
        return {"w": torch.randn(30_000, generator=generator)}

    save(home / "models" / "base", large())
    paths = [save(home / "models" / f"c{number}", large()) for number in (1, 2, 3)]
    with Stream(begun(home / "roomy", home / "models")) as stream:
        offered(stream, paths)
        expected = newest(stream)
    reasons, filler = list[str](), disk / "filler"
    with Stream(begun(disk / "s", home / "models")) as stream:
        offered(stream, paths[:1])
        before = published(disk / "s")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        # From no room at all to nearly enough.
        for room in range(0, 2 * MIB, MIB // 8):
            filler.write_bytes(bytes(free - room))
            try:
                offered(stream, paths[1:2])
            except WeftError as error:
                reasons.append(str(error))
            filler.unlink()
            seen = published(disk / "s")[0]
            assert seen in (before[0], stream.queue.generation.head)
            if len(stream.queue.generation.members) == 2:
                break
        assert len(reasons) > 3
        assert all("room" in reason for reason in reasons)
        offered(stream, paths[1:])
        assert newest(stream) == expected
        require_whole_head(disk / "s")
    print(f"\n{len(reasons)} times full")
