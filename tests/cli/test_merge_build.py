"""Recipes become jobs: what varies by tensor is followed, and what decides bytes is said."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.cli.__main__ import main

LAYERS = range(3)


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"h.{i}.fc.weight": torch.randn(6, 5, generator=generator) for i in LAYERS}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = model(0)
    save_file(base, tmp_path / "base.safetensors")
    for seed, name in enumerate("ab", start=1):
        tuned = {each: base[each] + 0.1 * delta for each, delta in model(seed).items()}
        save_file(tuned, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(folder: Path, options: str, out: str) -> dict[str, Tensor]:
    recipe = folder / f"{out}.yaml"
    recipe.write_text(
        "method: mean\nbase: base.safetensors\n"
        "models: [{path: a.safetensors}, {path: b.safetensors}]\n"
        f"before: [{{method: larv, options: {options}}}]\n"
    )
    assert main(["merge", "--config", str(recipe), "-o", out]) == 0
    return load_file(folder / out / "model.safetensors")


def test_factors_by_layer_follow_their_schedule(folder: Path) -> None:
    low = merged(folder, "{low: 0.1}", "low")
    high = merged(folder, "{low: 0.9}", "high")
    # Who is noisiest is the same in all three: only what that costs is told by the schedule.
    for name in low:
        rule = f"[{{filter: {name}, value: 0.1}}, {{value: 0.9}}]"
        both = merged(folder, f"{{low: {rule}}}", f"both-{name}")
        for each, tensor in both.items():
            assert torch.equal(tensor, (low if each == name else high)[each])
    assert any(not torch.equal(low[name], high[name]) for name in low)


def test_the_plan_says_what_computed(folder: Path) -> None:
    assert main(["merge", "-m", "mean", "a.safetensors", "b.safetensors", "-o", "out"]) == 0
    recipe = json.loads((folder / "out" / "weft.json").read_text())["plan"]["recipe"]
    assert recipe["sums"] == "exact"
    assert recipe["device"] == "cpu"
