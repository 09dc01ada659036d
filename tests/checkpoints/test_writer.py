"""Files appear whole or not at all, and other libraries open them."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.crafted import bits, contents, model
from weft.checkpoints.disk import sync_folder
from weft.checkpoints.errors import BadPath, BadTensor, DiskFull, MissingTensor
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.checkpoints.schema import BLOCK_ELEMENTS, Schema, TensorSpec
from weft.checkpoints.writer import SafetensorsWriter, write_bytes, write_checkpoint

SCHEMA = Schema((TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "I64", ())))
A, B = torch.arange(6.0).reshape(2, 3), torch.tensor(9)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_bytes_are_those_of_the_reference(tmp_path: Path) -> None:
    """Where no two dtypes are of one width; their order within a width is their own."""
    widths = ("fc.weight", "fc.bias", "embed.weight", "bytes", "scale", "empty")
    tensors = {name: model()[name] for name in widths}
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    write_checkpoint(tmp_path / "ours.safetensors", tensors)
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()


def test_reference_opens_what_is_streamed(tmp_path: Path) -> None:
    tensors = model(1)
    reader = MemoryReader(tensors)
    path = tmp_path / "model.safetensors"
    with SafetensorsWriter(path, reader.schema, {"format": "pt", "step": "7"}) as writer:
        for spec in reversed(list(reader.schema)):
            writer.write(spec.name, reader.blocks(spec.name))
    found = load_file(path)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in tensors.items()}
    with open_checkpoint(path) as back:
        assert back.metadata == {"format": "pt", "step": "7"}
        assert contents(back) == contents(reader)


def test_blocks_of_any_length(tmp_path: Path) -> None:
    data = torch.randint(0, 256, (BLOCK_ELEMENTS + 77,), dtype=torch.uint8)
    schema = Schema((TensorSpec("w", "U8", (BLOCK_ELEMENTS + 77,)),))
    with SafetensorsWriter(tmp_path / "m.safetensors", schema) as writer:
        writer.write("w", torch.split(data, 100_003))
    with open_checkpoint(tmp_path) as reader:
        assert torch.equal(reader.read("w"), data)


def test_tensors_that_are_not_contiguous_or_need_grad(tmp_path: Path) -> None:
    tensor = torch.arange(12.0, requires_grad=True).reshape(3, 4).t()
    write_checkpoint(tmp_path / "m.safetensors", {"w": tensor})
    with open_checkpoint(tmp_path) as reader:
        assert torch.equal(reader.read("w"), tensor.detach())


def test_no_tensors_at_all(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", {}, {})
    assert load_file(tmp_path / "m.safetensors") == {}


def test_nothing_is_there_until_the_context_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with SafetensorsWriter(path, SCHEMA) as writer:
        writer.write("a", A)
        assert not path.exists()
        writer.write("b", B)
        assert not path.exists()
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with SafetensorsWriter(path, SCHEMA) as writer:
            writer.write("a", A)
            raise fault

    with pytest.raises(fault):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_missing_tensor_is_an_error_at_the_end(tmp_path: Path) -> None:
    with (
        pytest.raises(BadTensor, match="1 tensors were not written, b among them"),
        SafetensorsWriter(tmp_path / "m.safetensors", SCHEMA) as writer,
    ):
        writer.write("a", A)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("a", A.double(), "dtype torch.float64"),
        ("a", A.t(), "shape"),
        ("a", A.reshape(-1), "shape"),
        ("a", [A.reshape(-1)[:5]], "5 elements, 6 expected"),
        ("a", [A.reshape(-1), A.reshape(-1)[:1]], "7 elements, 6 expected"),
        ("a", [A.reshape(-1)[:3], B], "dtype torch.int64"),
        ("a", [], "0 elements"),
        ("b", torch.tensor([9]), "shape"),
    ],
)
def test_tensor_that_does_not_fit(
    tmp_path: Path, name: str, data: torch.Tensor | list[torch.Tensor], fault: str
) -> None:
    with (
        pytest.raises(BadTensor, match=fault),
        SafetensorsWriter(tmp_path / "m.safetensors", SCHEMA) as writer,
    ):
        writer.write(name, data)
    assert os.listdir(tmp_path) == []


def test_unknown_or_repeated_tensor(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingTensor, match="'c'"),
        SafetensorsWriter(tmp_path / "m.safetensors", SCHEMA) as writer,
    ):
        writer.write("c", A)
    with SafetensorsWriter(tmp_path / "m.safetensors", SCHEMA) as writer:
        writer.write("a", A)
        with pytest.raises(BadTensor, match="twice"):
            writer.write("a", A)
        writer.write("b", B)


def test_dtype_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(BadTensor, match="complex64"):
        write_checkpoint(tmp_path / "m.safetensors", {"w": torch.zeros(1, dtype=torch.complex64)})


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadPath, match="No such file"):
        write_checkpoint(tmp_path / "nowhere" / "m.safetensors", {"w": A})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadPath, match="Not a directory"):
        write_bytes(tmp_path / "file" / "x", b"1")


def test_limit_of_a_files_size_is_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_checkpoint(path, {"w": A})
    old = path.read_bytes()
    with file_size_limit(2**20), pytest.raises(DiskFull, match=r"bytes are needed, \d+ are free"):
        write_checkpoint(path, {"w": torch.zeros(2**20)})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m.safetensors"]
    with file_size_limit(10), pytest.raises(DiskFull):
        write_bytes(tmp_path / "small", b"x" * 11)
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_more_than_the_disk_has_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    schema = Schema((TensorSpec("w", "U8", (2**55,)),))
    with pytest.raises(DiskFull, match=f"{2**55}|bytes are needed"):
        SafetensorsWriter(tmp_path / "m.safetensors", schema).__enter__()
    assert os.listdir(tmp_path) == []


def test_failed_sync_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(tmp_path / "x", b"1")
    assert os.listdir(tmp_path) == []


def test_file_and_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        calls.append("sync folder" if folder else "sync file")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_checkpoint(tmp_path / "m.safetensors", {"w": A})
    assert calls == ["sync file", "rename", "sync folder"]
    sync_folder(tmp_path)


CHILD = """
import sys
from pathlib import Path
from weft.checkpoints.disk import DurableFile
path, number = Path(sys.argv[1]), 0
sys.stdout.write("ready\\n"); sys.stdout.flush()
while True:
    number += 1
    with DurableFile(path, reserve_bytes=40_000) as file:
        for part in range(10):
            file.write_at(number.to_bytes(4, "little") * 1000, 4000 * part)
    sys.stdout.write(f"{number}\\n"); sys.stdout.flush()
"""


def test_reader_never_sees_half_a_file_of_a_writer_that_is_killed(tmp_path: Path) -> None:
    """The file is always one whole generation, and never older than one that was announced."""
    path = tmp_path / "data"
    for kill in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        announced = [int(child.stdout.readline()) for _ in range(1 + 3 * kill)]
        child.kill()
        announced += [int(line) for line in child.stdout.read().splitlines() if line]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        found = path.read_bytes()
        assert found == found[:4] * 10_000
        assert int.from_bytes(found[:4], "little") in (announced[-1], announced[-1] + 1)


def grown(folder: Path, *blocks: torch.Tensor) -> None:
    """A file whose tensor "a" is written in these blocks."""
    with SafetensorsWriter(folder / "m", SCHEMA) as writer:
        writer.write("b", B)
        for block in blocks:
            writer.extend("a", block)


def test_tensors_that_grow_side_by_side(tmp_path: Path) -> None:
    schema = Schema((*SCHEMA, TensorSpec("c", "F32", (3,)), TensorSpec("none", "F32", (0,))))
    with SafetensorsWriter(tmp_path / "m", schema) as writer:
        writer.extend("a", A.reshape(-1)[:4])
        writer.extend("c", torch.ones(1))
        writer.extend("a", A.reshape(-1)[4:])
        writer.write("b", B)
        writer.extend("c", torch.full((2,), 2.0))
        writer.extend("none", torch.empty(0))
    found = load_file(tmp_path / "m")
    assert torch.equal(found["a"], A)
    assert found["c"].tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("block", "words"),
    [(torch.zeros(3), "elements 4 to 7"), (torch.zeros(1).double(), "float64 given, F32")],
)
def test_blocks_that_do_not_fit(block: torch.Tensor, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadTensor, match=words):
        grown(tmp_path, torch.zeros(4), block)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_did_not_grow_up(tmp_path: Path) -> None:
    with pytest.raises(BadTensor, match="1 tensors were not written, a among them"):
        grown(tmp_path, torch.zeros(3), torch.zeros(2))
    assert list(tmp_path.iterdir()) == []
