"""One way in: every layout of the same tensors reads the same and has one digest."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.crafted import bits, contents, model
from tests.checkpoints.folders import save_adapter, save_distributed, save_sharded
from weft.checkpoints.artifacts import put_model
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.errors import (
    MalformedFile,
    MissingCheckpoint,
    SchemaMismatch,
    UnsupportedFile,
    WrongBase,
)
from weft.checkpoints.inputs import Format, describe, format_of, model_digest, open_input
from weft.checkpoints.reader import INDEX_NAME, MemoryReader
from weft.checkpoints.store import Store


@pytest.fixture
def layouts(tmp_path: Path) -> dict[str, Path]:
    """The crafted model in every layout that needs no base."""
    tensors = model()
    paths = {name: tmp_path / name for name in ("one", "shards", "distributed", "ranks")}
    for name in ("one", "shards"):
        paths[name].mkdir()
    save_file(tensors, paths["one"] / "model.safetensors", {"format": "pt"})
    homes = {name: f"m-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for home in set(homes.values()):
        part = {name: tensor for name, tensor in tensors.items() if homes[name] == home}
        save_file(part, paths["shards"] / home)
    (paths["shards"] / INDEX_NAME).write_text(json.dumps({"weight_map": homes}))
    save_distributed(paths["distributed"], {"model": tensors, "step": 3})
    save_sharded(paths["ranks"], tensors, {"embed.weight": [((0, 0), (33, 3)), ((0, 3), (33, 4))]})
    return {**paths, "file": paths["one"] / "model.safetensors"}


def test_every_layout_is_the_same_model(layouts: dict[str, Path], tmp_path: Path) -> None:
    expected = {name: bits(tensor) for name, tensor in model().items()}
    digest = put_model(Store(tmp_path / "store"), MemoryReader(model()))
    for name, path in layouts.items():
        prefix = "model." if name == "distributed" else ""
        with open_input(path, prefix=prefix) as reader:
            assert isinstance(reader, RangeReader)
            assert contents(reader) == expected
            assert model_digest(reader) == digest
    with MemoryReader(model(1)) as other:
        assert model_digest(other) != digest


def test_delta_and_adapter_need_their_base(layouts: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(
        tmp_path / "a",
        {"fc.lora_A.weight": torch.ones(2, 3), "fc.lora_B.weight": torch.ones(5, 2)},
    )
    with open_input(layouts["shards"]) as base:
        write_delta(tmp_path / "d", MemoryReader(model(1)), base, model_digest(base), "lossless")
        for folder, expected in (("a", model()["fc.weight"] + 4), ("d", model(1)["fc.weight"])):
            assert format_of(tmp_path / folder).needs_base
            with pytest.raises(WrongBase, match="--base"):
                open_input(tmp_path / folder)
            with open_input(tmp_path / folder, base) as reader:
                torch.testing.assert_close(reader.read("fc.weight"), expected)
        with open_input(tmp_path / "d", base, base_digest=model_digest(base)) as reader:
            assert contents(reader) == {name: bits(tensor) for name, tensor in model(1).items()}
        with pytest.raises(WrongBase, match="against"):
            open_input(tmp_path / "d", base, base_digest="0" * 64)
    with pytest.raises(WrongBase, match="against"):
        open_input(tmp_path / "d", MemoryReader(model(2)))
    with pytest.raises(SchemaMismatch, match="another base"):
        open_input(tmp_path / "a", MemoryReader({"x": torch.ones(1)}))


def test_formats_have_names(layouts: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for name, path in layouts.items():
        with open_input(path) as reader:
            found[name] = (format_of(path), describe(reader))
    assert found == {
        "one": (Format.SAFETENSORS, "safetensors"),
        "file": (Format.SAFETENSORS, "safetensors"),
        "shards": (Format.SAFETENSORS, "safetensors, sharded"),
        "distributed": (Format.DISTRIBUTED, "torch.distributed.checkpoint"),
        "ranks": (Format.DISTRIBUTED, "torch.distributed.checkpoint"),
    }
    save_adapter(tmp_path / "a", {})
    with open_input(tmp_path / "a", MemoryReader(model())) as reader:
        assert describe(reader) == "PEFT adapter"


def test_everything_else_is_one_clear_error(layouts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingCheckpoint, match="no such file or folder"):
        open_input(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingCheckpoint, match=r"no \.safetensors file"):
        open_input(tmp_path / "empty")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnsupportedFile, match="never opens pickles"):
        open_input(tmp_path / "empty")
    with pytest.raises(UnsupportedFile, match="zip archive"):
        open_input(layouts["ranks"] / "__0_0.distcp")
    (tmp_path / "half").mkdir()
    shutil.copy(layouts["file"], tmp_path / "half" / "adapter_model.safetensors")
    with pytest.raises(MissingCheckpoint, match=r"half: holds .* and no adapter_config\.json"):
        open_input(tmp_path / "half", MemoryReader(model()))
    (tmp_path / "text").write_text("hello, this is not a model")
    with pytest.raises(MalformedFile, match="text: not a safetensors file"):
        open_input(tmp_path / "text")
    shutil.copy(layouts["file"], tmp_path / "empty" / "adapter_config.json")
    with pytest.raises(MalformedFile, match="adapter_config"):
        open_input(tmp_path / "empty", MemoryReader(model()))
