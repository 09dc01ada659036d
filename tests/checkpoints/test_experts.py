"""Experts: each contribution given back from what was merged of all; no set is half there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.crafted import bits
from tests.checkpoints.experts import (
    NAMES,
    State,
    base,
    deltas,
    distance,
    job_of,
    loaded,
    merge,
    restored,
    tuned,
    write_models,
)
from tests.checkpoints.folders import save_adapter
from tests.checkpoints.outputs import tree
from tests.references import emr as emr_reference
from tests.references.consensus import tall_mask
from weft.checkpoints.errors import (
    BadPath,
    BadSchema,
    MalformedFile,
    MissingCheckpoint,
    OtherPlan,
    WrongBase,
    WrongKind,
)
from weft.checkpoints.expert_job import run_expert_job
from weft.checkpoints.expert_reader import is_expert
from weft.checkpoints.job import run_job
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Method
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.emr import Emr
from weft.merging.methods.mean import Mean
from weft.merging.methods.trim import Trim
from weft.merging.precision import Precision

METHODS: list[Method] = [Emr(), Emr(scale=0.4), Consensus(), Consensus(share=0.6, models=1)]
WEIGHTS = [1.0, 0.5, -2.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_models(tmp_path)
    return tmp_path


def expected_emr(experts: list[State]) -> list[State]:
    unified = emr_reference.unified(experts)
    return [emr_reference.expert(each, unified) for each in experts]


def expected_tall(experts: list[State], weights: list[float], share: float) -> list[State]:
    """The task vectors as TALL masks give them back, each part of the sum over its weight."""
    found = []
    for mine, weight in zip(experts, weights, strict=True):
        state = {}
        for name, delta in mine.items():
            total = sum(
                (w * each[name] for w, each in zip(weights, experts, strict=True)),
                torch.zeros_like(delta),
            )
            mask = tall_mask((weight * delta).numpy(), total.numpy(), share)
            state[name] = total * torch.from_numpy(np.asarray(mask)) / weight
        found.append(state)
    return found


def check_against(folder: Path, expected: list[State], rtol: float) -> None:
    origin = base()
    for name, delta in zip(NAMES, expected, strict=True):
        found = restored(folder, name)
        for tensor, change in delta.items():
            right = (origin[tensor].double() + change).float()
            torch.testing.assert_close(found[tensor], right, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_emr_is_the_formula_over_whole_models(scale: float, folder: Path) -> None:
    report = merge(folder, Emr(scale=scale))
    assert report.experts == NAMES
    experts = [deltas(tuned(seed), base()) for seed in (1, 2, 3)]
    check_against(folder, expected_emr(experts), 1e-6)
    assert (folder / "experts" / "vector.safetensors").exists() == (scale != 1)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], WEIGHTS])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_consensus_is_the_formula_over_whole_models(
    share: float, weights: list[float], folder: Path
) -> None:
    merge(folder, Consensus(share=share), weights=weights)
    experts = [deltas(tuned(seed), base()) for seed in (1, 2, 3)]
    check_against(folder, expected_tall(experts, weights, share), 1e-6)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_expert_is_much_nearer_than_the_merged_model(
    method: Method, dtype: torch.dtype, tmp_path: Path
) -> None:
    write_models(tmp_path, dtype)
    merge(tmp_path, method)
    origin, merged = base(dtype), loaded(tmp_path / "out")
    for seed, name in enumerate(NAMES, start=1):
        right = deltas(tuned(seed, dtype), origin)
        near = distance(deltas(restored(tmp_path, name), origin), right)
        assert near < 0.7 * distance(deltas(merged, origin), right)


def test_statistics_and_buffers_come_back_whole(folder: Path) -> None:
    merge(folder, Emr())
    for seed, name in enumerate(NAMES, start=1):
        found, right = restored(folder, name), tuned(seed)
        for tensor in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
            assert bits(found[tensor]) == bits(right[tensor])
        file = load_file(folder / "experts" / f"{name}.safetensors")
        kept = {each for each in file if each.startswith("kept.")}
        assert kept == {"kept.norm.running_mean", "kept.norm.num_batches_tracked"}


def test_one_contribution_comes_back_to_the_bit(folder: Path) -> None:
    for number, method in enumerate((Emr(), Consensus(models=1))):
        merge(folder, method, f"out{number}", f"experts{number}", names=["a"])
        found = restored(folder, "a", f"out{number}", f"experts{number}")
        assert {n: bits(t) for n, t in found.items()} == {n: bits(t) for n, t in tuned(1).items()}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_order_and_threads_change_no_byte(method: Method, folder: Path) -> None:
    merge(folder, method, "one", "experts-one")
    turned = {"names": NAMES[::-1], "threads": 3}
    merge(folder, method, "two", "experts-two", **turned)
    assert tree(folder / "experts-one") == tree(folder / "experts-two")


def test_files_are_small_and_named(folder: Path) -> None:
    merge(folder, Emr())
    assert sorted(tree(folder / "experts")) == [f"{name}.safetensors" for name in NAMES]
    file = load_file(folder / "experts" / "a.safetensors")
    assert file["mask.fc.weight"].shape == (-(-70 * 33 // 8),)
    assert file["mask.empty"].shape == (0,)
    assert file["mask.scale"].shape == (1,)
    assert file["scale"].dtype == torch.float64
    assert is_expert(folder / "experts" / "a.safetensors")
    assert not is_expert(folder / "a" / "model.safetensors")
    assert not is_expert(folder / "experts")


def test_a_contribution_of_weight_zero_has_no_expert(folder: Path) -> None:
    report = merge(folder, Emr(), weights=[1.0, 0.0, 1.0])
    assert report.experts == ("a", "c")
    assert sorted(tree(folder / "experts")) == ["a.safetensors", "c.safetensors"]


def test_a_model_of_a_narrower_dtype_has_its_vector_beside_it(folder: Path) -> None:
    merge(folder, Emr(), dtype="BF16")
    assert (folder / "experts" / "vector.safetensors").exists()
    found = restored(folder, "a")
    assert found["fc.weight"].dtype == torch.bfloat16
    expected = expected_emr([deltas(tuned(seed), base()) for seed in (1, 2, 3)])[0]
    right = (base()["fc.weight"].double() + expected["fc.weight"]).bfloat16()
    torch.testing.assert_close(found["fc.weight"], right)


def test_approximate_sums(folder: Path) -> None:
    merge(folder, Consensus(), precision=Precision.FLOAT32)
    experts = [deltas(tuned(seed), base()) for seed in (1, 2, 3)]
    check_against(folder, expected_tall(experts, [1.0] * 3, 0.4), 1e-4)


def test_adapters_too(folder: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    for name in ("x", "y"):
        factors = {
            "fc.lora_A.weight": torch.randn(2, 33, generator=generator),
            "fc.lora_B.weight": torch.randn(70, 2, generator=generator),
        }
        save_adapter(folder / name, factors, lora_alpha=2)
    merge(folder, Emr(), names=["x", "y"])
    assert (folder / "experts" / "vector.safetensors").exists()
    found = restored(folder, "x")
    assert bits(found["head.weight"]) == bits(base()["head.weight"])
    file = load_file(folder / "x" / "adapter_model.safetensors")
    a, b = (file[f"base_model.model.fc.lora_{half}.weight"].double() for half in "AB")
    change = found["fc.weight"].double() - base()["fc.weight"].double()
    assert (change - b @ a).norm() < 0.7 * (b @ a).norm()


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ({"out": "a"}, "an expert of the merged model"),
        ({"base": "b"}, "an expert of the base"),
    ],
)
def test_another_model_is_refused(origin: dict[str, str], words: str, folder: Path) -> None:
    merge(folder, Emr())
    for name, other in origin.items():
        (folder / name).rename(folder / "aside")
        (folder / other).rename(folder / name)
    with pytest.raises(WrongBase, match=words):
        restored(folder, "c")


def test_a_vector_of_another_set_is_refused(folder: Path) -> None:
    merge(folder, Consensus())
    merge(folder, Consensus(scale=0.5), "out2", "experts2")
    here, there = (folder / each / "vector.safetensors" for each in ("experts", "experts2"))
    there.replace(here)
    with pytest.raises(WrongBase, match="belongs to another set"):
        restored(folder, "a")
    here.unlink()
    with pytest.raises(MissingCheckpoint, match=r"vector\.safetensors: no such file"):
        restored(folder, "a")


def test_files_that_are_no_experts_are_refused(folder: Path) -> None:
    merge(folder, Emr())
    path = folder / "experts" / "a.safetensors"
    save_file({"w": torch.ones(1)}, path)
    with pytest.raises(WrongKind, match="no expert"):
        restored(folder, "a")
    with pytest.raises(MissingCheckpoint):
        restored(folder, "nobody")


@pytest.mark.parametrize("change", ["missing", "shorter", "another"])
def test_tensors_that_do_not_fit_are_refused(change: str, folder: Path) -> None:
    merge(folder, Emr())
    path = folder / "experts" / "a.safetensors"
    tensors: dict[str, Tensor] = dict(load_file(path))
    if change == "missing":
        del tensors["mask.fc.bias"]
    elif change == "shorter":
        tensors["mask.fc.bias"] = tensors["mask.fc.bias"][:1].clone()
    else:
        tensors["mask.nowhere"] = torch.zeros(1, dtype=torch.uint8)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    save_file(tensors, path, json.loads(header[8 : 8 + length])["__metadata__"])
    with pytest.raises(MalformedFile, match="its tensors are not those of an expert"):
        restored(folder, "a")


@pytest.mark.parametrize(
    ("changes", "fault", "words"),
    [
        ({"method": Mean()}, BadOption, "only emr and consensus"),
        ({"base": None}, CannotMerge, "give one"),
        ({"names": ["a", "b/../c"]}, BadSchema, "no name for an expert's file"),
        ({"names": ["a", "vector"]}, BadSchema, "is taken"),
        ({"names": ["a", "a.safetensors"]}, BadSchema, "is taken"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    changes: dict[str, Any], fault: type[Exception], words: str, folder: Path
) -> None:
    before = sorted(folder.iterdir())
    method = changes.pop("method", Emr())
    with pytest.raises(fault, match=words):
        merge(folder, method, **changes)
    assert sorted(folder.iterdir()) == before


def test_steps_around_the_merge_are_refused(folder: Path) -> None:
    job = job_of(folder, Emr())
    spec = type(job.spec)(method=Emr(), before=(Trim(),))
    with pytest.raises(BadOption, match="steps around the merge"):
        merge(folder, Emr(), spec=spec)


def test_places_that_are_taken(folder: Path) -> None:
    with pytest.raises(BadPath, match="exists"):
        merge(folder, Emr(), to="a")
    with pytest.raises(BadOption, match="choose another for the experts"):
        merge(folder, Emr(), to="out")
    assert not (folder / "out").exists()


def test_an_expert_that_nothing_is_left_of(folder: Path) -> None:
    """Its one change is against all others: said by name, and no half set stays."""
    for name, value in (("a", 5.0), ("b", 5.0), ("c", -1.0)):
        state = base()
        state["fc.bias"] = state["fc.bias"] + value
        save_file(state, folder / name / "model.safetensors")
    with pytest.raises(CannotMerge, match="c: cannot be given back"):
        merge(folder, Emr())
    assert (folder / "out").exists()
    assert not list(folder.glob("experts*"))


def test_going_on(folder: Path) -> None:
    """Experts of a finished merge; a set that is there is taken as done, another is not."""
    run_job(job_of(folder, Emr()))
    merge(folder, Emr(), resume=True)
    whole = tree(folder / "experts")
    report = run_expert_job(job_of(folder, Emr(), resume=True), folder / "experts")
    assert report.experts == NAMES
    assert tree(folder / "experts") == whole
    merge(folder, Emr(scale=0.5), "out2", "experts2")
    with pytest.raises(OtherPlan, match=r"its a\.safetensors is not of this merge"):
        run_expert_job(job_of(folder, Emr(), resume=True), folder / "experts2")
    (folder / "experts" / "b.safetensors").unlink()
    with pytest.raises(OtherPlan, match=r"its b\.safetensors is not of this merge"):
        run_expert_job(job_of(folder, Emr(), resume=True), folder / "experts")


def test_what_a_kill_left_is_made_anew(folder: Path) -> None:
    merge(folder, Emr(), "out1", "experts1")
    half = folder / "experts.partial"
    half.mkdir()
    (half / "a.safetensors").write_bytes(b"half")
    (half / ".b.safetensors.0123456789abcdef.tmp").write_bytes(b"half")
    with pytest.raises(BadPath, match="did not finish"):
        merge(folder, Emr())
    merge(folder, Emr(), resume=True)
    assert tree(folder / "experts") == tree(folder / "experts1")
    assert not half.exists()


def test_files_of_others_are_kept(folder: Path) -> None:
    half = folder / "experts.partial"
    half.mkdir()
    (half / "letter.txt").write_text("mine")
    with pytest.raises(BadPath, match=r"holds letter\.txt"):
        merge(folder, Emr(), resume=True)
    assert (half / "letter.txt").read_text() == "mine"
