"""Modules to files and back: ties, schemas, metadata, and what is not finite."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tests.node.trainers.weft_test_trainers import TiedModel
from tests.support.training import request_in, tensors_of, worker_of
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import open_checkpoint
from weft.node.errors import ModelChanged, NotFinite
from weft.node.model_files import (
    TIED,
    load_model_file,
    require_finite,
    require_sound_file,
    save_model,
)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        found: dict[str, str] = opened.metadata()
        return found


def test_tied_tensors_lie_once_under_their_first_name(tmp_path: Path) -> None:
    model = TiedModel()
    save_model(model, tmp_path / "m")
    assert sorted(tensors_of(tmp_path / "m")) == ["body.bias", "body.weight", "embedding.weight"]
    assert json.loads(metadata_of(tmp_path / "m")[TIED]) == {"head.weight": "embedding.weight"}
    other = TiedModel()
    load_model_file(other, tmp_path / "m")
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.head.weight, model.head.weight)


@pytest.mark.parametrize(
    "names", [["embedding.weight"], ["head.weight"], ["embedding.weight", "head.weight"]]
)
def test_training_keeps_the_names_of_the_file_that_it_began_with(
    names: list[str], tmp_path: Path
) -> None:
    model = TiedModel()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {name: state[name] for name in [*names, "body.weight", "body.bias"]}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt", "origin": "elsewhere"})
    request = request_in(tmp_path)
    worker_of("Tied").train(request)
    trained = tensors_of(request.model_out)
    assert sorted(trained) == sorted(kept)
    assert all(torch.equal(trained[name], state[name] + 1) for name in names)
    assert metadata_of(request.model_out)["origin"] == "elsewhere"


def test_a_tie_that_training_broke_is_a_changed_model(tmp_path: Path) -> None:
    model = TiedModel()
    save_model(model, tmp_path / "m")
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with (
        open_checkpoint(tmp_path / "m") as like,
        pytest.raises(ModelChanged, match=r"head\.weight .* is not part of it"),
    ):
        save_model(model, tmp_path / "out", like=like)
    assert not (tmp_path / "out").exists()


def test_every_dtype_and_layout_comes_back(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Module()
        for name, dtype in (("short", torch.float16), ("brain", torch.bfloat16)):
            model.register_parameter(f"{name}_floats", nn.Parameter(torch.randn(3, 5).to(dtype)))
        model.register_buffer("transposed", torch.randn(4, 6).t())
        model.register_buffer("count", torch.tensor(7))
        model.register_buffer("empty", torch.zeros(0, 3))
        model.register_buffer("empty_too", torch.zeros(0, 3))
        model.register_buffer("left_out", torch.zeros(2), persistent=False)
        return model

    model, other = build(), build()
    save_model(model, tmp_path / "m")
    load_model_file(other, tmp_path / "m")
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    assert "left_out" not in expected


def test_a_model_that_does_not_fit_lists_the_first_differences(tmp_path: Path) -> None:
    save_model(nn.Linear(3, 2), tmp_path / "m")
    with pytest.raises(SchemaMismatch, match=r"weight is F32\[2, 4\], F32\[2, 3\] expected"):
        load_model_file(nn.Linear(4, 2), tmp_path / "m")


def test_what_is_not_finite_is_named() -> None:
    model = nn.Linear(2, 2)
    require_finite(model, "now")
    with torch.no_grad():
        model.weight[0, 1], model.weight[1, 1] = float("nan"), float("-inf")
    with pytest.raises(NotFinite, match="now: weight holds 2 NaN or infinite"):
        require_finite(model, "now")


def test_a_file_of_another_program_is_checked_before_it_is_taken(tmp_path: Path) -> None:
    like, path = tmp_path / "like", tmp_path / "found"
    save_file({"w": torch.zeros(2), "n": torch.tensor(3)}, like)
    save_file({"w": torch.ones(2), "n": torch.tensor(4)}, path)
    require_sound_file(path, like, "round 2")
    save_file({"w": torch.tensor([1.0, float("nan")]), "n": torch.tensor(4)}, path)
    with pytest.raises(NotFinite, match="round 2: w holds 1 NaN"):
        require_sound_file(path, like, "round 2")
    save_file({"w": torch.ones(3), "n": torch.tensor(4)}, path)
    with pytest.raises(ModelChanged, match=r"round 2: .*w is F32\[3\], F32\[2\] expected"):
        require_sound_file(path, like, "round 2")
