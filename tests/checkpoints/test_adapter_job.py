"""Merges that leave as an adapter: the best of its rank, and nothing that it cannot hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.crafted import bits
from tests.checkpoints.folders import save_adapter
from tests.checkpoints.outputs import tree
from weft.checkpoints.adapter_job import run_adapter_job
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.errors import BadPath, TooLarge
from weft.checkpoints.job import Input, MergeJob, run_job
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.method import Method
from weft.merging.methods.knots import Knots
from weft.merging.methods.lora_lego import LoraLego
from weft.merging.methods.lora_svd import LoraSvd
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.methods.ties import Ties

State = dict[str, Tensor]
METHODS: list[Method] = [Mean(), TaskArithmetic(), Knots(), LoraSvd(), Ties(density=0.5)]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base() -> State:
    return {
        "l.q.weight": normal(1, 12, 9),
        "l.q.bias": normal(2, 12),
        "l.v.weight": normal(3, 7, 9),
        "l.norm.weight": normal(4, 9),
        "l.norm.bias": normal(5, 9),
        "embed.weight": normal(6, 11, 9),
        "conv.weight": normal(7, 4, 3, 2, 2),
        "gate": normal(8, 3),
        "steps": torch.tensor(4),
    }


def save(folder: Path, state: State) -> Path:
    folder.mkdir()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def tuned(seed: int, *names: str) -> State:
    """These tensors changed."""
    found = base()
    for place, name in enumerate(names, start=100 * seed):
        found[name] = found[name] + 0.1 * normal(place, *found[name].shape)
    return found


def factors(seed: int, rank: int, *modules: str) -> State:
    found = {}
    for place, module in enumerate(modules, start=50 * seed):
        rows, columns = base()[f"{module}.weight"].shape
        found[f"{module}.lora_A.weight"] = normal(place, rank, columns)
        found[f"{module}.lora_B.weight"] = normal(place + 7000, rows, rank)
    return found


def job(folder: Path, method: Method, *models: str, out: str = "out", **changes: Any) -> MergeJob:
    options: dict[str, Any] = {
        "spec": MergeSpec(method=method),
        "base": Input(path=folder / "base", name="base"),
        "models": tuple(Input(path=folder / name, name=name) for name in models),
        "output": folder / out,
        "recipe": {},
    }
    return MergeJob(**options | changes)


def added(path: Path) -> State:
    """What an adapter adds to the base, float64."""
    with AdapterReader(path, MemoryReader(base())) as reader:
        return {
            spec.name: next(
                reader.delta_ranges(spec.name, 0, spec.elements, spec.elements, torch.float64)
            ).reshape(spec.shape)
            for spec in reader.schema.parameters
        }


def dense(folder: Path, method: Method, *models: str) -> State:
    """The merged task vector of all parameters, from a model in float64."""
    run_job(job(folder, method, *models, out="dense", dtype="F64"))
    with open_checkpoint(folder / "dense") as reader:
        return {
            name: reader.read(name) - tensor.double()
            for name, tensor in base().items()
            if tensor.is_floating_point()
        }


def cut(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    best: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return best


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "base", base())
    return tmp_path


@pytest.fixture
def adapters(folder: Path) -> Path:
    save_adapter(folder / "x", factors(1, 2, "l.q", "l.v"))
    save_adapter(folder / "y", factors(2, 3, "l.q"), r=3)
    return folder


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("rank", [1, 3, 64])
def test_adapters_in_the_best_adapter_out(method: Method, rank: int, adapters: Path) -> None:
    report = run_adapter_job(job(adapters, method, "x", "y"), rank)
    found, exact = added(adapters / "out"), dense(adapters, method, "x", "y")
    lost = total = 0.0
    for name in ("l.q.weight", "l.v.weight"):
        best = cut(exact[name], rank)
        torch.testing.assert_close(found[name], best, rtol=1e-5, atol=1e-6)
        lost += float((exact[name] - best).square().sum())
        total += float(exact[name].square().sum())
    assert report.truncation_error == pytest.approx((lost / total) ** 0.5, rel=1e-5, abs=1e-6)
    assert report.adapter_rank is not None
    assert 1 <= report.adapter_rank <= rank
    if method != Ties(density=0.5):
        files = [load_file(adapters / name / "adapter_model.safetensors") for name in "xy"]
        assert report.bytes_read == sum(t.nbytes for file in files for t in file.values())
    for name in ("l.q.bias", "embed.weight", "conv.weight", "gate"):
        assert not found[name].any()


@pytest.mark.parametrize("method", [Mean(), Ties(density=0.5)], ids=repr)
@pytest.mark.parametrize("rank", [2, 64])
def test_checkpoints_in_the_best_adapter_out(method: Method, rank: int, folder: Path) -> None:
    for seed, name in enumerate("ab", start=1):
        save(folder / name, tuned(seed, "l.q.weight", "l.v.weight"))
    report = run_adapter_job(job(folder, method, "a", "b"), rank)
    found, exact = added(folder / "out"), dense(folder, method, "a", "b")
    lost = total = 0.0
    for name in ("l.q.weight", "l.v.weight"):
        best = cut(exact[name], rank)
        torch.testing.assert_close(found[name], best, rtol=1e-5, atol=1e-6)
        lost += float((exact[name] - best).square().sum())
        total += float(exact[name].square().sum())
    assert report.truncation_error == pytest.approx((lost / total) ** 0.5, rel=1e-5, abs=1e-6)
    assert report.adapter_rank == min(rank, 9)
    assert report.tensors == 4


def test_factors_of_lego_are_those_of_the_adapters(adapters: Path) -> None:
    """The units that are clustered are the adapters', in the adapter and in the model alike."""
    method = LoraLego(rank=2)
    run_adapter_job(job(adapters, method, "x", "y"), 64)
    exact = dense(adapters, method, "x", "y")
    found = added(adapters / "out")
    for name in ("l.q.weight", "l.v.weight"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-5, atol=1e-6)


def test_no_dense_matrix_where_there_are_factors(
    adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither into an adapter nor into a model."""
    for name in ("weft.checkpoints.adapter_merge", "weft.merging.factored"):
        monkeypatch.setattr(f"{name}.from_dense", None)
    monkeypatch.setattr("weft.merging.factors.LowRank.dense", None)
    run_adapter_job(job(adapters, LoraSvd(), "x", "y"), 2)
    run_job(job(adapters, LoraSvd(), "x", "y", out="model"))


def test_order_and_threads_change_no_byte(adapters: Path) -> None:
    save(adapters / "a", tuned(1, "l.q.weight", "l.norm.weight"))
    for number, models in enumerate((("x", "y"), ("x", "y", "a"))):
        run_adapter_job(job(adapters, Mean(), *models, out=f"one{number}"), 2)
        again = job(adapters, Mean(), *models[::-1], out=f"two{number}", threads=3)
        run_adapter_job(again, 2)
        assert tree(adapters / f"one{number}") == tree(adapters / f"two{number}")


def test_the_file_is_an_adapter_as_peft_writes_it(adapters: Path) -> None:
    report = run_adapter_job(job(adapters, Mean(), "x", "y", dtype="BF16"), 4)
    config = json.loads((adapters / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["target_modules"] == ["l.q", "l.v"]
    assert config["modules_to_save"] is None
    assert config["base_model_name_or_path"] == "somebody/base"
    assert config["task_type"] == "CAUSAL_LM"
    tensors = load_file(adapters / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["base_model.model.l.q.lora_A.weight"].shape == (4, 9)
    assert tensors["base_model.model.l.v.lora_B.weight"].shape == (7, 2)
    with AdapterReader(adapters / "out", MemoryReader(base())) as reader:
        assert reader.identity() == report.digest


def test_other_modules_are_saved_whole(folder: Path) -> None:
    changed = ("l.v.weight", "l.norm.weight", "embed.weight", "conv.weight")
    for seed, name in enumerate("ab", start=1):
        save(folder / name, tuned(seed, *changed))
    run_adapter_job(job(folder, Mean(), "a", "b"), 64)
    config = json.loads((folder / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["conv", "embed", "l.norm"]
    assert config["target_modules"] == ["l.v"]
    run_job(job(folder, Mean(), "a", "b", out="dense"))
    merged = load_file(folder / "dense" / "model.safetensors")
    with AdapterReader(folder / "out", MemoryReader(base())) as reader:
        for name in ("l.norm.weight", "l.norm.bias", "embed.weight", "conv.weight", "gate"):
            assert bits(reader.read(name)) == bits(merged[name])


def test_a_linear_layer_whose_bias_alone_changes_is_saved_whole(folder: Path) -> None:
    save(folder / "a", tuned(1, "l.q.bias", "l.v.weight"))
    run_adapter_job(job(folder, Mean(), "a"), 64)
    with AdapterReader(folder / "out", MemoryReader(base())) as reader:
        assert reader.replaced == {"l.q.weight", "l.q.bias"}
        assert bits(reader.read("l.q.bias")) == bits(tuned(1, "l.q.bias")["l.q.bias"])


def test_what_adapters_hold_whole_stays_whole(adapters: Path) -> None:
    """A new head, say, and factors of an embedding and of a convolution."""
    own = {
        **factors(5, 2, "l.q"),
        "l.v.weight": normal(60, 7, 9),
        "embed.lora_embedding_A": normal(61, 2, 11),
        "embed.lora_embedding_B": normal(62, 9, 2),
        "conv.lora_A.weight": normal(63, 2, 3, 2, 2),
        "conv.lora_B.weight": normal(64, 4, 2, 1, 1),
    }
    save_adapter(adapters / "z", own, modules_to_save=["v"])
    for method in (Mean(), Ties()):
        out = f"out-{type(method).__name__}"
        run_adapter_job(job(adapters, method, "x", "z", out=out), 64)
        found = added(adapters / out)
        run_job(job(adapters, method, "x", "z", out=f"dense-{out}", dtype="F64"))
        merged = load_file(adapters / f"dense-{out}" / "model.safetensors")
        for name, tensor in base().items():
            if tensor.is_floating_point():
                exact = merged[name] - tensor.double()
                torch.testing.assert_close(found[name], exact, rtol=1e-5, atol=1e-5)
        with AdapterReader(adapters / out, MemoryReader(base())) as reader:
            assert reader.replaced == {"l.v.weight"}
            assert reader.embeddings == {"embed.weight"}


def test_matrices_that_lie_the_other_way_round(folder: Path) -> None:
    """As GPT-2's: the base has (in, out), factors are (rank, in) and (out, rank)."""
    for seed, name in enumerate("xy", start=1):
        own = {
            "l.q.lora_A.weight": normal(seed, 2, 12),
            "l.q.lora_B.weight": normal(seed + 10, 9, 2),
        }
        save_adapter(folder / name, own, fan_in_fan_out=True)
    run_adapter_job(job(folder, Mean(), "x", "y"), 64)
    tensors = load_file(folder / "out" / "adapter_model.safetensors")
    assert tensors["base_model.model.l.q.lora_A.weight"].shape == (4, 12)
    config = json.loads((folder / "out" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    exact = dense(folder, Mean(), "x", "y")["l.q.weight"]
    torch.testing.assert_close(added(folder / "out")["l.q.weight"], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("l.q.weight", "l.q.bias"), "cannot hold what the merge changes in l.q.bias:"),
        (("l.q.weight", "gate"), "changes in gate:"),
        ((), "changes nothing of the base"),
    ],
)
def test_what_an_adapter_cannot_hold(changed: tuple[str, ...], words: str, folder: Path) -> None:
    save(folder / "a", tuned(1, *changed))
    with pytest.raises(CannotMerge, match=words):
        run_adapter_job(job(folder, Mean(), "a"), 4)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "base"]


def test_mistakes(folder: Path) -> None:
    save(folder / "a", tuned(1, "l.q.weight"))
    for rank in (0, -1, 2**17):
        with pytest.raises(BadOption, match=f"rank of the adapter: found {rank}"):
            run_adapter_job(job(folder, Mean(), "a"), rank)
    with pytest.raises(BadOption, match="give one"):
        run_adapter_job(job(folder, Mean(), "a", base=None), 2)
    with pytest.raises(BadPath, match="exists already"):
        run_adapter_job(job(folder, Mean(), "a", out="a"), 2)
    with pytest.raises(TooLarge, match=r"'l\.q\.weight': to find its factors"):
        run_adapter_job(job(folder, Mean(), "a", memory_bytes=2000), 2)


@pytest.mark.parametrize("name", ["l.q.weight", "l.norm.weight"])
def test_what_is_not_finite_is_named(name: str, folder: Path) -> None:
    state = tuned(1, "l.q.weight")
    state[name].view(-1)[2] = torch.inf
    save(folder / "a", state)
    with pytest.raises(NonFinite, match=f"a, tensor '{name}': inf found"):
        run_adapter_job(job(folder, Mean(), "a"), 2)
    assert not (folder / "out").exists()
