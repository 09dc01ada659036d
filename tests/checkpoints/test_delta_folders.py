"""Delta folders: one artifact alone in a folder, read on its base and on no other."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints.crafted import bits, contents, model
from tests.checkpoints.stores import fetch, flip
from weft.checkpoints.artifacts import (
    export_checkpoint,
    open_contribution,
    put_delta,
    put_model,
)
from weft.checkpoints.codecs.registry import names
from weft.checkpoints.delta_folders import DeltaFolderReader, read_manifest, write_delta
from weft.checkpoints.errors import (
    BadEncoding,
    BadPath,
    CorruptArtifact,
    MissingCheckpoint,
    SchemaMismatch,
    WrongBase,
    WrongKind,
)
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import BLOCK_ELEMENTS
from weft.checkpoints.store import Store
from weft.errors import WeftError

LONG = BLOCK_ELEMENTS + 1000
CLOSE = {"int8": 0.05}
"""Codecs that lose something, and how much of a normal deviate's half at most."""


def finetuned(base: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t + 1 if t.dtype == torch.float32 else t for n, t in base.items()}


def long_model() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"w": torch.randn(LONG, generator=generator).bfloat16(), "v": torch.arange(10.0)}


def write(folder: Path, base: dict[str, Tensor], changed: dict[str, Tensor], codec: str) -> str:
    origin = MemoryReader(base)
    return write_delta(folder, MemoryReader(changed), origin, model_digest(origin), codec)


def opened(folder: Path, base: dict[str, Tensor]) -> DeltaFolderReader:
    origin = MemoryReader(base)
    return DeltaFolderReader(folder, origin, model_digest(origin))


@pytest.mark.parametrize("codec", names())
def test_there_and_back(codec: str, tmp_path: Path) -> None:
    base = model()
    changed = finetuned(base)
    digest = write(tmp_path / "d", base, changed, codec)
    assert sorted(os.listdir(tmp_path / "d")) == ["manifest.json", "payload.safetensors"]
    with opened(tmp_path / "d", base) as reader:
        assert reader.digest == digest == read_manifest(tmp_path / "d").digest
        found = contents(reader)
        if codec == "lossless":
            assert found == {name: bits(tensor) for name, tensor in changed.items()}
        for name, tensor in changed.items():
            torch.testing.assert_close(reader.read(name).double(), tensor.double(), equal_nan=True)


@pytest.mark.parametrize("codec", names())
def test_any_range_of_several_blocks(codec: str, tmp_path: Path) -> None:
    base = long_model()
    changed = {name: tensor * 1.5 for name, tensor in base.items()}
    write(tmp_path / "d", base, changed, codec)
    with opened(tmp_path / "d", base) as reader:
        whole = reader.read("w")
        if codec in CLOSE:
            assert float((whole - changed["w"]).abs().max()) < CLOSE[codec]
        else:
            assert torch.equal(whole, changed["w"])
        for start, stop, step in [
            (0, LONG, LONG),
            (0, LONG, BLOCK_ELEMENTS),
            (BLOCK_ELEMENTS - 7, BLOCK_ELEMENTS + 9, 5),
            (BLOCK_ELEMENTS - 70_000, LONG, 65_536),
            (17, 18, 1),
            (5, 5, 1),
        ]:
            blocks = [block.clone() for block in reader.ranges("w", start, stop, step)]
            assert all(block.numel() == step for block in blocks[:-1])
            assert torch.equal(torch.cat([torch.empty(0).bfloat16(), *blocks]), whole[start:stop])


def test_is_what_a_store_holds(tmp_path: Path) -> None:
    """The same digest as in a store, and a store takes it in as it is."""
    base, changed = model(), finetuned(model())
    store = Store(tmp_path / "store")
    against = put_model(store, MemoryReader(base))
    expected = put_delta(store, MemoryReader(changed), MemoryReader(base), against, "lossless")
    digest = write(tmp_path / "d", base, changed, "lossless")
    assert digest == expected
    other = Store(tmp_path / "other")
    put_model(other, MemoryReader(base))
    home = other.root / "objects" / digest[:2] / digest
    home.parent.mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "d", home)
    assert [verdict.fault for verdict in other.verify()] == ["", ""]
    third = Store(tmp_path / "third")
    assert fetch(other, third, digest) == digest
    export_checkpoint(other, digest, tmp_path / "out")


def test_another_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", model(), finetuned(model()), "lossless")
    with pytest.raises(WrongBase, match="against"):
        opened(tmp_path / "d", model(1))
    with pytest.raises(SchemaMismatch, match="extra"):
        write(tmp_path / "e", model(), {**model(), "extra": torch.ones(1)}, "raw")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("codec", names())
def test_against_nothing(codec: str, tmp_path: Path) -> None:
    """A whole model through a codec: the base lends its schema only."""
    store = Store(tmp_path / "store")
    digest = put_delta(store, MemoryReader(model(1)), None, None, codec)
    folder = store.payload_path(digest).parent
    with DeltaFolderReader(folder, MemoryReader(model(2)), "") as reader:
        with open_contribution(store, digest, None) as stored:
            assert contents(reader) == contents(stored)
        if codec not in CLOSE:
            assert contents(reader) == {name: bits(tensor) for name, tensor in model(1).items()}
    with pytest.raises(SchemaMismatch):
        DeltaFolderReader(folder, MemoryReader({"w": torch.ones(1)}), "")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").write_text("x")
    with pytest.raises(BadPath, match="exists"):
        write(tmp_path / "d", model(), model(), "raw")
    assert sorted(os.listdir(tmp_path)) == ["d"]


def test_other_artifacts_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = put_model(store, MemoryReader(model()))
    with pytest.raises(WrongKind, match="kind model"):
        opened(store.payload_path(digest).parent, model())


def test_rotten_bytes_are_found(tmp_path: Path) -> None:
    base = long_model()
    write(tmp_path / "d", base, {name: tensor * 2 for name, tensor in base.items()}, "lossless")
    payload = tmp_path / "d" / "payload.safetensors"
    size = payload.stat().st_size
    flip(payload, size - 100)
    with opened(tmp_path / "d", base) as reader, pytest.raises((CorruptArtifact, BadEncoding)):
        contents(reader)
    payload.chmod(0o644)
    os.truncate(payload, size - 1)
    with pytest.raises(CorruptArtifact, match="bytes"):
        opened(tmp_path / "d", base)
    payload.unlink()
    with pytest.raises(MissingCheckpoint, match="payload"):
        opened(tmp_path / "d", base)


@pytest.mark.parametrize("codec", names())
def test_sizes_that_lie(codec: str, tmp_path: Path) -> None:
    """A manifest of one's own making: fewer or more bytes than the blocks take."""
    base = long_model()
    write(tmp_path / "d", base, base, codec)
    manifest, payload = tmp_path / "d" / "manifest.json", tmp_path / "d" / "payload.safetensors"
    document = json.loads(manifest.read_bytes())
    (entry,) = (item for item in document["tensors"] if item["name"] == "w")
    for change in (-4, 8):
        entry["size"] += change
        manifest.chmod(0o644)
        manifest.write_bytes(
            Manifest.from_bytes(
                json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
            ).to_bytes()
        )
        payload.chmod(0o644)
        os.truncate(payload, payload.stat().st_size + change)
        with pytest.raises(WeftError), opened(tmp_path / "d", base) as reader:
            reader.read("w")
