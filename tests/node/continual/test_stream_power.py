"""The power goes: what was acknowledged is there after it, and the stream goes on.

An ext4 on a loop device is told to shut down without writing its log back, as
`reliability` tests of file systems do it; what was not synced is gone. Controls that must
fail show that such a cut is one: the same work without fsync loses what it promised.
"""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.continual.stream_kill_child import REVOKED, UNSYNCED, take_all
from tests.node.continual.streams import in_memory, save_tiny
from tests.node.continual.test_stream_kills import StreamRunner, acknowledged, entries
from weft.errors import WeftError
from weft.node.continual.files import STREAM
from weft.node.continual.queue import ACCEPTED

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
DISK_BYTES = 48 * 2**20
CUTS = 30
CONTROLS = 8


def run(*command: str) -> str:
    """A command of the system; skips the test where it may not be given."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not run: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Disk:
    """An ext4 whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "image", folder / "mount"
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", str(self.image))
        self.up()

    def up(self) -> None:
        """Power on: the log is replayed."""
        run("mount", "-o", "loop", str(self.image), str(self.mount))

    def cut(self) -> None:
        """Power off, in the middle of whatever goes on."""
        descriptor = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EPERM, errno.EOPNOTSUPP):
                pytest.skip(f"not run: no power can be cut here ({error})")
            raise
        finally:
            os.close(descriptor)

    def down(self) -> None:
        subprocess.run(["umount", str(self.mount)], check=True)


class Plant:
    """A process that works on a disk in forks, and the switch."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.disk = disk
        self.folder = folder
        self.runner = StreamRunner(folder / "runner")
        self.models = folder / "runner" / "models"
        self.made = 0

    def _place(self) -> Path:
        """Where a stream is begun; its acknowledgements lie elsewhere."""
        self.made += 1
        place = self.disk.mount / f"{self.made}"
        place.mkdir()
        outside = self.folder / f"acks-{self.made}"
        outside.touch()
        (place / "acks").symlink_to(outside)
        os.sync()
        return place

    def seconds_of_a_run(self) -> float:
        """How long it takes here and now, undisturbed."""
        place, began = self._place(), time.monotonic()
        assert self.runner.ask(place / "out", 0, resume=False).startswith("ended")
        shutil.rmtree(place)
        return time.monotonic() - began

    def cut_after(self, seconds: float, models: Path) -> Path:
        """Begin a stream, cut, and power on again; where it lies. Acks lie elsewhere."""
        place = self._place()
        timer = threading.Timer(seconds, self.disk.cut)
        timer.start()
        self.runner.base = models
        said = self.runner.ask(place / "out", 0, resume=False)
        timer.join()
        assert said in ("ended 0", "ended 1")
        self.disk.down()
        self.disk.up()
        return place / "out"


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("not run: there is no mkfs.ext4")
    with in_memory("stream-power") as folder:
        disk = Disk(tmp_path)
        try:
            (folder / "runner").mkdir()
            made = Plant(folder, disk)
            try:
                yield made
            finally:
                os.killpg(made.runner.process.pid, signal.SIGKILL)
                made.runner.process.communicate()
        finally:
            disk.down()


def fault_of(plant: Plant, path: Path, expected: tuple[str, str]) -> str:
    """What is wrong with what a cut has left; empty: nothing."""
    told = set(acknowledged(path))
    try:
        known = {str(each.data["digest"]) for each in entries(path, ACCEPTED)}
        if not told <= known:
            return f"{len(told - known)} of {len(told)} acknowledged contributions are lost"
        if not (path / STREAM).exists() and told:
            return "the stream is lost"
        if take_all(path, plant.models) != expected:
            return "the stream went on to other bytes"
    except (WeftError, OSError) as error:
        return str(error)
    return ""


def test_the_power_goes_at_any_time(plant: Plant) -> None:
    chance, faults, within = random.Random(13), [], 0
    longest = max(plant.seconds_of_a_run() for _ in range(2))
    for _ in range(CUTS):
        # All is acknowledged early: more often there.
        path = plant.cut_after(longest * chance.random() ** 4, plant.models)
        within += len(acknowledged(path)) < plant.runner.count
        faults.append(fault_of(plant, path, plant.runner.expected))
        shutil.rmtree(path.parent)
    bad = [fault for fault in faults if fault]
    print(f"\n{CUTS} power cuts, {within} of them before the last acknowledgement, {len(bad)} bad")
    assert bad == []
    assert within >= CUTS // 4


def test_without_syncing_the_same_cuts_lose_something(plant: Plant) -> None:
    """The control: were this green, the cuts above would show nothing."""
    chance, bad = random.Random(13), []
    careless = plant.folder / "careless"
    save_tiny(careless, plant.runner.count)
    (careless / REVOKED).write_text("2")
    (careless / UNSYNCED).touch()
    longest = max(plant.seconds_of_a_run() for _ in range(2))
    for _ in range(CONTROLS):
        path = plant.cut_after(chance.uniform(0.3, 1.0) * longest, careless)
        fault = fault_of(plant, path, plant.runner.expected)
        bad += [fault] if fault else []
        shutil.rmtree(path.parent)
    print(f"\nwithout fsync {len(bad)} of {CONTROLS} cuts lost something; the first: {bad[:1]}")
    assert bad
