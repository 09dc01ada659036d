"""Checkpoints to merge: a base and fine-tunes of it, seeded, in shards, made once.

    python benchmarks/peers/checkpoints.py FOLDER s1 [--dtype float32]

Weights are normal with 0.02; a fine-tune adds a change whose size differs from tensor to
tensor, three quarters of it its own and the rest shared by all.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FINE_TUNES = 4
STAMP = "complete"
CHANGE = 0.001
"""Of a fine-tune, in the middle of the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A Llama model's shape and in how many files it lies."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    shards: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes."""
        hidden, keys = self.hidden, self.hidden // self.heads * self.key_heads
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            start = f"model.layers.{layer}"
            yield f"{start}.input_layernorm.weight", (hidden,)
            yield f"{start}.mlp.down_proj.weight", (hidden, self.inner)
            yield f"{start}.mlp.gate_proj.weight", (self.inner, hidden)
            yield f"{start}.mlp.up_proj.weight", (self.inner, hidden)
            yield f"{start}.post_attention_layernorm.weight", (hidden,)
            yield f"{start}.self_attn.k_proj.weight", (keys, hidden)
            yield f"{start}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{start}.self_attn.q_proj.weight", (hidden, hidden)
            yield f"{start}.self_attn.v_proj.weight", (keys, hidden)
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocabulary, hidden)

    @property
    def parameters(self) -> int:
        """How many."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self, dtype: str) -> dict[str, object]:
        """What the Hugging Face libraries want to know."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
        }


SIZES = {
    "tiny": Size(vocabulary=171, hidden=64, inner=96, layers=2, heads=4, key_heads=2, shards=1),
    # 125 M parameters, 111 tensors.
    "s1": Size(
        vocabulary=26000, hidden=768, inner=2048, layers=12, heads=12, key_heads=12, shards=3
    ),
    # TinyLlama: 1.1 B parameters, 201 tensors.
    "s2": Size(
        vocabulary=32000, hidden=2048, inner=5632, layers=22, heads=32, key_heads=4, shards=5
    ),
}


@dataclass(frozen=True, slots=True)
class Models:
    """Folders of a base and its fine-tunes."""

    base: Path
    tuned: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """The base first."""
        return (self.base, *self.tuned)

    def warm(self) -> None:
        """Read every file once, so that what is measured is not the disk."""
        for path in self.all:
            for file in path.iterdir():
                with file.open("rb", buffering=0) as opened:
                    while opened.read(2**24):
                        pass


def models_of(cache: Path, size: str, dtype: str = "bfloat16", change: float = CHANGE) -> Models:
    """The models of a size, made in a process of their own where they are not there."""
    folder = cache / "models" / f"{size}-{dtype}-{change:g}"
    if not (folder / STAMP).exists():
        print(f"making the models {size}, {dtype}", file=sys.stderr, flush=True)
        options = ["--dtype", dtype, "--change", str(change)]
        subprocess.run([sys.executable, __file__, str(folder), size, *options], check=True)
    return Models(folder / "base", tuple(folder / f"tune{i}" for i in range(FINE_TUNES)))


def make(folder: Path, size: Size, dtype: str, change: float) -> None:
    """Write the base and the fine-tunes, a tensor at a time; shard by shard."""
    import torch
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    names = ["base", *(f"tune{i}" for i in range(FINE_TUNES))]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(names) + 1)]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(_parts(size), start=1):
        held: list[dict[str, torch.Tensor]] = [{} for _ in names]
        for place, (name, shape) in enumerate(part):
            start = 0.02 * torch.randn(shape, generator=generators[0])
            shared = torch.randn(shape, generator=generators[1])
            width = change * (0.5 + 0.5 * (place % 3))
            held[0][name] = start.to(getattr(torch, dtype))
            for own, generator in zip(held[1:], generators[2:], strict=True):
                step = torch.randn(shape, generator=generator).mul_(3).add_(shared)
                own[name] = step.mul_(width / 4).add_(start).to(getattr(torch, dtype))
        file = f"model-{number:05}-of-{size.shards:05}.safetensors"
        weight_map |= {name: file for name, _ in part}
        for name, tensors in zip(names, held, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / name / file, metadata={"format": "pt"})
    total = size.parameters * getattr(torch, dtype).itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    for name in names:
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / name / "config.json").write_text(json.dumps(size.config(dtype)))
    os.sync()
    (folder / STAMP).touch()


def _parts(size: Size) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """The tensors of each file, about as many parameters in each."""
    room = size.parameters / size.shards
    part: list[tuple[str, tuple[int, ...]]] = []
    taken, cut = 0, 1
    for name, shape in size.tensors():
        part.append((name, shape))
        taken += math.prod(shape)
        if cut < size.shards and taken >= cut * room:
            yield part
            part, cut = [], cut + 1
    yield part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--change", type=float, default=CHANGE)
    given = parser.parse_args()
    make(given.folder, SIZES[given.size], given.dtype, given.change)


if __name__ == "__main__":
    main()
