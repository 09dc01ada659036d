"""Good checkpoints come back bit for bit; bad ones are refused with a word."""

import gzip
import json
import os
import pickle
import time
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.crafted import bits, contents, entry, file, model, random_tensor
from weft.checkpoints.errors import (
    BadPath,
    MalformedFile,
    MissingCheckpoint,
    MissingTensor,
    UnsupportedFile,
)
from weft.checkpoints.reader import INDEX_NAME, MemoryReader, open_checkpoint, read_schema
from weft.checkpoints.schema import BLOCK_ELEMENTS, DTYPE_BYTES, TensorSpec
from weft.errors import WeftError


def zipped() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return buffer.getvalue()


ONE = entry("F32", [1], 0, 4)
FOUR = b"\x00" * 4
SPACES = 4 * 2**20 + 1

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\x00" * 7,
    "eight zero bytes": b"\x00" * 8,
    "length 2^63": file("{}", length=2**63),
    "length 2^64-1": file("{}", length=2**64 - 1),
    "length 100,000,001": file("{}", length=100_000_001),
    "length beyond the end": file("{}", length=3),
    "length one short": file({"a": ONE}, FOUR, length=len(json.dumps({"a": ONE})) - 1),
    "cut in the header": file({"a": ONE}, FOUR)[:20],
    "cut one byte before the end": file({"a": ONE}, FOUR)[:-1],
    "one byte behind": file({"a": ONE}, FOUR + b"\x00"),
    "many bytes behind": file({"a": ONE}, FOUR + zipped()),
    "overlap": file({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"\x00" * 12),
    "two names, same bytes": file({"a": ONE, "b": ONE}, FOUR),
    "hole": file({"a": ONE, "b": entry("F32", [1], 8, 12)}, b"\x00" * 12),
    "hole in front": file({"a": entry("F32", [1], 4, 8)}, b"\x00" * 8),
    "start after end": file({"a": entry("F32", [1], 4, 0)}, FOUR),
    "negative offset": file({"a": entry("F32", [1], -4, 0)}, FOUR),
    "past the end": file({"a": entry("F32", [100], 0, 400)}, FOUR),
    "fractional offset": file({"a": entry("F32", [1], 0, 4.0)}, FOUR),
    "boolean offset": file({"a": entry("U8", [1], 0, True)}, b"\x00"),
    "three offsets": file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', FOUR),
    "shape is not the bytes": file({"a": entry("F32", [2], 0, 4)}, FOUR),
    "shape overflows": file({"a": entry("F32", [2**62, 4], 0, 0)}),
    "negative dimension": file({"a": entry("F32", [-1, -1], 0, 4)}, FOUR),
    "fractional dimension": file({"a": entry("F32", [1.5], 0, 6)}, b"\x00" * 6),
    "dimension with exponent": file(
        '{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"0"
    ),
    "null dimension": file({"a": entry("F32", [None], 0, 4)}, FOUR),
    "dimension of 5,000 digits": file(
        '{"a":{"dtype":"U8","shape":[' + "9" * 5000 + '],"data_offsets":[0,1]}}', b"0"
    ),
    "empty with a dimension of 2^62": file({"a": entry("F32", [0, 2**62], 0, 0)}),
    "40 dimensions": file({"a": entry("U8", [1] * 40, 0, 1)}, b"0"),
    "unknown dtype": file({"a": entry("F128", [1], 0, 16)}, b"\x00" * 16),
    "dtype below a byte": file({"a": entry("F4", [2], 0, 1)}, b"\x00"),
    "dtype in lower case": file({"a": entry("f32", [1], 0, 4)}, FOUR),
    "dtype is a number": file('{"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}', FOUR),
    "key twice, same range": file(f'{{"a":{json.dumps(ONE)},"a":{json.dumps(ONE)}}}', FOUR),
    "key twice, other range": file(
        f'{{"a":{json.dumps(ONE)},"a":{json.dumps(entry("F32", [1], 4, 8))}}}', FOUR * 2
    ),
    "field twice": file(
        '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR
    ),
    "metadata twice": file('{"__metadata__":{},"__metadata__":{}}'),
    "metadata not text": file('{"__metadata__":{"a":1}}'),
    "metadata nested": file('{"__metadata__":{"a":{"b":"c"}}}'),
    "metadata a list": file('{"__metadata__":["a"]}'),
    "metadata with half a character": file('{"__metadata__":{"a":"\\ud800"}}'),
    "name is a path": file({"../../etc/passwd": ONE}, FOUR),
    "name is absolute": file({"/etc/passwd": ONE}, FOUR),
    "name with NUL": file({"a\x00": ONE}, FOUR),
    "name empty": file({"": ONE}, FOUR),
    "name of 1 MB": file({"x" * 10**6: ONE}, FOUR),
    "name turned around": file({"a\u202eb": ONE}, FOUR),
    "name with half a character": file('{"\\ud800":' + json.dumps(ONE) + "}", FOUR),
    "not UTF-8": file(b'{"\xff":{}}'),
    "byte order mark": file(b"\xef\xbb\xbf{}"),
    "not JSON": file("{hello}"),
    "single quotes": file("{'a':1}"),
    "list": file("[]"),
    "null": file("null"),
    "trailing brace": file("{}}"),
    "two documents": file("{}{}"),
    "space in front": file(" {}"),
    "newline behind": file("{}\n"),
    "comment": file("{/**/}"),
    "NaN": file('{"a":NaN}'),
    "infinity": file('{"a":-Infinity}'),
    "100,000 brackets": file('{"a":' + "[" * 100_000),
    "50,000 levels of metadata": file('{"__metadata__":' + '{"a":' * 50_000 + "1" + "}" * 50_001),
    "extra field": file({"a": {**ONE, "compression": "none"}}, FOUR),
    "missing field": file({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "entry is a list": file({"a": [1]}, FOUR),
    "entry is null": file({"a": None}, FOUR),
    "shape is text": file('{"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}}', b"0"),
    "4 MiB of spaces": file("{}" + " " * SPACES),
    "100,000 empty tensors": file({f"t{i}": entry("F32", [0], 0, 0) for i in range(100_000)}),
}

OTHER_KINDS: dict[str, bytes] = {
    "pickle": pickle.dumps({"a": list(range(50))}, protocol=2),
    "pickle 4": pickle.dumps({"a": list(range(50))}, protocol=4),
    "zip": zipped(),
    "gzip": gzip.compress(b"hello" * 20),
    "zstd": b"\x28\xb5\x2f\xfd" + b"\x00" * 30,
    "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "web page after spaces": b"\n\n  <HTML><body>404 Not Found</body></html>",
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "GGUF": b"GGUF\x03\x00\x00\x00" + b"\x00" * 32,
    "numpy": b"\x93NUMPY\x01\x00" + b"\x00" * 32,
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\x00" * 32,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED[name])
    started = time.perf_counter()
    with pytest.raises(MalformedFile) as caught:
        open_checkpoint(path)
    assert time.perf_counter() - started < 1.0
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_file_of_another_kind_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(OTHER_KINDS[name])
    with pytest.raises(UnsupportedFile, match="this is a"):
        open_checkpoint(path)


def test_enough_files_are_crafted() -> None:
    assert len(MALFORMED) + len(OTHER_KINDS) >= 80


def test_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as out:
        out.write((2**31).to_bytes(8, "little") + b"{")
        out.truncate(2**31 + 8)
    tracemalloc.start()
    with pytest.raises(MalformedFile, match="limit"):
        open_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_boolean_bytes_are_0_or_1(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file({"mask": entry("BOOL", [3], 0, 3)}, b"\x00\x01\x02"))
    with open_checkpoint(path) as reader:
        with pytest.raises(MalformedFile, match="mask is boolean"):
            reader.read("mask")
        with pytest.raises(MalformedFile, match="mask is boolean"):
            list(reader.blocks("mask"))


def test_reads_what_the_reference_wrote(tmp_path: Path) -> None:
    tensors = model()
    save_file(tensors, tmp_path / "any-name.safetensors", {"format": "pt", "note": "ü"})
    for path in (tmp_path, tmp_path / "any-name.safetensors", str(tmp_path)):
        with open_checkpoint(path) as reader:
            assert reader.metadata == {"format": "pt", "note": "ü"}
            assert contents(reader) == {name: bits(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_blocks_of_every_dtype(dtype: str, tmp_path: Path) -> None:
    """Two blocks, the last of five elements, both in one buffer."""
    spec = TensorSpec("w", dtype, (BLOCK_ELEMENTS + 5,))
    tensor = random_tensor(spec)
    path = tmp_path / "m.safetensors"
    header = {"w": entry(dtype, [BLOCK_ELEMENTS + 5], 0, spec.size_bytes)}
    path.write_bytes(file(header, bits(tensor)))
    with open_checkpoint(path) as reader:
        blocks = [(block.numel(), block.data_ptr(), bits(block)) for block in reader.blocks("w")]
        assert [count for count, _, _ in blocks] == [BLOCK_ELEMENTS, 5]
        assert blocks[0][1] == blocks[1][1]
        assert b"".join(data for _, _, data in blocks) == bits(tensor) == bits(reader.read("w"))


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(4)}
    save_file(tensors, tmp_path / "m.safetensors")
    for reader in (open_checkpoint(tmp_path), MemoryReader(tensors)):
        with reader:
            reader.read("w").zero_()
            next(reader.blocks("w")).zero_()
            assert torch.equal(reader.read("w"), torch.ones(4))


def test_memory_reader_is_the_twin_of_a_file(tmp_path: Path) -> None:
    tensors = model(3)
    save_file(tensors, tmp_path / "m.safetensors", {"a": "b"})
    with open_checkpoint(tmp_path) as found, MemoryReader(tensors, {"a": "b"}) as twin:
        assert twin.schema == found.schema
        assert twin.metadata == found.metadata
        assert contents(twin) == contents(found)


def test_memory_reader_takes_tensors_that_are_not_contiguous() -> None:
    tensor = torch.arange(12.0).reshape(3, 4).t()
    assert contents(MemoryReader({"w": tensor})) == {"w": bits(tensor.contiguous())}


def test_missing_tensor(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path) as reader:
        with pytest.raises(MissingTensor, match="'v'"):
            reader.read("v")
        with pytest.raises(MissingTensor, match="'v'"):
            list(reader.blocks("v"))


def test_file_cut_short_while_open_is_an_error_not_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    with open_checkpoint(path) as reader:
        os.truncate(path, 500)
        with pytest.raises(MalformedFile, match="cut short"):
            reader.read("w")


def test_closed_reader_says_so(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "m.safetensors")
    reader = open_checkpoint(tmp_path)
    reader.close()
    reader.close()
    with pytest.raises(BadPath, match="closed"):
        reader.read("w")


def test_paths_that_hold_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MissingCheckpoint, match="no such file"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(MissingCheckpoint, match=r"no \.safetensors file"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(zipped())
    with pytest.raises(UnsupportedFile, match="never opens pickles"):
        open_checkpoint(tmp_path)
    for name in ("a", "b"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UnsupportedFile, match="name the file itself"):
        open_checkpoint(tmp_path)


def test_pipe_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(BadPath, match="not a regular file"):
        open_checkpoint(tmp_path / "m.safetensors")


def sharded(folder: Path) -> dict[str, torch.Tensor]:
    tensors = model()
    names = sorted(tensors)
    homes = {name: f"model-{1 + (i % 3)}-of-3.safetensors" for i, name in enumerate(names)}
    for home in sorted(set(homes.values())):
        save_file(
            {n: tensors[n] for n in names if homes[n] == home}, folder / home, {"format": "pt"}
        )
    index = {"metadata": {"total_size": 1.5e10}, "weight_map": homes}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    return tensors


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    for path in (tmp_path, tmp_path / INDEX_NAME):
        with open_checkpoint(path) as reader:
            assert reader.metadata == {"format": "pt"}
            assert contents(reader) == {name: bits(tensor) for name, tensor in tensors.items()}
    assert read_schema(tmp_path).names == tuple(sorted(tensors))
    reader = open_checkpoint(tmp_path)
    reader.close()
    reader.close()
    with pytest.raises(BadPath, match="closed"):
        reader.read("scale")


SHARD = "model-1-of-3.safetensors"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scale": "../secret.safetensors"}, "plain name"),
        ({"scale": "/etc/passwd.safetensors"}, "plain name"),
        ({"scale": "model.bin"}, "plain name"),
        ({"scale": ""}, "plain name"),
        ({"scale": ".."}, "plain name"),
        ({"scale": 7}, "plain name"),
        ({"scale": "gone.safetensors"}, "no such file"),
        ({"ghost": SHARD}, "lacks tensor 'ghost'"),
        ({"bytes": None}, "the index says otherwise"),
        ({"bytes": "model-2-of-3.safetensors"}, "bytes"),
    ],
)
def test_index_that_is_refused(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    sharded(tmp_path)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    index["weight_map"] |= change
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v is not None}
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(WeftError, match=fault):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map":[]}', '{"weight_map":{}}', '{"weight_map":{"a":"x","a":"x"}}'],
)
def test_index_that_is_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_NAME).write_text(text)
    with pytest.raises(MalformedFile):
        open_checkpoint(tmp_path)


def test_failed_open_leaves_no_descriptor(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / SHARD).write_bytes(MALFORMED["hole"])
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / SHARD):
        with pytest.raises(MalformedFile):
            open_checkpoint(path)
    assert len(os.listdir("/proc/self/fd")) == before
