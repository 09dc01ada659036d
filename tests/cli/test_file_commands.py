"""`weft diff`, `weft apply`, `weft inspect`: there and back, in words and as JSON."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.crafted import bits, model
from tests.checkpoints.folders import save_adapter, save_distributed
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.cli.__main__ import main
from weft.cli.byte_sizes import byte_size
from weft.errors import InvalidInput


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, seed in (("base", 0), ("tuned", 1)):
        (tmp_path / name).mkdir()
        save_file(model(seed), tmp_path / name / "model.safetensors", {"format": "pt"})
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_there_and_back(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned, delta, out = (folders / name for name in ("base", "tuned", "delta", "out"))
    made = document(capsys, "diff", base, tuned, "-o", delta)
    assert made["against"] == model_digest(MemoryReader(model()))
    assert made["codec"] == "lossless"
    assert made["delta_bytes"] > 0
    applied = document(capsys, "apply", base, delta, "-o", out)
    assert applied["digest"] == model_digest(MemoryReader(model(1)))
    assert applied["applied"] == made["digest"]
    assert applied["base"] == made["against"]
    found = load_file(out / "model.safetensors")
    assert {n: bits(t) for n, t in found.items()} == {n: bits(t) for n, t in model(1).items()}
    assert (out / "config.json").read_text() == "{}"


def test_words(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned, delta = (folders / name for name in ("base", "tuned", "delta"))
    code, out, _ = run(capsys, "diff", base, tuned, "-o", delta, "--codec", "raw")
    assert code == 0
    assert "14 tensors" in out
    assert "against  " in out
    code, out, _ = run(capsys, "apply", base, delta, "-o", folders / "out")
    assert code == 0
    assert "digest   " in out
    code, out, _ = run(capsys, "inspect", tuned, "--base", base, "--tensors")
    assert code == 0
    for words in ("safetensors", "task vector", "top 20 %", "fc.weight  F32 5x3", "scalar"):
        assert words in out


def test_shards(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, delta, out = (folders / name for name in ("base", "delta", "out"))
    document(capsys, "diff", base, folders / "tuned", "-o", delta)
    document(capsys, "apply", base, delta, "-o", out, "--shard-size", "300B")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    with open_checkpoint(out) as reader:
        assert model_digest(reader) == model_digest(MemoryReader(model(1)))


def test_adapter(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, out = (folders / name for name in ("base", "adapter", "out"))
    factors = {"fc.lora_A.weight": torch.ones(2, 3), "fc.lora_B.weight": torch.ones(5, 2)}
    save_adapter(adapter, factors)
    document(capsys, "apply", base, adapter, "-o", out)
    found = load_file(out / "model.safetensors")
    torch.testing.assert_close(found["fc.weight"], model()["fc.weight"] + 4)
    shown = document(capsys, "inspect", adapter, "--base", base)
    assert shown["format"] == "PEFT adapter"
    assert shown["delta"]["changed"] == 15
    made = document(capsys, "diff", base, adapter, "-o", folders / "delta")
    assert made["tensors"] == 14


def test_inspect(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", folders / "base")
    assert found["digest"] == model_digest(MemoryReader(model()))
    assert found["tensor_count"] == 14
    assert found["dtypes"]["BF16"] == {"tensors": 1, "elements": 231, "bytes": 462}
    assert found["largest"][0] == "embed.weight"
    assert found["not_finite"] == []
    assert found["tensors"] is None
    found = document(capsys, "inspect", folders / "base", "--no-digest", "--tensors")
    assert found["digest"] is None
    assert [item["name"] for item in found["tensors"]] == sorted(model())


def test_inspect_names_what_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "m.safetensors")
    code, out, _ = run(capsys, "inspect", tmp_path / "m.safetensors", "--tensors")
    assert code == 0
    assert "NOT FINITE    w" in out
    assert "1 NaN, 0 infinite" in out


def test_inspect_of_a_distributed_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_distributed(tmp_path / "d", {"model": model(), "step": 3})
    found = document(capsys, "inspect", tmp_path / "d", "--prefix", "model.")
    assert found["digest"] == model_digest(MemoryReader(model()))
    assert found["ignored"] == ["step"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("diff", "base", "base"), "Missing option '--out'"),
        (("diff", "base", "nowhere", "-o", "d"), "no such file"),
        (("diff", "base", "tuned", "-o", "base"), "exists"),
        (
            ("diff", "base", "tuned", "-o", "d", "--codec", "zip"),
            "--codec: no codec named 'zip' (known: int8, lossless, raw)",
        ),
        (("apply", "base", "tuned", "-o", "d"), "found a whole model"),
        (("apply", "base", "delta", "-o", "base"), "exists"),
        (("apply", "tuned", "delta", "-o", "d"), "a delta against"),
        (("apply", "base", "delta", "-o", "d", "--shard-size", "many"), "--shard-size"),
        (("inspect", "nowhere"), "no such file or folder"),
        (("inspect", "x" * 300), "cannot be read: File name too long"),
        (("diff", "base", "x" * 300, "-o", "d"), "cannot be read: File name too long"),
        (("apply", "base", "x" * 300, "-o", "d"), "cannot be read: File name too long"),
        (("inspect", "delta"), "--base"),
        (
            ("inspect", "base", "--base", "other"),
            "base/model.safetensors, beside other: not the expected model: ",
        ),
        (("diff", "other", "base", "-o", "d"), "base/model.safetensors: not the expected model"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...],
    fault: str,
    folders: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folders)
    document(capsys, "diff", "base", "tuned", "-o", "delta")
    save_file({"w": torch.ones(1)}, "other")
    before = sorted(os.listdir(folders))
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert fault in err
    assert err.startswith("weft: ")
    assert err.count("\n") == 1
    assert sorted(os.listdir(folders)) == before


def test_a_damaged_delta_is_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned, delta = (folders / name for name in ("base", "tuned", "delta"))
    document(capsys, "diff", base, tuned, "-o", delta)
    payload = delta / "payload.safetensors"
    data = bytearray(payload.read_bytes())
    data[-1] ^= 1
    payload.write_bytes(data)
    code, _, err = run(capsys, "apply", base, delta, "-o", folders / "out")
    assert code == 1
    assert err.startswith(f"weft: {payload}: chunk 0 of tensor ")
    assert err.endswith(
        "has changed on the disk; copy the folder again, or make it again (weft diff)\n"
    )
    payload.write_bytes(data[:-1])
    code, _, err = run(capsys, "apply", base, delta, "-o", folders / "out")
    assert err.startswith(f"weft: {payload}: its file has {len(data) - 1} bytes, ")


def test_a_full_disk_names_the_delta(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.setattr("weft.checkpoints.disk.free_bytes", lambda _: 100)
    code, _, err = run(capsys, "diff", "base", "tuned", "-o", "delta")
    assert code == 1
    assert err.startswith("weft: delta: ")
    assert "free" in err
    assert ".tmp" not in err


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("5GB", 5 * 10**9), ("1.5 KiB", 1536), ("7b", 7), ("2tib", 2**41)]
)
def test_sizes(text: str, count: int) -> None:
    assert byte_size(text, "--x") == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "5 bananas", "nan", "inf", "1e30GB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="--x: found"):
        byte_size(text, "--x")
