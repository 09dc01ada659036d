"""The examples run as they are."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from weft.node.trainer import Calibrates, Evaluates, Stateful, Trainer, load_trainer

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(FOLDER / name), run_name="__main__")


def two_layers(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).state_dict()


def test_every_example_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.py"):
        assert f"`{path.name}`" in readme


def test_trainer_is_complete_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "trainer", raising=False)  # another test's
    trainer: Trainer = load_trainer("trainer:DigitsTrainer", {"nodes": 2, "node": 1}, FOLDER)
    assert isinstance(trainer, Evaluates)
    assert isinstance(trainer, Calibrates)
    assert isinstance(trainer, Stateful)
    torch.manual_seed(0)
    model = trainer.model()
    for round in range(3):
        trainer.load_state(trainer.state())
        trainer.train(model.train(), round)
    assert trainer.evaluate(model.eval())["accuracy"] > 0.8
    (inputs,) = next(iter(trainer.calibration()))
    assert model(inputs).shape == (256, 10)


def test_train_command_changes_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = two_layers(0)
    save_file(before, tmp_path / "in.safetensors")
    run(
        "train_command.py",
        monkeypatch,
        tmp_path / "in.safetensors",
        tmp_path / "out.safetensors",
        "--seed",
        7,
    )
    after = load_file(tmp_path / "out.safetensors")
    assert after.keys() == before.keys()
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert "loss" in capsys.readouterr().out


def test_merge_checkpoints_takes_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [two_layers(seed) for seed in (1, 2)]
    paths = [tmp_path / f"{place}.safetensors" for place in range(2)]
    for path, model in zip(paths, models, strict=True):
        save_file(model, path)
    run("merge_checkpoints.py", monkeypatch, tmp_path / "out.safetensors", *paths)
    merged = load_file(tmp_path / "out.safetensors")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (models[0][name] + models[1][name]) / 2)
