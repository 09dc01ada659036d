"""Small models written as output folders, and what lies in a folder afterwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weft.checkpoints.header import Json
from weft.checkpoints.output import OutputFolder
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.sidecars import Sidecar, find_sidecars

PLAN: Mapping[str, Json] = {"method": "mean", "weights": [0.5, 0.5], "inputs": {"a": "1", "b": "2"}}
SHARD_BYTES = 2500
CONFIG = '{\n  "model_type": "tiny",\n  "torch_dtype": "float32"\n}\n'


def tensors() -> dict[str, Tensor]:
    """Five tensors that fill three shards of `SHARD_BYTES`: a; b, c, d; e."""
    sizes = {"a": 600, "b": 100, "c": 0, "d": 300, "e": 400}
    return {
        name: torch.arange(size, dtype=torch.float32) + number
        for number, (name, size) in enumerate(sizes.items())
    }


def companions(folder: Path) -> tuple[Sidecar, ...]:
    """A configuration and a tokenizer, as a model's folder has them."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(CONFIG)
    (folder / "tokenizer.json").write_bytes(bytes(range(256)))
    return find_sidecars(folder)


def write_output(
    path: Path,
    model: Mapping[str, Tensor] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    plan: Mapping[str, Json] = PLAN,
    resume: bool = False,
    sidecars: Sequence[Sidecar] = (),
) -> tuple[OutputFolder, tuple[TensorSpec, ...]]:
    """Write what remains of a model; returns the output and what remained."""
    reader = MemoryReader(tensors() if model is None else model)
    with OutputFolder(
        path,
        reader.schema,
        shard_bytes=shard_bytes,
        plan=plan,
        resume=resume,
        sidecars=sidecars,
    ) as output:
        remaining = output.remaining
        for spec in remaining:
            output.write(spec.name, reader.blocks(spec.name))
    return output, remaining


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder; no folder holds folders here."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def around(path: Path) -> list[str]:
    """What an output and its work left in their folder: `out`, `out.partial`, or neither."""
    return sorted(p.name for p in path.parent.iterdir() if p.name.startswith(path.name))
