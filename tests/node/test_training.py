"""The training process as the daemon sees it: real processes, and what they do to it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.support.training import (
    MODULE,
    TRAINERS,
    eventually,
    gone,
    request_in,
    text_of,
    worker_of,
)
from weft.errors import Corrupt, InvalidInput, Refused, TrainingFailed
from weft.node.errors import TrainerDied, TrainerSilent, TrainerStopped
from weft.node.training import AlignRequest, TrainingProcess

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.asyncio(loop_scope="module")


def process_of(name: str, log_file: Path) -> TrainingProcess:
    return TrainingProcess(
        f"{MODULE}:{name}",
        folder=TRAINERS,
        device="cpu",
        log_file=log_file,
        silence_limit_s=60.0,
        heartbeat_s=0.2,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TrainingProcess]:
    process = process_of("Tiny", tmp_path_factory.mktemp("tiny") / "training.log")
    yield process
    await process.stop(5)


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drastic") / "training.log"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def drastic(log_file: Path) -> AsyncIterator[TrainingProcess]:
    process = process_of("Drastic", log_file)
    yield process
    await process.stop(5)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    worker_of("Forgetful").initial_model(tmp_path / "model.safetensors", seed=1)
    return tmp_path


def grandchildren_in(log_file: Path) -> list[int]:
    """The processes that `Drastic` says it started."""
    return [int(pid) for pid in re.findall(r"^pid (\d+)\n", text_of(log_file), re.MULTILINE)]


# -- a well-behaved trainer ----------------------------------------------------


async def test_a_round_gives_the_bytes_that_the_worker_gives(
    tiny: TrainingProcess, tmp_path: Path
) -> None:
    await tiny.initial_model(tmp_path / "model.safetensors", 1)
    worker = worker_of("Tiny")
    worker.initial_model(tmp_path / "expected", 1)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    request = request_in(tmp_path, 3)
    result = await tiny.train(request)
    found = request.model_out.read_bytes(), request.state_out.read_bytes()
    assert worker.train(request).metrics == result.metrics
    assert (request.model_out.read_bytes(), request.state_out.read_bytes()) == found
    assert (result.data_size, result.has_state) == (32, True)
    assert 0 < result.seconds < 60
    assert await tiny.evaluate(request.model_out) == worker.evaluate(request.model_out)
    assert not await tiny.re_estimate(request.model_out, tmp_path / "none")
    assert not await tiny.calibrate(request.model_out, tmp_path / "none")


async def test_alignment_is_asked_of_the_process(tmp_path: Path) -> None:
    worker = worker_of("Normed")
    for name, seed in (("one", 1), ("other", 2)):
        worker.initial_model(tmp_path / name, seed=seed)
    request = AlignRequest(
        how="activations",
        anchor=tmp_path / "one",
        models=(tmp_path / "other",),
        out=(tmp_path / "out",),
    )
    expected = worker.align(request).moved, (tmp_path / "out").read_bytes()
    process = process_of("Normed", tmp_path / "training.log")
    try:
        assert await process.units() == worker.units()
        result = await process.align(request)
    finally:
        await process.stop(5)
    assert (result.moved, (tmp_path / "out").read_bytes()) == expected


async def test_what_a_process_cannot_align_it_says(tiny: TrainingProcess) -> None:
    with pytest.raises(InvalidInput, match=r"Tiny has no calibration\(\)"):
        await tiny.units()


async def test_facts_come_with_the_start(tiny: TrainingProcess) -> None:
    facts = await tiny.start()
    assert (facts.name, facts.device, facts.data_size) == (f"{MODULE}:Tiny", "cpu", 32)
    assert (facts.evaluates, facts.calibrates, facts.keeps_state) == (True, False, True)


async def test_a_killed_process_is_started_again_and_gives_the_same_bytes(
    tiny: TrainingProcess, tmp_path: Path
) -> None:
    await tiny.initial_model(tmp_path / "model.safetensors", 1)
    await tiny.train(request_in(tmp_path, 0))
    second = request_in(tmp_path, 1, model_in="trained-0.safetensors", state_in="state-0.pt")
    await tiny.train(second)
    before = second.model_out.read_bytes(), second.state_out.read_bytes()
    pid = tiny.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await eventually(lambda: tiny.pid is None)
    await tiny.train(second)
    assert tiny.pid not in (None, pid)
    assert (second.model_out.read_bytes(), second.state_out.read_bytes()) == before


async def test_errors_keep_their_family_and_the_process_goes_on(
    tiny: TrainingProcess, linear: Path
) -> None:
    pid = (await tiny.start(), tiny.pid)[1]
    with pytest.raises(Refused, match=r"model\(\).*is not part of it"):
        await tiny.train(request_in(linear))
    with pytest.raises(InvalidInput, match="no such file"):
        await tiny.evaluate(linear / "nowhere")
    (linear / "garbage").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(Corrupt):
        await tiny.evaluate(linear / "garbage")
    assert tiny.pid == pid


async def test_calls_at_the_same_time_wait_for_each_other(
    tiny: TrainingProcess, tmp_path: Path
) -> None:
    await tiny.initial_model(tmp_path / "model.safetensors", 1)
    results = await asyncio.gather(*(tiny.train(request_in(tmp_path, r)) for r in range(3)))
    assert [result.metrics["round"] for result in results] == [0.0, 1.0, 2.0]


async def test_an_idle_process_ends_by_itself_when_told(tiny: TrainingProcess) -> None:
    await tiny.start()
    pid = tiny.pid
    assert pid is not None
    child = psutil.Process(pid)
    await tiny.stop(20)
    assert gone(pid)
    assert not child.is_running()
    assert tiny.pid is None
    await tiny.stop(1)  # nothing left to stop


# -- one that is not -----------------------------------------------------------


async def test_a_trainer_that_raises_fails_and_its_process_lives(
    drastic: TrainingProcess, linear: Path, log_file: Path
) -> None:
    with pytest.raises(TrainingFailed) as failed:
        await drastic.train(request_in(linear, 1))
    assert str(failed.value) == (
        f"round 1: {MODULE}:Drastic.train raised ValueError: labels are off"
    )
    pid = drastic.pid
    assert "Traceback" in text_of(log_file)
    assert "drastic round 1" in text_of(log_file)  # what the user printed
    assert (await drastic.train(request_in(linear, 2))).metrics == {"loss": 0.5}
    assert drastic.pid == pid


async def test_a_process_that_is_killed_is_told_with_its_signal_and_last_words(
    drastic: TrainingProcess, linear: Path, log_file: Path
) -> None:
    with pytest.raises(TrainerDied) as died:
        await drastic.train(request_in(linear, 3))
    assert "was ended by SIGKILL (out of memory?" in str(died.value)
    assert f"it said last: drastic round 3; see {log_file}" in str(died.value)
    assert not (linear / "trained-3.safetensors").exists()


async def test_cancelling_kills_the_process_and_its_children(
    drastic: TrainingProcess, linear: Path, log_file: Path
) -> None:
    training = asyncio.create_task(drastic.train(request_in(linear, 5)))
    assert await eventually(lambda: len(grandchildren_in(log_file)) == 1)
    pid, (grandchild,) = drastic.pid, grandchildren_in(log_file)
    assert pid is not None
    assert drastic.silent_s < 10
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert gone(pid)
    assert await eventually(lambda: gone(grandchild))
    assert drastic.pid is None


async def test_stopping_in_the_middle_does_not_wait_for_the_end(
    drastic: TrainingProcess, linear: Path, log_file: Path
) -> None:
    before = len(grandchildren_in(log_file))
    training = asyncio.create_task(drastic.train(request_in(linear, 5)))
    assert await eventually(lambda: len(grandchildren_in(log_file)) > before)
    began = time.monotonic()
    await drastic.stop(20)
    assert time.monotonic() - began < 10
    with pytest.raises(TrainerStopped):
        await training


async def test_a_process_without_a_sign_of_life_is_killed(linear: Path, log_file: Path) -> None:
    process = process_of("Drastic", log_file)
    await process.start()  # loading torch on a busy machine may take its time
    process._silence_limit_s = 3.0
    pid = process.pid
    assert pid is not None
    with pytest.raises(TrainerSilent, match=rf"\(pid {pid}\) gave no sign of life for 3 s"):
        await process.train(request_in(linear, 7))
    assert gone(pid)


async def test_a_trainer_that_cannot_be_loaded_says_so_at_the_start(log_file: Path) -> None:
    process = process_of("Tinny", log_file)
    with pytest.raises(InvalidInput, match="has no class 'Tinny'; did you mean 'Tiny'"):
        await process.start()
    assert process.pid is None


PARENT = """
import asyncio, sys
from pathlib import Path
from tests.node.test_training import process_of
from tests.support.training import request_in

async def main():
    process = process_of("Drastic", Path(sys.argv[2]))
    await process.start()
    Path(sys.argv[1], "pid").write_text(str(process.pid))
    await process.train(request_in(Path(sys.argv[1]), int(sys.argv[3])))

asyncio.run(main())
"""


@pytest.mark.parametrize("round", [5, 7], ids=["working", "stopped"])
async def test_a_process_whose_daemon_is_killed_ends_with_its_children(
    round: int, linear: Path
) -> None:
    log = linear / "log"
    command = [sys.executable, "-c", PARENT, str(linear), str(log), str(round)]
    daemon = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.DEVNULL)
    wanted = "pid " if round == 5 else f"drastic round {round}"
    assert await eventually(lambda: wanted in text_of(log) and text_of(log).endswith("\n"))
    pid = int((linear / "pid").read_text())
    if round == 7:
        assert await eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    daemon.kill()
    await daemon.wait()
    assert await eventually(lambda: gone(pid))
    if round == 5:
        (grandchild,) = grandchildren_in(log)
        assert await eventually(lambda: gone(grandchild))
