"""Recipes become jobs: what varies by tensor is followed, and what decides bytes is said."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.merges import small_pieces
from weft.checkpoints.merge_spec import MergeSpec
from weft.cli.__main__ import main
from weft.cli.merge_build import _created
from weft.cli.schedule import Schedule, read_schedule

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
    return made(folder, f"method: mean\nbefore: [{{method: larv, options: {options}}}]\n", out)


def made(folder: Path, what: str, out: str) -> dict[str, Tensor]:
    recipe = folder / f"{out}.yaml"
    models = "models: [{path: a.safetensors}, {path: b.safetensors}]\n"
    recipe.write_text(f"base: base.safetensors\n{models}{what}")
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


@pytest.mark.parametrize("values", [(1, 0.5, 0.2), (0.2, 0.5, 1), (0.5, 1, 1)])
@pytest.mark.parametrize(
    "what",
    [
        "method: ties\noptions: {{extent: tensor, density: {}}}\n",
        "method: mean\nbefore: [{{method: trim, options: {{extent: tensor, density: {}}}}}]\n",
        "method: sce\noptions: {{select: {}}}\n",
    ],
    ids=["ties", "trim", "sce"],
)
def test_a_schedule_may_begin_or_end_where_nothing_is_asked_for(
    folder: Path, what: str, values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are kept with 1, so no ranks are looked for, and any elements are merged apart."""
    small_pieces(monkeypatch)
    both = made(folder, what.format(list(values)), "both")
    for layer, value in zip(LAYERS, values, strict=True):
        name = f"h.{layer}.fc.weight"
        assert torch.equal(both[name], made(folder, what.format(value), f"out-{layer}")[name])


def test_mergekits_schedule_of_a_density_may_begin_at_one(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(
        "merge_method: ties\nbase_model: base.safetensors\n"
        "models: [{model: a.safetensors}, {model: b.safetensors}]\n"
        "parameters: {weight: 1.0, density: [1, 0.7, 0.1]}\ndtype: float32\n"
    )
    assert main(["merge", "--config", "recipe.yaml", "-o", "out"]) == 0


def test_ranks_over_the_model_cannot_vary_from_where_none_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for values in ([1, 0.5], [0.5, 1]):
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            "method: ties\nbase: base.safetensors\nmodels: [{path: a.safetensors}]\n"
            f"options: {{density: {values}}}\n"
        )
        assert main(["merge", "--config", str(recipe), "-o", "out"]) != 0
        assert "set extent to tensor" in capsys.readouterr().err


def test_where_all_is_kept_nothing_is_asked_for() -> None:
    usual = _created("ties", {}, {"density": Schedule.constant(1.0)})
    assert MergeSpec(method=usual).passes == 1
    usual = _created("ties", {"extent": "tensor"}, {"density": read_schedule([1, 0.5], "here")})
    assert MergeSpec(method=usual).passes == 3


def test_the_plan_says_what_computed(folder: Path) -> None:
    assert main(["merge", "-m", "mean", "a.safetensors", "b.safetensors", "-o", "out"]) == 0
    recipe = json.loads((folder / "out" / "weft.json").read_text())["plan"]["recipe"]
    assert recipe["sums"] == "exact"
    assert recipe["device"] == "cpu"
