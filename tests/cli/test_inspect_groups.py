"""`weft inspect --groups`: what of a trainer's model can change places."""

import json
from pathlib import Path
from typing import Any

import pytest

from weft.cli.__main__ import main

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
        self.inner, self.out = nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, images):
        return self.out(torch.relu(self.inner(self.norm(self.enter(images)).mean((2, 3)))))

class Spectral(Net):
    def forward(self, images):
        hidden = self.inner(self.norm(self.enter(images)).mean((2, 3)))
        return self.out(torch.fft.rfft(hidden, n=10).abs())

class Forked(Net):
    def forward(self, images):
        return super().forward(images) if images.sum() > 0 else images

class Trainer:
    net = Net
    def __init__(self, width: int = 8):
        self.width = width
    def model(self):
        print("a word of the user's")
        return self.net(self.width)
    def train(self, model, round):
        return {}
    def calibration(self):
        yield torch.randn(5, 1, 6, 6), torch.zeros(5)

class SpectralTrainer(Trainer):
    net = Spectral

class ForkedTrainer(Trainer):
    net = Forked

class Empty(Trainer):
    def calibration(self):
        return []

class Blind:
    def model(self):
        return Net(4)
    def train(self, model, round):
        return {}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inspected.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_groups_in_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--groups", "inspected:Trainer", "--option", "width=12")
    assert code == 0
    assert "2 groups, 18 units can change places" in out
    assert "enter.weight[0]     12 units, 7 tensors, 66.7 %" in out
    assert "  an axis of the model's outputs: out.weight[0], out.bias[0]" in out
    assert "no rule" not in out


def test_groups_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--groups", "inspected:Trainer")
    assert found["units"] == 14
    assert [(each["name"], each["size"], each["orders"]) for each in found["groups"]] == [
        ("enter.weight[0]", 8, []),
        ("inner.weight[0]", 6, []),
    ]
    assert sum(each["share"] for each in found["groups"]) == pytest.approx(1)
    # All but the two biases of the outputs: 166 of 168 parameters.
    assert found["movable"] == pytest.approx(1 - 2 / 164)
    assert found["unruled"] == {}


def test_operators_without_a_rule_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--groups", "inspected:SpectralTrainer")
    assert code == 0
    assert "  read in order by fft_rfft: inner.weight[0], inner.bias[0]" in out
    assert "  fft_rfft, 1 x" in out


def test_overrides_are_applied(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "o.toml").write_text('pin = ["inner.weight[0]"]\n[split]\n"enter.weight[0]" = 2\n')
    found = document(capsys, "--groups", "inspected:Trainer", "--overrides", here / "o.toml")
    assert [(each["name"], each["size"], each["orders"]) for each in found["groups"]] == [
        ("enter.weight[0.1]", 4, [2])
    ]
    reasons = {each["why"]: each["axes"] for each in found["fixed"]}
    assert "inner.weight[0]" in reasons["pinned by the overrides"]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", ("--groups", "inspected:Trainr"), "did you mean 'Trainer'"),
        ("", ("--groups", "inspected:Blind"), "has no calibration()"),
        ("", ("--groups", "inspected:Empty"), "calibration() gave no batch"),
        ("", ("--groups", "inspected:ForkedTrainer"), "images.sum() > 0"),
        ("", ("--groups", "inspected:Trainer", "--option", "wide=3"), "no option 'wide'"),
        ("", ("--groups", "inspected:Trainer", "--base", "x"), "found --base as well"),
        ("", ("--groups", "inspected:Trainer", "--overrides", "no.toml"), "no.toml: no such"),
        ("pn = []", ("--groups", "inspected:Trainer", "--overrides", "o.toml"), "valid key pin"),
        (
            'pin = ["enter.wight[0]"]',
            ("--groups", "inspected:Trainer", "--overrides", "o.toml"),
            "did you mean 'enter.weight[0]'",
        ),
        (
            '[split]\n"enter.weight[0]" = "two"',
            ("--groups", "inspected:Trainer", "--overrides", "o.toml"),
            "split.enter.weight[0]: expected a valid integer",
        ),
        ("", ("x", "--option", "a=1"), "go with --groups"),
        ("", (), "expected a checkpoint"),
    ],
)
def test_mistakes(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    (here / "o.toml").write_text(text)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
