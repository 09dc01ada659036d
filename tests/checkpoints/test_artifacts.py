"""Models and deltas into the store and out of it, bit for bit."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints.crafted import bits, contents, model
from tests.checkpoints.stores import flip
from tests.checkpoints.test_writer import file_size_limit
from weft.checkpoints.artifacts import (
    ArtifactSink,
    export_checkpoint,
    open_contribution,
    open_model,
    put_delta,
    put_model,
    put_tensors,
    read_schema,
)
from weft.checkpoints.codecs.registry import names
from weft.checkpoints.errors import (
    BadPath,
    BadTensor,
    CorruptArtifact,
    DiskFull,
    MissingArtifact,
    MissingTensor,
    SchemaMismatch,
    UnknownCodec,
    WrongBase,
    WrongKind,
)
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.checkpoints.schema import BLOCK_ELEMENTS
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint

OTHER = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def wanted(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: bits(tensor) for name, tensor in tensors.items()}


def test_model_from_a_file_and_from_memory_is_one_artifact(store: Store, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", model(), {"saved by": "somebody"})
    with open_checkpoint(tmp_path / "m.safetensors") as reader:
        digest = put_model(store, reader)
    assert put_model(store, MemoryReader(model())) == digest
    assert put_model(store, MemoryReader(model()), metadata={"note": "x"}) != digest
    with open_model(store, digest) as found:
        assert found.digest == digest
        assert found.schema == read_schema(tmp_path / "m.safetensors")
        assert found.metadata == {}
        assert contents(found) == wanted(model())
    manifest = store.manifest(digest)
    assert (manifest.kind, manifest.codec, manifest.against) == ("model", "plain", None)


def test_payload_of_a_model_is_a_checkpoint_for_everybody(store: Store) -> None:
    digest = put_model(store, MemoryReader(model()))
    path = store.payload_path(digest)
    found = load_file(path)
    assert {name: bits(tensor) for name, tensor in found.items()} == wanted(model())
    with open_checkpoint(path) as reader:
        assert contents(reader) == wanted(model())


@pytest.mark.parametrize("kind", ["model", "moments", "share", "index"])
def test_small_tensors_of_any_kind(store: Store, kind: str) -> None:
    tensors = {"count": torch.tensor(3), "mean": torch.arange(3.0, dtype=torch.float64)}
    for one in ("model", "moments", "share", "index"):
        if one == kind:
            digest = put_tensors(store, one, tensors, metadata={"node": "a"})
            assert put_tensors(store, one, tensors, metadata={"node": "a"}) == digest
    assert store.manifest(digest).kind == kind
    with open_contribution(store, digest, None) as reader:
        assert contents(reader) == wanted(tensors)
        assert reader.metadata == {"node": "a"}


def test_no_tensors_but_metadata(store: Store) -> None:
    digest = put_tensors(store, "index", {}, metadata={"slice-00000": OTHER})
    assert store.manifest(digest).metadata == {"slice-00000": OTHER}


@pytest.mark.parametrize("codec", names())
@pytest.mark.parametrize("with_base", [True, False])
def test_delta_comes_back(store: Store, codec: str, with_base: bool) -> None:
    base = MemoryReader(model()) if with_base else None
    against = put_model(store, MemoryReader(model())) if with_base else None
    finetuned = model(1)
    digest = put_delta(
        store, MemoryReader(finetuned), base, against, codec, metadata={"round": "3"}
    )
    manifest = store.manifest(digest)
    assert (manifest.kind, manifest.codec, manifest.against) == ("delta", codec, against)
    assert manifest.metadata == {"round": "3"}
    with open_contribution(store, digest, base) as reader:
        assert reader.schema == MemoryReader(finetuned).schema
        found = contents(reader)
        if codec == "lossless":
            assert found == wanted(finetuned)
        # Half a step of int8 is 1/254 of the largest difference, a few units at most.
        off = 0.03 if codec == "int8" else 1e-6
        for name, tensor in finetuned.items():
            close = torch.allclose(reader.read(name).double(), tensor.double(), atol=off)
            assert close, name


def test_delta_is_decoded_with_the_base_from_anywhere(store: Store, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "b.safetensors", model())
    against = put_model(store, MemoryReader(model()))
    digests = set()
    for base in (open_model(store, against), open_checkpoint(tmp_path), MemoryReader(model())):
        with base:
            digests.add(put_delta(store, MemoryReader(model(1)), base, against, "lossless"))
            (digest,) = digests
            with open_contribution(store, digest, base) as reader:
                assert contents(reader) == wanted(model(1))


def test_several_blocks_of_several_readers_at_once(store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(BLOCK_ELEMENTS + 10, generator=generator).bfloat16()}
    models = [
        {"w": (base["w"] + torch.randn(len(base["w"]), generator=generator) / 64).bfloat16()}
        for _ in range(2)
    ]
    against = put_model(store, MemoryReader(base))
    with open_model(store, against) as stored:
        digests = [
            put_delta(store, MemoryReader(one), stored, against, "lossless") for one in models
        ]
        readers = [open_contribution(store, digest, stored) for digest in digests]
        halves = zip(*(reader.blocks("w") for reader in readers), strict=True)
        pairs = [(bits(first), bits(second)) for first, second in halves]
        for number, reader in enumerate(readers):
            assert b"".join(pair[number] for pair in pairs) == bits(models[number]["w"])
            reader.close()


def test_sink_takes_what_an_engine_streams(store: Store) -> None:
    reader = MemoryReader(model())
    with ArtifactSink(store, reader.schema, kind="share", metadata={"share": "0"}) as sink:
        assert sink.schema == reader.schema
        for spec in sink.schema:
            sink.write(spec.name, reader.blocks(spec.name))
    assert sink.digest == put_tensors(store, "share", model(), metadata={"share": "0"})


def test_sink_refuses_what_does_not_fit(store: Store) -> None:
    reader = MemoryReader({"w": torch.ones(3)})
    for data, fault in ((torch.ones(4), "shape"), (torch.ones(3).double(), "dtype")):
        with (
            pytest.raises(BadTensor, match=fault),
            ArtifactSink(store, reader.schema) as sink,
        ):
            sink.write("w", data)
    assert os.listdir(store.root / "staging") == []


def test_base_and_digest_belong_together(store: Store) -> None:
    base, finetuned = MemoryReader(model()), MemoryReader(model(1))
    first, second = put_model(store, base), put_model(store, finetuned)
    with pytest.raises(WrongBase, match="no base is given"):
        put_delta(store, finetuned, None, first, "raw")
    with pytest.raises(WrongBase, match="against no base"):
        put_delta(store, finetuned, base, None, "raw")
    digest = put_delta(store, finetuned, base, first, "lossless")
    with open_model(store, second) as wrong:
        with pytest.raises(WrongBase, match=second):
            put_delta(store, finetuned, wrong, first, "raw")
        with pytest.raises(WrongBase, match=second):
            open_contribution(store, digest, wrong)
    with pytest.raises(WrongBase, match="no base is given"):
        open_contribution(store, digest, None)


def test_delta_of_another_schema(store: Store) -> None:
    base = MemoryReader(model())
    against = put_model(store, base)
    smaller = MemoryReader({"fc.weight": torch.ones(5, 3)})
    with pytest.raises(SchemaMismatch, match="missing"):
        put_delta(store, smaller, base, against, "raw")
    digest = put_delta(store, base, base, against, "raw")
    with pytest.raises(SchemaMismatch):
        open_contribution(store, digest, smaller)


def test_delta_is_no_model(store: Store) -> None:
    base = MemoryReader(model())
    digest = put_delta(store, base, base, put_model(store, base), "raw")
    with pytest.raises(WrongKind, match="needs a base"):
        open_model(store, digest)


def test_unknown_codec(store: Store) -> None:
    with pytest.raises(UnknownCodec, match="losless"):
        put_delta(store, MemoryReader(model()), None, None, "losless")


def test_missing_artifact_or_tensor(store: Store) -> None:
    for opener in (open_model, lambda s, d: open_contribution(s, d, None)):
        with pytest.raises(MissingArtifact):
            opener(store, OTHER)
    digest = put_delta(store, MemoryReader(model()), None, None, "lossless")
    with open_contribution(store, digest, None) as reader:
        for call in (reader.read, lambda name: list(reader.blocks(name))):
            with pytest.raises(MissingTensor):
                call("z")


def test_reader_outlives_gc(store: Store) -> None:
    """An open file stays readable when its object is collected."""
    digest = put_model(store, MemoryReader(model()))
    with open_model(store, digest) as reader:
        assert store.gc(keep_unpinned_s=-60).objects == 1
        assert contents(reader) == wanted(model())


class Exploding(MemoryReader):
    def blocks(self, name: str) -> Iterator[Tensor]:
        yield from super().blocks(name)
        if name == "head.weight":
            raise RuntimeError("the disk went away")


def test_reader_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError):
        put_model(store, Exploding(model()))
    with pytest.raises(RuntimeError):
        put_delta(store, Exploding(model()), None, None, "raw")
    assert store.digests() == []
    assert os.listdir(store.root / "staging") == []


def test_disk_full_leaves_nothing_and_can_be_tried_again(store: Store) -> None:
    reader = MemoryReader({"w": torch.randn(2**19)})
    with file_size_limit(2**20):
        with pytest.raises(DiskFull):
            put_model(store, reader)
        with pytest.raises(DiskFull):
            put_delta(store, reader, None, None, "lossless")
    assert os.listdir(store.root / "staging") == []
    assert store.has(put_model(store, reader))


@pytest.mark.parametrize("codec", ["plain", *names()])
def test_rotten_bytes_never_come_out_of_a_reader(store: Store, codec: str) -> None:
    """One bit in each of 60 places of the stored bytes; every one is found when it is read."""
    base = MemoryReader(model())
    against = put_model(store, base)
    if codec == "plain":
        digest, given = against, None
    else:
        digest, given = put_delta(store, MemoryReader(model(1)), base, against, codec), base
    path = store.payload_path(digest)
    total = store.manifest(digest).total_bytes
    start = path.stat().st_size - total
    for position in range(start, start + total, max(1, total // 60)):
        flip(path, position, 0x10)
        with (
            open_contribution(store, digest, given) as reader,
            pytest.raises(CorruptArtifact, match=digest),
        ):
            contents(reader)
        flip(path, position, 0x10)
    with open_contribution(store, digest, given) as reader:
        contents(reader)


def test_unverified_reading_is_a_choice(store: Store) -> None:
    digest = put_model(store, MemoryReader({"w": torch.zeros(4)}))
    flip(store.payload_path(digest), store.payload_path(digest).stat().st_size - 1)
    with open_model(store, digest, verify=False) as reader:
        assert not torch.equal(reader.read("w"), torch.zeros(4))


@pytest.mark.parametrize("codec", ["plain", *names()])
def test_exported_folder_opens_anywhere(store: Store, tmp_path: Path, codec: str) -> None:
    base = MemoryReader(model())
    digest = put_model(store, base, metadata={"note": "ü"})
    if codec != "plain":
        digest = put_delta(store, base, base, digest, codec, metadata={"note": "ü"})
    folder = tmp_path / "out" / "model"
    for _ in range(2):
        assert export_checkpoint(store, digest, folder) == folder / "model.safetensors"
    assert os.listdir(folder) == ["model.safetensors"]
    with open_checkpoint(folder) as reader:
        assert reader.metadata == {"note": "ü", "format": "pt"}
        assert contents(reader) == wanted(model())


def test_export_that_cannot_be(store: Store, tmp_path: Path) -> None:
    base = MemoryReader(model())
    digest = put_delta(store, base, base, OTHER, "raw")
    with pytest.raises(MissingArtifact, match=OTHER):
        export_checkpoint(store, digest, tmp_path / "out")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadPath):
        export_checkpoint(store, put_model(store, base), tmp_path / "file" / "out")
