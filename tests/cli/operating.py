"""A coordinator's process and the command line in this one, as an operator uses both."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.coordinator.processes import CoordinatorProcess
from weft.cli.__main__ import main

TRAINER = """
import torch
from torch import nn


class Tiny:
    def __init__(self, hidden: int = 4):
        self.hidden = hidden

    def model(self):
        print("building")
        return nn.Sequential(nn.Linear(3, self.hidden), nn.Linear(self.hidden, 2))

    def train(self, model, round):
        return {}
"""


class Desk:
    """Types commands; the environment says which coordinator, and as whom."""

    def __init__(
        self,
        process: CoordinatorProcess,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.process, self.folder, self._capsys = process, folder, capsys
        monkeypatch.chdir(folder)
        monkeypatch.setenv("WEFT_COORDINATOR", process.address)
        monkeypatch.setenv("WEFT_CREDENTIALS", str(process.operator))
        (folder / "tiny.py").write_text(TRAINER)

    def types(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main(list(words))
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def reads(self, *words: str) -> Any:
        """The one document of a command with --json."""
        code, out, err = self.types(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def mistakes(self, *words: str) -> str:
        """The last line of a command that is refused; what came before it was work."""
        code, out, err = self.types(*words)
        assert (code, out) == (2, ""), (code, out, err)
        lines = err.splitlines()
        assert [line for line in lines if line.startswith("weft: ")] == lines[-1:], err
        return lines[-1]

    def run_file(self, name: str, more: str = "", base: str = 'trainer = "tiny:Tiny"') -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(f'name = "{name}"\nnodes = 2\nrounds = 4\n{more}\n[base]\n{base}\n')
        return path.name
