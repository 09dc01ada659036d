"""Small streams of small models, and what they come to."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.checkpoints.reader import INDEX_NAME, open_checkpoint
from weft.node.continual import files
from weft.node.continual.spec import Keep, StreamSpec
from weft.node.continual.stream import Stream

Model = dict[str, Tensor]

MEMORY = Path("/dev/shm")

SHAPES: Mapping[str, tuple[int, ...]] = {
    "embed.weight": (7, 5),
    "layers.0.empty": (0, 4),
    "layers.0.norm.weight": (6,),
    "layers.0.scale": (),
    "layers.0.up.weight": (6, 5),
    "layers.1.conv.weight": (3, 2, 2, 2),
    "layers.1.down.weight": (5, 6),
}
"""Embeddings, nothing at all, vectors, a number, matrices, a convolution."""

STATISTICS = "layers.1.running_mean"
COUNTER = "layers.1.num_batches_tracked"


def model(seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Model:
    """Values of every shape; beside them running statistics and a counter."""
    generator = torch.Generator().manual_seed(seed)

    def noise(shape: Sequence[int]) -> Tensor:
        return (torch.randn(tuple(shape), generator=generator) * scale).to(dtype)

    found = {name: noise(shape) for name, shape in SHAPES.items()}
    found[STATISTICS] = noise((4,))
    found[COUNTER] = torch.tensor(seed)
    return found


def tuned(seed: int, dtype: torch.dtype = torch.float32, *, strength: float = 0.1) -> Model:
    """The model of seed 0, moved a little; its statistics and its counter are its own."""
    base, step = model(0, dtype), model(seed, torch.float32)
    return {
        name: (tensor.double() + strength * step[name].double()).to(tensor.dtype)
        if tensor.is_floating_point()
        else step[name]
        for name, tensor in base.items()
    }


def save(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A model folder, not synced."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    return folder


def save_models(folder: Path, count: int, dtype: torch.dtype = torch.float32) -> list[Path]:
    """A base and some that were tuned from it: `base`, `c1`, `c2`, ..."""
    save(folder / "base", model(0, dtype))
    (folder / "base" / "config.json").write_text('{"model_type": "tiny"}\n')
    return [save(folder / f"c{seed}", tuned(seed, dtype)) for seed in range(1, count + 1)]


def begun(
    folder: Path,
    models: Path,
    method: str = "mean",
    *,
    keep: Keep = Keep.LOSSLESS,
    **fields: object,
) -> Path:
    """A new stream on the base among some models."""
    spec = StreamSpec(method=method, keep=keep, **fields)  # type: ignore[arg-type]
    files.begin(folder, models / "base", spec)
    return folder


def offered(stream: Stream, paths: Sequence[Path]) -> None:
    """Take all of these, each absorbed before the next comes."""
    for path in paths:
        stream.offer(path)
        stream.drain()


def outcome(folder: Path) -> tuple[str, str]:
    """Digests of the state and of the head that a stream has come to."""
    with Stream(folder) as stream:
        return newest(stream)


def newest(stream: Stream) -> tuple[str, str]:
    """Digests of its state and its head."""
    generation = stream.queue.generation
    return generation.state, generation.head


def read_head(folder: Path) -> Model:
    """The merged model as it is published, in memory of its own."""
    with open_checkpoint(folder / files.HEAD) as reader:
        return {name: reader.read(name) for name in reader.schema.names}


def published(folder: Path) -> tuple[str, Model]:
    """The head as any other program opens it, by safetensors; and the digest that it claims."""
    home = folder / files.HEAD
    index = json.loads((home / INDEX_NAME).read_bytes())
    found: Model = {}
    for shard in sorted(set(index["weight_map"].values())):
        found |= load_file(home / shard)
    assert found.keys() == index["weight_map"].keys()
    return str(index["metadata"]["weft_digest"]), found


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether two models are equal, bit for bit (no NaN among them)."""
    return found.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
        for name, tensor in found.items()
    )


@contextmanager
def in_memory(prefix: str) -> Iterator[Path]:
    """A folder in memory where there is one: no time is spent on syncing."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=f"weft-{prefix}-", dir=place))
    try:
        yield folder
    finally:
        rmtree(folder)


def tiny(value: float) -> Model:
    """Two tensors in two shards (of `TINY_SHARD` bytes), few enough for thousands of streams."""
    return {
        "a.weight": torch.full((3, 2), value),
        "b.bias": torch.arange(4.0) * value,
    }


TINY_SHARD = 32


def save_tiny(folder: Path, count: int) -> list[Path]:
    """A tiny base, and contributions `c1`, `c2`, ... whose numbers are the values."""
    save(folder / "base", tiny(0.5))
    (folder / "base" / "config.json").write_text("{}")
    return [save(folder / f"c{number}", tiny(0.5 + number)) for number in range(1, count + 1)]
