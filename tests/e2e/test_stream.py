"""A stream that is pushed into, and killed: nothing is lost, nothing is sent twice."""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.node.continual.streams import begun, read_head, save_models
from tests.support.streaming import StreamProcess
from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.store import Store
from weft.node.continual.history import seen
from weft.node.continual.records import Status

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 2**20
TENSORS, ROWS = 8, 1024
TOTAL = TENSORS * ROWS * ROWS * 4

SLOW = """
import sys, time
from weft.cli.__main__ import main
from weft.protocol.sources import ReaderSource

fill = ReaderSource.fill

def slowly(self, *given):
    time.sleep(0.05)  # a disk of 20 MiB/s
    fill(self, *given)

ReaderSource.fill = slowly
sys.exit(main(sys.argv[1:]))
"""


def big(folder: Path, seed: int) -> Path:
    """A model of 32 MiB, in tensors of 4."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {
        f"layers.{at}.weight": torch.randn(ROWS, ROWS, generator=generator) * 0.02
        for at in range(TENSORS)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def process(tmp_path: Path) -> Iterator[StreamProcess]:
    big(tmp_path / "models" / "base", 0)
    (tmp_path / "w").mkdir()
    served = StreamProcess(
        begun(tmp_path / "s", tmp_path / "models"),
        tmp_path,
        *("--watch", str(tmp_path / "w"), "--settle", "0.3", "--threads", "1"),
        *("--metrics", "127.0.0.1:0"),
    )
    served.start()
    yield served
    served.close()


class Pushing:
    """`weft push` as a process, from a slow disk."""

    def __init__(self, process: StreamProcess, path: Path, *options: str) -> None:
        command = [sys.executable, "-c", SLOW, "push", str(path), "--to", process.listen]
        command += ["--credentials", str(process.operator), "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ends(self) -> tuple[Any, str]:
        """What it printed, and what it said meanwhile."""
        out, err = self.process.communicate(timeout=90)
        assert self.process.returncode == 0, err.decode()
        return json.loads(out), err.decode()


def received(process: StreamProcess) -> int:
    """Bytes that the server took since it was started, as its own figures say."""
    (event,) = process.events("metrics")
    with urllib.request.urlopen(f"http://127.0.0.1:{event['port']}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    ours = [line for line in lines if line.startswith("weft_stream_bytes_total{")]
    return round(sum(float(line.split()[-1]) for line in ours if '"received"' in line))


def missing_chunks(stream: Path) -> int:
    """How many chunks of the one upload are not there; nobody serves the stream meanwhile."""
    store = Store(stream / "uploads", create=False)
    (manifest,) = (stream / "uploads" / "staging").glob("*/manifest.json")
    with store.stage(manifest.read_bytes()) as staging:
        return staging.missing_chunks


def when(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_killed_in_the_middle_of_an_upload_only_what_is_missing_is_sent_again(
    process: StreamProcess, tmp_path: Path
) -> None:
    pushing = Pushing(process, big(tmp_path / "c1", 1))
    when(lambda: received(process) > TOTAL // 4, "the upload is under way")
    process.stop(signal.SIGKILL)
    missing = missing_chunks(process.stream)
    assert 0 < missing < TOTAL // CHUNK_BYTES - 4
    process.start()
    told, said = pushing.ends()
    assert (told["status"], told["generation"], told["known"]) == ("absorbed", 1, False)
    assert "are there already" in said
    again = received(process)
    sys.stdout.write(f"{missing} chunks missing after the kill, {again / MIB:.1f} MiB sent again\n")
    assert missing * CHUNK_BYTES <= again <= (missing + 1) * CHUNK_BYTES
    assert process.stop() == 0


def test_it_stops_within_five_seconds_in_the_middle_of_an_absorption(tmp_path: Path) -> None:
    save_models(tmp_path / "models", 1)
    gate = f"{sys.executable} -c 'import time; time.sleep(15)' {{checkpoint}}"
    stream = begun(tmp_path / "s", tmp_path / "models", gate=gate)
    (tmp_path / "w").mkdir()
    shutil.copytree(tmp_path / "models" / "c1", tmp_path / "w" / "c1")
    process = StreamProcess(stream, tmp_path, "--watch", str(tmp_path / "w"), "--settle", "0.1")
    try:
        process.start()
        when((stream / "candidate").exists, "the gate is asked")
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 5
    finally:
        process.close()
    assert [each.status for each in seen(stream).contributions] == [Status.WAITING]


def test_killed_while_it_absorbs_it_goes_on_and_takes_from_the_folder(
    process: StreamProcess, tmp_path: Path
) -> None:
    seq = Pushing(process, big(tmp_path / "c1", 1), "--no-wait").ends()[0]["seq"]
    process.stop(signal.SIGKILL)
    shutil.copytree(big(tmp_path / "c2", 2), tmp_path / "w" / "run" / "checkpoint-10")
    process.start()
    again, _ = Pushing(process, tmp_path / "c1").ends()
    assert (again["seq"], again["known"], again["status"]) == (seq, True, "absorbed")
    when(lambda: len(process.events("generation")) > 0, "the watched one comes")
    when(lambda: seen(process.stream).generation.number == 2, "both are in")
    began = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began < 5
    told = [(each.name, each.lineage, each.step) for each in seen(process.stream).contributions]
    assert told == [("c1", "", 0), ("run/checkpoint-10", "run", 10)]
    with open_checkpoint(tmp_path / "c1") as one, open_checkpoint(tmp_path / "c2") as two:
        name = "layers.0.weight"
        expected = (one.read(name).double() + two.read(name).double()) / 2
        found = read_head(process.stream)[name].double()
    assert torch.allclose(found, expected, atol=1e-7)
