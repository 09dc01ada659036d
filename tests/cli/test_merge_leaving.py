"""`weft merge --experts` and `--adapter-out`, and `weft apply` of an expert."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.crafted import bits
from tests.checkpoints.experts import NAMES, base, deltas, distance, loaded, tuned, write_models
from tests.checkpoints.folders import save_adapter
from tests.checkpoints.outputs import tree
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.reader import MemoryReader
from weft.cli.__main__ import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_models(tmp_path)
    (tmp_path / "base" / "config.json").write_text("{}")
    generator = torch.Generator().manual_seed(1)
    for name in ("x", "y"):
        factors = {
            "fc.lora_A.weight": torch.randn(2, 33, generator=generator),
            "fc.lora_B.weight": torch.randn(70, 2, generator=generator),
        }
        save_adapter(tmp_path / name, factors)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


RANK = ("--adapter-out", "2")
EXPERTS = ("merge", *NAMES, "--base", "base", "-o", "out", "--experts", "experts", "-m")


@pytest.mark.parametrize("method", ["emr", "consensus"])
def test_experts_are_applied(method: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = document(capsys, *EXPERTS, method)
    assert made["experts"] == list(NAMES)
    assert made["adapter_rank"] is None
    merged = loaded(folder / "out")
    for seed, name in enumerate(NAMES, start=1):
        expert = f"experts/{name}.safetensors"
        found = document(capsys, "apply", "out", expert, "--base", "base", "-o", f"again-{name}")
        assert found["merged"] == made["digest"]
        assert found["base"] != found["merged"]
        right = deltas(tuned(seed), base())
        near = distance(deltas(loaded(folder / f"again-{name}"), base()), right)
        assert near < 0.7 * distance(deltas(merged, base()), right)
    assert (folder / "again-a" / "config.json").read_text() == "{}"


def test_experts_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *EXPERTS, "emr")
    assert code == 0
    assert "experts: a, b, c\n" in out
    code, out, _ = run(
        capsys, "apply", "out", "experts/a.safetensors", "--base", "base", "-o", "again"
    )
    assert code == 0
    assert "merged   " in out


def test_experts_of_a_finished_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document(capsys, *EXPERTS, "emr")
    whole = tree(folder / "experts")
    (folder / "experts").rename(folder / "first")
    document(capsys, *EXPERTS, "emr", "--resume")
    assert tree(folder / "experts") == whole
    document(capsys, *EXPERTS, "emr", "--resume")


def test_adapters_become_an_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("merge", "x", "y", "--base", "base", "-m", "mean", "--adapter-out")
    made = document(capsys, *arguments, "4", "-o", "whole")
    assert made["adapter_rank"] == 4
    assert made["truncation_error"] < 1e-12
    made = document(capsys, *arguments, "2", "-o", "cut")
    assert made["adapter_rank"] == 2
    assert 0.1 < made["truncation_error"] < 0.8
    document(capsys, "apply", "base", "whole", "-o", "applied")
    document(capsys, *arguments[:-1], "-o", "model")
    found, right = (loaded(folder / name)["fc.weight"] for name in ("applied", "model"))
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
    code, out, _ = run(capsys, *arguments, "2", "-o", "words")
    assert code == 0
    assert "rank 2, leaves out " in out


def test_checkpoints_become_an_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("merge", "a", "x", "--base", "base", "-m", "ties", "--dtype", "bfloat16")
    code, _, err = run(capsys, *arguments, "--adapter-out", "8", "-o", "out")
    assert code == 2
    assert "an adapter cannot hold what the merge changes in fc.bias:" in err
    assert not (folder / "out").exists()
    origin = base()
    for name in ("a", "b"):
        state = {**origin, "fc.weight": tuned(2)["fc.weight"]}
        path = folder / name / "model.safetensors"
        path.unlink()
        save_file(state, path)
    made = document(capsys, *arguments, "--adapter-out", "8", "-o", "out")
    assert made["adapter_rank"] == 8
    assert {t.dtype for t in load_file(folder / "out/adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    with AdapterReader(folder / "out", MemoryReader(origin)) as reader:
        assert reader.identity() == made["digest"]
        assert bits(reader.read("fc.bias")) == bits(origin["fc.bias"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("merge", "a", "-m", "mean", "-o", "o", "--experts", "e"), "only emr and consensus"),
        ((*EXPERTS, "emr", "--experts", "base"), "base: exists"),
        ((*EXPERTS, "emr", "--before", "trim"), "steps around the merge"),
        ((*EXPERTS, "emr", "--adapter-out", "2"), "leave out --experts"),
        (
            (*("merge", "x", "--base", "base", "-m", "mean", "-o", "o"), *("--resume", *RANK)),
            "leave out --resume",
        ),
        (("merge", "a", "-m", "mean", "-o", "o", "--adapter-out", "2"), "--base"),
        (
            ("merge", "x", "--base", "base", "-m", "mean", "-o", "o", "--adapter-out", "0"),
            "--adapter-out",
        ),
        (
            ("merge", "x", "y", "--base", "base", "-m", "knots", "-o", "o", "--set", "tables=("),
            "tables is '(', expected a regular expression",
        ),
        (("apply", "base", "x", "--base", "base", "-o", "o"), "goes with an expert's file"),
        (("apply", "base", "a", "-o", "o"), "expected a delta, an adapter or an expert"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir(folder))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert fault in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("out", "experts/a.safetensors"), "give --base"),
        (("a", "experts/a.safetensors", "--base", "base"), "an expert of the merged model"),
        (("out", "experts/a.safetensors", "--base", "b"), "an expert of the base"),
        (("out", "experts/nobody.safetensors", "--base", "base"), "no such file"),
    ],
)
def test_experts_that_do_not_fit(
    arguments: tuple[str, ...], fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document(capsys, *EXPERTS, "emr")
    code, out, err = run(capsys, "apply", *arguments, "-o", "o")
    assert (code, out) == (2, "")
    assert fault in err
    assert not (folder / "o").exists()
