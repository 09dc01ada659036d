"""Layers of several checkpoints read as one: which tensor comes from where, byte for byte."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from weft.checkpoints.blocks import MemoryReader, RangeReader
from weft.checkpoints.errors import BadPath, MissingTensor, SchemaMismatch
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.stacked import Part, StackedReader


def model(layers: int, mark: float, *, stack: str = "model.layers") -> dict[str, Tensor]:
    """A model whose every value says which model and which layer it is of."""
    tensors = {
        "model.embed_tokens.weight": torch.full((5, 2), mark),
        "model.norm.weight": torch.full((2,), mark + 0.5),
        "lm_head.weight": torch.full((5, 2), mark + 0.25),
    }
    for layer in range(layers):
        tensors[f"{stack}.{layer}.mlp.weight"] = torch.full((3, 2), mark + layer)
        tensors[f"{stack}.{layer}.norm.bias"] = torch.tensor([mark, layer], dtype=torch.bfloat16)
    return tensors


def stacked(*parts: tuple[dict[str, Tensor], int, int]) -> StackedReader:
    return StackedReader([Part(MemoryReader(m), first, stop) for m, first, stop in parts])


def marks(reader: RangeReader, layers: int) -> list[float]:
    return [float(reader.read(f"model.layers.{layer}.mlp.weight")[0, 0]) for layer in range(layers)]


def test_layers_are_consecutive_and_the_rest_is_of_the_ends() -> None:
    a, b = model(4, 100.0), model(4, 200.0)
    reader = stacked((a, 0, 3), (b, 1, 4))
    assert reader.layers == 6
    assert marks(reader, 6) == [100.0, 101.0, 102.0, 201.0, 202.0, 203.0]
    assert len(reader.schema) == 3 + 2 * 6
    assert torch.equal(reader.read("model.embed_tokens.weight"), a["model.embed_tokens.weight"])
    assert torch.equal(reader.read("model.norm.weight"), b["model.norm.weight"])
    assert torch.equal(reader.read("lm_head.weight"), b["lm_head.weight"])
    assert reader.schema["model.layers.5.norm.bias"].dtype == "BF16"


def test_the_whole_of_one_is_that_one() -> None:
    tensors = model(3, 1.0)
    whole = MemoryReader(tensors, {"format": "pt"})
    reader = StackedReader([Part(whole, 0, 3)])
    assert reader.schema == whole.schema
    assert dict(reader.metadata) == {"format": "pt"}
    for name in whole.schema.names:
        assert torch.equal(reader.read(name), tensors[name])


cuts = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 5)).map(
        lambda row: (row[0], min(row[1], row[2] - 1), row[2])
    ),
    min_size=1,
    max_size=6,
)


@given(cuts)
def test_any_stack_holds_what_was_asked_for(parts: Sequence[tuple[int, int, int]]) -> None:
    models = [model(5, 100.0 * mark) for mark in range(3)]
    reader = stacked(*((models[which], first, stop) for which, first, stop in parts))
    expected = [
        100.0 * which + layer for which, first, stop in parts for layer in range(first, stop)
    ]
    assert marks(reader, len(expected)) == expected
    assert len(reader.schema) == 3 + 2 * len(expected)


def test_ranges_of_a_file_from_several_threads(tmp_path: Path) -> None:
    weights = torch.arange(3 * 4096, dtype=torch.float32).reshape(3, 4096)
    save_file({f"h.{i}.w": weights[i].clone() for i in range(3)}, tmp_path / "m.safetensors")
    source = open_checkpoint(tmp_path / "m.safetensors")
    with StackedReader([Part(source, 1, 3), Part(source, 0, 2)]) as reader:

        def read(layer: int) -> Tensor:
            blocks = reader.ranges(f"h.{layer}.w", 10, 4000, 77)
            return torch.cat([block.clone() for block in blocks])

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, [0, 1, 2, 3] * 8))
        for place, layer in enumerate([1, 2, 0, 1] * 8):
            assert torch.equal(found[place], weights[layer, 10:4000])
    with pytest.raises(BadPath, match="read after the reader was closed"):
        source.read("h.0.w")
    reader.close()


@pytest.mark.parametrize(
    ("first", "stop"), [(0, 5), (-1, 2), (2, 2), (3, 1), (4, 5), (0, 10**12)], ids=str
)
def test_a_range_that_is_not_there(first: int, stop: int) -> None:
    with pytest.raises(
        SchemaMismatch,
        match=rf"^tensors in memory: layers {first} to {stop} were asked for; expected a range "
        r"within its 4 layers",
    ):
        stacked((model(4, 0.0), first, stop))


def test_a_layer_that_is_missing_in_the_middle() -> None:
    tensors = {name: t for name, t in model(4, 0.0).items() if ".2." not in name}
    with pytest.raises(SchemaMismatch, match="layers 1 to 4 were asked for"):
        stacked((tensors, 1, 4))
    assert stacked((tensors, 0, 2)).layers == 2


def test_models_that_do_not_stack() -> None:
    with pytest.raises(SchemaMismatch, match=r"layers are those of 'h', expected 'model\.layers'"):
        stacked((model(2, 0.0), 0, 2), (model(2, 0.0, stack="h"), 0, 2))
    with pytest.raises(SchemaMismatch, match="stacks of layers: found none"):
        stacked(({"w": torch.zeros(1)}, 0, 1))
    both = {**model(2, 0.0), **model(2, 0.0, stack="visual.blocks")}
    with pytest.raises(SchemaMismatch, match=r"found 'model\.layers' and 'visual\.blocks'"):
        stacked((both, 0, 2))
    with pytest.raises(SchemaMismatch, match="no part was given"):
        StackedReader([])


def test_a_tensor_that_is_not_in_the_stack() -> None:
    reader = stacked((model(3, 0.0), 1, 2))
    with pytest.raises(MissingTensor, match=r"model\.layers\.1\.mlp\.weight"):
        reader.read("model.layers.1.mlp.weight")
