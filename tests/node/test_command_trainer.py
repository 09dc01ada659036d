"""Training as a command: fields, results, failures, and no command left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.training import eventually, gone, request_in, text_of
from weft.errors import Corrupt, TrainingFailed
from weft.node.command_trainer import CommandTrainer
from weft.node.errors import (
    BadTrainer,
    ModelChanged,
    NoInitialModel,
    NoModule,
    NotFinite,
    TrainerDied,
    TrainerStopped,
)
from weft.node.training import AlignRequest, TrainerBackend

ALIGN = AlignRequest(how="weights", anchor=Path("a"), models=(), out=())
COPY = "cp {checkpoint_in} {checkpoint_out}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blank in its name: no shell may trip over it."""
    made = tmp_path / "a folder"
    made.mkdir()
    save_file({"w": torch.arange(4.0)}, made / "model.safetensors")
    return made


def shell(folder: Path, script: str, fields: str = "{checkpoint_in} {checkpoint_out}") -> str:
    """A command that runs a shell script with the fields as $1, $2 ..."""
    (folder / "train.sh").write_text(script)
    return f"sh train.sh {fields}"


async def test_a_round_fills_in_its_fields_and_takes_the_results(folder: Path) -> None:
    script = """set -e
        cp "$1" "$2"; echo "$3 $4 $5 $6 $7" > "$8"; echo '{"loss": 0.5, "auc": NaN}' > "$9"
        pwd"""
    fields = "{checkpoint_in} {checkpoint_out} {round} {seed} x{state_in}x {fresh_optimizer} {{}}"
    command = shell(folder, script, f"{fields} {{state_out}} {{metrics_out}}")
    trainer: TrainerBackend = CommandTrainer(
        command, folder=folder, data_size=9, log_file=folder / "log"
    )
    result = await trainer.train(request_in(folder, 3))
    assert dict(result.metrics) == {"loss": 0.5}
    assert (result.data_size, result.has_state) == (9, True)
    assert (folder / "state-3.pt").read_text() == "3 1003 xx 0 {}\n"
    assert (folder / "trained-3.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    assert (folder / "log").read_text() == f"{folder}\n"
    second = request_in(folder, 4, state_in="state-3.pt")
    await trainer.train(second)
    assert f"x{folder}/state-3.pt x" not in second.state_out.read_text()
    assert f"x{folder}/state-3.ptx" in second.state_out.read_text()
    assert not [name for name in os.listdir(folder) if name.endswith(".work")]


async def test_a_state_may_be_a_folder_and_an_old_one_goes(folder: Path) -> None:
    command = shell(
        folder, 'cp "$1" "$2"; mkdir "$3"; echo s > "$3/part"', COPY[3:] + " {state_out}"
    )
    await CommandTrainer(command, folder=folder).train(request_in(folder))
    assert (folder / "state-0.pt" / "part").read_text() == "s\n"
    result = await CommandTrainer(COPY, folder=folder).train(request_in(folder))
    assert not result.has_state
    assert not (folder / "state-0.pt").exists()


async def test_what_it_can_do(folder: Path) -> None:
    trainer = CommandTrainer(COPY, folder=folder)
    facts = await trainer.start()
    assert (facts.name, facts.evaluates, facts.keeps_state) == ("cp", False, False)
    model = folder / "model.safetensors"
    assert await trainer.evaluate(model) is None
    assert not await trainer.calibrate(model, folder / "out")
    assert not await trainer.re_estimate(model, folder / "out")
    with pytest.raises(NoInitialModel, match="create the run with a base"):
        await trainer.initial_model(folder / "out", 1)
    for asked in (trainer.units(), trainer.align(ALIGN)):
        with pytest.raises(NoModule, match=r"merge\.align = 'none'"):
            await asked
    await trainer.stop(1)


async def test_an_evaluation_command_measures(folder: Path) -> None:
    (folder / "scores.json").write_text('{"accuracy": 0.75}')
    (folder / "evaluate.sh").write_text('test -s "$1" && cp scores.json "$2"')
    trainer = CommandTrainer(
        COPY,
        folder=folder,
        evaluate_command="sh evaluate.sh {checkpoint_in} {metrics_out}",
    )
    assert await trainer.evaluate(folder / "model.safetensors") == {"accuracy": 0.75}
    with pytest.raises(TrainerDied, match=r"evaluating nothing: the command ended with status 1"):
        await trainer.evaluate(folder / "nothing")


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo one; echo two is wrong; exit 3", TrainerDied, r"status 3; it said last: two is wr"),
        ("kill -SEGV $$", TrainerDied, r"round 0: the command was ended by SIGSEGV"),
        ("true", TrainingFailed, r"ended well, but wrote no checkpoint to"),
        ('echo junk > "$2"', Corrupt, "model.safetensors"),
        ('cp nan "$2"', NotFinite, r"round 0: after training: w holds 1 NaN"),
        ('cp long "$2"', ModelChanged, r"w is F32\[5\], F32\[4\] expected"),
    ],
)
async def test_what_goes_wrong_is_named_and_nothing_is_taken(
    script: str, error: type[Exception], message: str, folder: Path
) -> None:
    save_file({"w": torch.tensor([0.0, 1.0, float("nan"), 2.0])}, folder / "nan")
    save_file({"w": torch.arange(5.0)}, folder / "long")
    trainer = CommandTrainer(shell(folder, script), folder=folder, log_file=folder / "log")
    with pytest.raises(error, match=message):
        await trainer.train(request_in(folder))
    assert not (folder / "trained-0.safetensors").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cp {checkpoint_in} {checkpoint_ou}", r"unknown field \{checkpoint_ou\}; there are check"),
        ("cp {checkpoint_in}", r"lacks \{checkpoint_out\}"),
        ("cp {checkpoint_in} {checkpoint_out} {", "Single '{'"),
        ("cp {checkpoint_in} {checkpoint_out} 'x", "No closing quotation"),
        ("no-such-program-here {checkpoint_in} {checkpoint_out}", "no program 'no-such-program"),
        ("./train.sh {checkpoint_in} {checkpoint_out}", "no program './train.sh' in"),
    ],
)
def test_a_command_is_checked_before_it_runs(command: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrainer, match=message):
        CommandTrainer(command, folder=tmp_path)


# -- nothing is left behind ----------------------------------------------------

SLOW = 'sleep 600 & echo "$$ $!" > pids; wait'


async def begun(folder: Path) -> list[int]:
    assert await eventually(lambda: "\n" in text_of(folder / "pids"))
    return [int(word) for word in text_of(folder / "pids").split()]


async def test_cancelling_ends_the_command_and_its_children(folder: Path) -> None:
    trainer = CommandTrainer(shell(folder, SLOW), folder=folder)
    training = asyncio.create_task(trainer.train(request_in(folder)))
    pids = await begun(folder)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert await eventually(lambda: all(gone(pid) for pid in pids))


async def test_stopping_ends_the_command(folder: Path) -> None:
    trainer = CommandTrainer(shell(folder, SLOW), folder=folder)
    training = asyncio.create_task(trainer.train(request_in(folder)))
    pids = await begun(folder)
    await trainer.stop(5)
    with pytest.raises(TrainerStopped):
        await training
    assert all(gone(pid) for pid in pids)


async def test_a_command_that_runs_too_long_is_ended(folder: Path) -> None:
    script = f"trap '' TERM; {SLOW}"  # and ignores being asked
    trainer = CommandTrainer(shell(folder, script), folder=folder, timeout_s=2.0, grace_s=0.3)
    training = asyncio.create_task(trainer.train(request_in(folder)))
    pids = await begun(folder)
    with pytest.raises(TrainerDied, match="ran longer than 2 s and was ended"):
        await training
    assert all(gone(pid) for pid in pids)


DAEMON = """
import asyncio, sys
from pathlib import Path
from weft.node.command_trainer import CommandTrainer
from tests.support.training import eventually, gone, request_in, text_of
folder = Path(sys.argv[1])
asyncio.run(CommandTrainer(sys.argv[2], folder=folder).train(request_in(folder)))
"""


async def test_a_killed_daemon_takes_its_command_along(folder: Path) -> None:
    command = [sys.executable, "-c", DAEMON, str(folder), shell(folder, SLOW)]
    daemon = await asyncio.create_subprocess_exec(
        *command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL
    )
    pids = await begun(folder)
    os.kill(daemon.pid, signal.SIGKILL)
    await daemon.wait()
    assert await eventually(lambda: all(gone(pid) for pid in pids))
