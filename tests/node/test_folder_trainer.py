"""Training as two folders: handed over whole, taken when whole, asked for once."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.training import eventually, request_in, tensors_of
from weft.errors import TrainingFailed
from weft.node.errors import NoInitialModel, NoModule, NotFinite, TrainerSilent, TrainerStopped
from weft.node.folder_trainer import FolderTrainer
from weft.node.training import AlignRequest, TrainerBackend, TrainResult
from weft.node.training_messages import TrainRequest

ALIGN = AlignRequest(how="weights", anchor=Path("a"), models=(), out=())
ROUND = "round-000003"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "node").mkdir()
    save_file({"w": torch.arange(4.0)}, tmp_path / "node" / "model.safetensors")
    return tmp_path / "node"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


def trainer_at(shared: Path, timeout_s: float | None = 10.0) -> FolderTrainer:
    return FolderTrainer(shared, timeout_s=timeout_s, poll_s=0.01)


async def handed_over(shared: Path, name: str = ROUND) -> Path:
    """The round's folder, as soon as it is there; it must be whole then."""
    given = shared / "in" / name
    assert await eventually(given.exists)
    assert (given / "request.json").exists()
    return given


async def trained(
    trainer: FolderTrainer, request: TrainRequest, shared: Path, done: str = "{}"
) -> TrainResult:
    """Play the other program: double the parameters, `done.json` last."""
    training = asyncio.create_task(trainer.train(request))
    given = await handed_over(shared)
    out = shared / "out" / ROUND
    out.mkdir()
    save_file({"w": tensors_of(given / "model.safetensors")["w"] * 2}, out / "model.safetensors")
    await asyncio.sleep(0.05)
    assert not training.done()
    (out / "done.json").write_text(done)
    return await training


async def test_a_round_goes_out_and_comes_back(node: Path, shared: Path) -> None:
    trainer = trainer_at(shared)
    contract: TrainerBackend = trainer
    assert (await contract.start()).keeps_state
    (node / "old-state").write_text("kept")
    request = request_in(node, 3, state_in="old-state")
    result = await trained(trainer, request, shared, '{"loss": 0.25}')
    assert (dict(result.metrics), result.has_state) == ({"loss": 0.25}, False)
    assert tensors_of(request.model_out)["w"].tolist() == [0.0, 2.0, 4.0, 6.0]
    given = shared / "in" / ROUND
    assert (given / "state").read_text() == "kept"
    asked = json.loads((given / "request.json").read_text())
    assert (asked["round"], asked["seed"], asked["fresh_optimizer"]) == (3, 1003, False)
    assert len(asked["model"]) == 64


async def test_a_state_comes_back_as_well(node: Path, shared: Path) -> None:
    out = shared / "out" / ROUND
    request = request_in(node, 3)
    training = asyncio.create_task(trainer_at(shared).train(request))
    given = await handed_over(shared)
    assert not (given / "state").exists()
    out.mkdir()
    shutil.copy(given / "model.safetensors", out)
    (out / "state").write_text("new")
    (out / "done.json").write_text("{}")
    assert (await training).has_state
    assert request.state_out.read_text() == "new"


async def test_what_was_answered_is_taken_again_after_a_restart(node: Path, shared: Path) -> None:
    request = request_in(node, 3)
    await trained(trainer_at(shared), request, shared)
    before = request.model_out.read_bytes()
    request.model_out.unlink()
    await trainer_at(shared, timeout_s=1.0).train(request)  # nobody trains now
    assert request.model_out.read_bytes() == before


async def test_another_question_gets_no_old_answer(node: Path, shared: Path) -> None:
    request = request_in(node, 3)
    await trained(trainer_at(shared), request, shared)
    save_file({"w": torch.ones(4)}, node / "model.safetensors")
    for other in (request, replace(request, seed=5)):
        with pytest.raises(TrainerSilent, match=r"done\.json did not appear in time"):
            await trainer_at(shared, timeout_s=0.1).train(other)
        assert not (shared / "out" / ROUND).exists()
    given = shared / "in" / ROUND
    assert tensors_of(given / "model.safetensors")["w"].tolist() == [1.0] * 4


async def test_a_failure_is_passed_on_with_its_last_line(node: Path, shared: Path) -> None:
    training = asyncio.create_task(trainer_at(shared).train(request_in(node, 3)))
    await handed_over(shared)
    out = shared / "out" / ROUND
    out.mkdir()
    (out / "failed.txt").write_text("Traceback ...\nValueError: no data\n\n")
    with pytest.raises(TrainingFailed, match=r"round 3: .* says: ValueError: no data"):
        await training


async def test_what_cannot_be_merged_is_not_taken(node: Path, shared: Path) -> None:
    request = request_in(node, 3)
    training = asyncio.create_task(trainer_at(shared).train(request))
    await handed_over(shared)
    out = shared / "out" / ROUND
    out.mkdir()
    save_file({"w": torch.full((4,), float("inf"))}, out / "model.safetensors")
    (out / "done.json").write_text("{}")
    with pytest.raises(NotFinite, match="round 3: after training: w holds 4"):
        await training
    assert not request.model_out.exists()


async def test_stopping_leaves_what_was_handed_over(node: Path, shared: Path) -> None:
    trainer = trainer_at(shared)
    training = asyncio.create_task(trainer.train(request_in(node, 3)))
    given = await handed_over(shared)
    await trainer.stop(1)
    with pytest.raises(TrainerStopped):
        await training
    assert given.exists()


async def test_what_folders_cannot_do(node: Path, shared: Path) -> None:
    trainer = trainer_at(shared)
    model = node / "model.safetensors"
    assert await trainer.evaluate(model) is None
    assert not await trainer.calibrate(model, node / "out")
    assert not await trainer.re_estimate(model, node / "out")
    with pytest.raises(NoInitialModel, match="create the run with a base"):
        await trainer.initial_model(node / "out", 1)
    for asked in (trainer.units(), trainer.align(ALIGN)):
        with pytest.raises(NoModule, match=r"merge\.align = 'none'"):
            await asked
