"""An input that another program writes while it is merged: refused, and nothing is left."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints.experts import job_of, write_models
from tests.checkpoints.outputs import around, tree
from tests.checkpoints.test_adapter_job import base, job, save, tuned
from weft.checkpoints.adapter_job import run_adapter_job
from weft.checkpoints.errors import ChangedInput
from weft.checkpoints.expert_job import run_expert_job
from weft.checkpoints.identities import Identities
from weft.checkpoints.job import run_job
from weft.checkpoints.task_vectors import Meter
from weft.merging.methods.emr import Emr
from weft.merging.methods.mean import Mean

FILE = Path("b", "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models that were written long ago, as the clock of the disk has it."""
    write_models(tmp_path)
    for path in tmp_path.glob("*/*"):
        os.utime(path, (1e9, 1e9))
    return tmp_path


def in_place(folder: Path) -> None:
    """A byte of the last tensor."""
    with (folder / FILE).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")


def replaced(folder: Path) -> None:
    shutil.copyfile(folder / "a" / FILE.name, folder / "new")
    os.replace(folder / "new", folder / FILE)


def removed(folder: Path) -> None:
    (folder / FILE).unlink()


def added(folder: Path) -> None:
    (folder / "b" / "config.json").write_text("{}")


class Meddler(Meter):
    """A meter that has something done once so many bytes were read."""

    def __init__(self, folder: Path, change: Callable[[Path], None], after: int = 1) -> None:
        super().__init__()
        self._folder, self._waiting, self._after = folder, [change], after

    def add(self, count: int) -> None:
        super().add(count)
        if self.total >= self._after and self._waiting:
            self._waiting.pop()(self._folder)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("change", [in_place, replaced, removed, added])
def test_a_model_of_two_halves_never_appears(
    change: Callable[[Path], None], resume: bool, folder: Path
) -> None:
    named = "config.json" if change is added else FILE.name
    asked = job_of(folder, Emr(), resume=resume, threads=2)
    with pytest.raises(ChangedInput, match=rf"/b/{named}: was changed while .*begin again"):
        run_job(asked, Meddler(folder, change))
    assert around(folder / "out") == []


def test_nor_does_an_adapter_of_two_halves(tmp_path: Path) -> None:
    save(tmp_path / "base", base())
    save(tmp_path / "b", tuned(1, "l.q.weight", "l.v.weight"))
    os.utime(tmp_path / FILE, (1e9, 1e9))
    with pytest.raises(ChangedInput, match=r"/b/model.safetensors: was changed while"):
        run_adapter_job(job(tmp_path, Mean(), "b"), 2, Meddler(tmp_path, in_place))
    assert around(tmp_path / "out") == []


def test_nor_do_experts_of_two_halves(folder: Path) -> None:
    """The model was whole before, and stays."""
    read = run_job(job_of(folder, Emr(), out="before")).bytes_read
    meter = Meddler(folder, in_place, after=read + 1)
    with pytest.raises(ChangedInput, match=r"/b/model.safetensors: was changed while"):
        run_expert_job(job_of(folder, Emr()), folder / "experts", meter)
    assert around(folder / "experts") == []
    before, out = tree(folder / "before"), tree(folder / "out")
    assert before["model.safetensors"] == out["model.safetensors"]


def test_what_stays_as_it_is_is_taken(folder: Path) -> None:
    """Reading changes nothing, nor does what lies beside the inputs."""
    meter = Meddler(folder, lambda _: (folder / "note").touch())
    run_job(job_of(folder, Emr()), meter)
    assert (folder / "note").exists()


def test_a_path_where_nothing_is_has_no_files(tmp_path: Path) -> None:
    found = Identities.at([tmp_path / "nowhere"])
    assert found.of(tmp_path / "nowhere") == {"name": "nowhere", "files": []}
    found.require_unchanged()
