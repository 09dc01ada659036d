"""Folders of torch.distributed.checkpoint: the tensors come back, from whole or sharded."""

import itertools
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from tests.checkpoints.crafted import bits, contents, model
from tests.checkpoints.folders import (
    Box,
    read_metadata,
    save_distributed,
    save_sharded,
    write_metadata,
)
from weft.checkpoints.distributed import DistributedReader
from weft.checkpoints.errors import (
    BadPath,
    MalformedFile,
    MissingCheckpoint,
    MissingTensor,
)
from weft.errors import WeftError


def halves(rows: int, *rest: int) -> list[Box]:
    """By the first dimension, unevenly."""
    cut, zeros = rows // 2 + 1, (0,) * len(rest)
    return [((0, *zeros), (cut, *rest)), ((cut, *zeros), (rows - cut, *rest))]


def test_reads_what_the_reference_wrote(tmp_path: Path) -> None:
    tensors = model()
    save_distributed(
        tmp_path / "d", {"model": tensors, "optimizer": {"step": 3, "m": torch.ones(2)}}
    )
    with DistributedReader(tmp_path / "d", prefix="model.") as reader:
        assert contents(reader) == {name: bits(tensor) for name, tensor in tensors.items()}
        assert reader.ignored == ("optimizer.step",)
    with DistributedReader(tmp_path / "d") as reader:
        assert "model.fc.weight" in reader.schema
        assert reader.read("optimizer.m").tolist() == [1.0, 1.0]


def test_prefix_that_no_tensor_has(tmp_path: Path) -> None:
    save_distributed(tmp_path / "d", {"model": {"w": torch.ones(2)}})
    with pytest.raises(MissingCheckpoint, match="begins with 'net"):
        DistributedReader(tmp_path / "d", prefix="net.")


def test_tensors_in_pieces(tmp_path: Path) -> None:
    tensors = {
        "rows": torch.randn(7, 5),
        "columns": torch.randn(6, 9).bfloat16(),
        "grid": torch.randn(5, 6, 4),
        "flat": torch.arange(11),
    }
    boxes: dict[str, list[Box]] = {
        "rows": halves(7, 5),
        "columns": [((0, 0), (6, 2)), ((0, 2), (6, 4)), ((0, 6), (6, 3))],
        "grid": [((0, y, z), (5, 3, 2)) for y in (0, 3) for z in (0, 2)],
        "flat": [((0,), (4,)), ((4,), (0,)), ((4,), (7,))],
    }
    save_sharded(tmp_path, tensors, boxes)
    with DistributedReader(tmp_path) as reader:
        assert contents(reader) == {name: bits(tensor) for name, tensor in tensors.items()}


@settings(max_examples=150)
@given(data=st.data())
def test_any_range_of_any_pieces(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Boxes from cuts along every dimension; ranges from anywhere to anywhere."""
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    sides = []
    for extent in shape:
        cuts = sorted({0, extent, *data.draw(st.lists(st.integers(0, extent), max_size=2))})
        sides.append([(a, b - a) for a, b in itertools.pairwise(cuts)])
    boxes: list[Box] = [
        (tuple(o for o, _ in sides_of), tuple(s for _, s in sides_of))
        for sides_of in itertools.product(*sides)
    ]
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).reshape(shape)
    folder = tmp_path_factory.mktemp("pieces")
    save_sharded(folder, {"t": tensor}, {"t": boxes}, files=3)
    count = tensor.numel()
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    step = data.draw(st.integers(1, 9))
    with DistributedReader(folder) as reader:
        found = [
            value for block in reader.ranges("t", start, stop, step) for value in block.tolist()
        ]
    assert found == list(range(start, stop))


def folder_of_one(path: Path) -> Path:
    save_sharded(path, {"w": torch.randn(6, 4)}, {"w": halves(6, 4)})
    return path


def test_closed_reader_says_so(tmp_path: Path) -> None:
    reader = DistributedReader(folder_of_one(tmp_path))
    with pytest.raises(MissingTensor):
        reader.read("v")
    reader.close()
    reader.close()
    with pytest.raises(BadPath, match="closed"):
        reader.read("w")


def test_a_rank_that_is_missing_or_cut_short(tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    shard = folder / "__1_0.distcp"
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(MalformedFile, match="cut short"):
        DistributedReader(folder)
    shard.unlink()
    with pytest.raises(MissingCheckpoint, match="__1_0"):
        DistributedReader(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(MissingCheckpoint, match="metadata"):
        DistributedReader(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def refused(folder: Path, fault: str) -> None:
    with pytest.raises(WeftError, match=fault) as caught, DistributedReader(folder) as reader:
        contents(reader)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_that_contradicts_itself(tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)
    good = read_metadata(folder)
    entry = good.state_dict_metadata["w"]
    assert isinstance(entry, TensorStorageMetadata)
    first, second = entry.chunks

    def with_entry(**changes: object) -> None:
        write_metadata(
            folder,
            replace(good, state_dict_metadata={"w": replace(entry, **changes)}),  # type: ignore[arg-type]
        )

    with_entry(chunks=[first])
    refused(folder, "hold 16 elements, 24 expected")
    with_entry(chunks=[first, first, second])
    refused(folder, "24 expected")
    with_entry(size=torch.Size([6, 5]))
    refused(folder, "30 expected")
    with_entry(size=torch.Size([5, 4]))
    refused(folder, "not inside its shape")
    with_entry(size=torch.Size([24]))
    refused(folder, "not inside its shape")
    huge = replace(first, sizes=torch.Size([2**50, 4]))
    with_entry(size=torch.Size([2**50, 4]), chunks=[huge])
    refused(folder, "a piece of shape")
    overlapping = [replace(second, offsets=torch.Size([2, 0])), first]
    with_entry(chunks=overlapping)
    refused(folder, "nothing says where")
    write_metadata(folder, replace(good, storage_data={}))
    refused(folder, "nothing says where")
    write_metadata(folder, replace(good, storage_data=None))
    refused(folder, "no list of tensors")
    write_metadata(folder, {"w": 1})
    refused(folder, "no Metadata")


def test_pieces_that_overlap(tmp_path: Path) -> None:
    boxes: list[Box] = [((0,), (4,)), ((2,), (4,)), ((6,), (0,))]
    save_sharded(tmp_path, {"w": torch.randn(8)}, {"w": boxes})
    refused(tmp_path, "two of its pieces overlap")


@pytest.mark.parametrize(
    "path", ["../secret.distcp", "/etc/passwd.distcp", "model.bin", "", "..", "a\nb.distcp", 7]
)
def test_places_outside_the_folder(path: object, tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)
    good = read_metadata(folder)
    stored = {key: replace(info, relative_path=path) for key, info in good.storage_data.items()}
    write_metadata(folder, replace(good, storage_data=stored))
    refused(folder, "something else than a .distcp file")


def test_transforms_are_refused(tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)
    good = read_metadata(folder)
    stored = {
        key: replace(i, transform_descriptors=["zstd"]) for key, i in good.storage_data.items()
    }
    write_metadata(folder, replace(good, storage_data=stored))
    refused(folder, "through a transform")


def test_metadata_that_would_run_something(tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/evil",)

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    refused(folder, "weft never runs pickles")
    good = pickle.dumps([Evil()])
    (folder / ".metadata").write_bytes(good)
    refused(folder, "weft never runs pickles")
    assert not (tmp_path / "evil").exists()


def test_tensors_that_are_not_read(tmp_path: Path) -> None:
    save_distributed(tmp_path / "t", {"w": torch.randn(4, 6).t()})
    refused(tmp_path / "t", r"call contiguous\(\)")
    save_distributed(tmp_path / "c", {"w": torch.ones(2, dtype=torch.complex64)})
    refused(tmp_path / "c", "complex64")
    save_distributed(tmp_path / "ok", {"model": {"w": torch.ones(2)}, "x": torch.ones(2) * 1j})
    with DistributedReader(tmp_path / "ok", prefix="model.") as reader:
        assert reader.read("w").tolist() == [1.0, 1.0]


def test_pieces_that_are_not_what_the_metadata_says(tmp_path: Path) -> None:
    folder = folder_of_one(tmp_path)
    good = read_metadata(folder)
    save_sharded(folder, {"w": torch.randn(6, 4).int()}, {"w": halves(6, 4)})
    other = read_metadata(folder)
    write_metadata(folder, replace(good, storage_data=other.storage_data))
    refused(folder, r"a piece is I32\[4, 4\], F32\[4, 4\] expected")
    infos = list(good.storage_data.values())
    swapped = dict(zip(good.storage_data, infos[::-1], strict=True))
    save_sharded(folder, {"w": torch.randn(6, 4)}, {"w": halves(6, 4)})
    write_metadata(folder, replace(good, storage_data=swapped))
    refused(folder, "a piece is")
