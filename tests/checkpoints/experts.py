"""Small fine-tuned models on disk, and merges of them with experts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.checkpoints.expert_files import Origin
from weft.checkpoints.expert_job import run_expert_job
from weft.checkpoints.expert_reader import ExpertReader
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.job import Input, MergeJob, MergeReport
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.reader import open_checkpoint
from weft.merging.method import Method
from weft.merging.precision import Precision

State = dict[str, Tensor]
NAMES = ("a", "b", "c")


def base(dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "fc.weight": normal(70, 33),
        "fc.bias": normal(13),
        "head.weight": normal(5, 9),
        "scale": normal(1).reshape(()),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "norm.running_mean": torch.zeros(5),
        "norm.running_var": torch.ones(5),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def tuned(seed: int, dtype: torch.dtype = torch.float32) -> State:
    """Sparse changes, as experts of unlike tasks have them; a buffer, a statistic."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in base(dtype).items():
        if "norm" in name or not tensor.numel():
            found[name] = tensor
            continue
        change = torch.randn(tensor.shape, generator=generator)
        kept = torch.rand(tensor.shape, generator=generator) < 0.15
        found[name] = (tensor.float() + 0.1 * change * kept).to(dtype)
    found["norm.num_batches_tracked"] = torch.tensor(7 + seed)
    found["norm.running_mean"] = torch.full((5,), float(seed))
    return found


def write_models(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """`base`, and NAMES tuned on it."""
    for seed, name in enumerate(("base", *NAMES)):
        (folder / name).mkdir()
        state = tuned(seed, dtype) if seed else base(dtype)
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})


def job_of(folder: Path, method: Method, out: str = "out", **changes: Any) -> MergeJob:
    names: Sequence[str] = changes.pop("names", NAMES)
    weights: Sequence[float] = changes.pop("weights", [1.0] * len(names))
    precision = changes.pop("precision", Precision.EXACT)
    options: dict[str, Any] = {
        "spec": MergeSpec(method=method, precision=precision),
        "base": Input(path=folder / "base", name="base"),
        "models": tuple(
            Input(path=folder / name, name=name, weight=weight)
            for name, weight in zip(names, weights, strict=True)
        ),
        "output": folder / out,
        "recipe": {},
    }
    return MergeJob(**options | changes)


def merge(
    folder: Path, method: Method, out: str = "out", to: str = "experts", **changes: Any
) -> MergeReport:
    """A merge with experts, in folders of these names."""
    return run_expert_job(job_of(folder, method, out, **changes), folder / to)


def restored(folder: Path, name: str, out: str = "out", to: str = "experts") -> State:
    """The full model that an expert gives."""
    with open_checkpoint(folder / out) as merged, open_checkpoint(folder / "base") as origin:
        ends = [Origin(reader, model_digest(reader)) for reader in (merged, origin)]
        with ExpertReader(folder / to / f"{name}.safetensors", ends[0], ends[1]) as reader:
            return {spec.name: reader.read(spec.name) for spec in reader.schema}


def loaded(path: Path) -> State:
    return dict(load_file(path / "model.safetensors"))


def deltas(state: Mapping[str, Tensor], origin: Mapping[str, Tensor]) -> State:
    """Task vector of all parameters, float64."""
    return {
        name: state[name].double() - origin[name].double() for name in origin if "norm" not in name
    }


def distance(one: State, other: State) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))
