"""The catalogue of bad checkpoint files, row by row: what is met by files alone.

Each row is a function that writes the bad input and returns its path, and the family of
the error that must come of opening and reading it; or none, where the row is to be taken.
Variants of many rows are in `test_reader.py`, one bad byte beside the next.
"""

import gzip
import json
import math
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.crafted import contents, entry, file
from tests.checkpoints.folders import save_adapter
from tests.checkpoints.test_reader import zipped
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.inputs import model_digest, open_input
from weft.checkpoints.inspection import inspect_model
from weft.checkpoints.reader import INDEX_NAME, MemoryReader
from weft.checkpoints.schema import check
from weft.errors import Corrupt, InvalidInput, NotFound, Refused, WeftError

BASE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "ids": torch.arange(3)}
FOUR = b"\x00" * 4
ONE = entry("F32", [1], 0, 4)

Row = tuple[Callable[[Path], Path], type[WeftError]]


def raw(*data: bytes) -> Callable[[Path], Path]:
    """These files; all but the last must be refused here already."""

    def write(folder: Path) -> Path:
        for number, content in enumerate(data):
            path = folder / f"{number}.safetensors"
            path.write_bytes(content)
            if number < len(data) - 1:
                with pytest.raises(WeftError):
                    open_input(path)
        return path

    return write


def saved(**changes: torch.Tensor | None) -> Callable[[Path], Path]:
    """The base's tensors, some changed, some left out."""

    def write(folder: Path) -> Path:
        tensors = {name.replace("fc_", "fc."): tensor for name, tensor in changes.items()}
        kept = {name: t for name, t in (BASE | tensors).items() if t is not None}
        save_file({n: t.contiguous() for n, t in kept.items()}, folder / "m.safetensors")
        return folder / "m.safetensors"

    return write


def index(**homes: str) -> Callable[[Path], Path]:
    """One shard that holds `a`, and this index."""

    def write(folder: Path) -> Path:
        save_file({"a": torch.ones(1)}, folder / "one.safetensors")
        (folder / INDEX_NAME).write_text(json.dumps({"weight_map": homes}))
        return folder

    return write


def adapter(rank: int = 2, width: int = 3, **config: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        factors = {
            "fc.lora_A.weight": torch.ones(rank, width),
            "fc.lora_B.weight": torch.ones(2, rank),
        }
        return save_adapter(folder / "adapter", factors, **config)

    return write


def delta_of_another_base(folder: Path) -> Path:
    other = MemoryReader({name: tensor + 1 for name, tensor in BASE.items()})
    write_delta(folder / "delta", other, other, model_digest(other), "lossless")
    return folder / "delta"


def as_full_delta(folder: Path) -> Path:
    """An adapter's tensors where a model is expected."""
    path = adapter()(folder)
    return path / "adapter_model.safetensors"


def nested(levels: int) -> str:
    return '{"__metadata__":' + '{"a":' * levels + "1" + "}" * (levels + 1)


ROWS: dict[str, Row] = {
    "empty, seven bytes, eight zero bytes": (raw(b"", b"\0" * 7, b"\0" * 8), Corrupt),
    "impossible header lengths": (
        raw(*(file("{}", length=n) for n in (2**63, 2**64 - 1, 100_000_001))),
        Corrupt,
    ),
    "header longer than the file, or one byte short": (
        raw(file("{}", length=3), file({"a": ONE}, FOUR, length=len(json.dumps({"a": ONE})) - 1)),
        Corrupt,
    ),
    "cut in the header, or one byte before the end": (
        raw(file({"a": ONE}, FOUR)[:20], file({"a": ONE}, FOUR)[:-1]),
        Corrupt,
    ),
    "bytes behind the end": (
        raw(file({"a": ONE}, FOUR + b"\0"), file({"a": ONE}, FOUR + zipped())),
        Corrupt,
    ),
    "overlapping ranges, two names for one range": (
        raw(
            file({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, FOUR * 3),
            file({"a": ONE, "b": ONE}, FOUR),
        ),
        Corrupt,
    ),
    "holes, and offsets that run backwards, below zero, past the end": (
        raw(
            file({"a": ONE, "b": entry("F32", [1], 8, 12)}, FOUR * 3),
            file({"a": entry("F32", [1], 4, 0)}, FOUR),
            file({"a": entry("F32", [1], -4, 0)}, FOUR),
            file({"a": entry("F32", [100], 0, 400)}, FOUR),
        ),
        Corrupt,
    ),
    "shapes that are not the bytes": (
        raw(
            file({"a": entry("F32", [2], 0, 4)}, FOUR),
            file({"a": entry("F32", [2**62, 4], 0, 0)}),
            file({"a": entry("F32", [-1, -1], 0, 4)}, FOUR),
            file({"a": entry("F32", [1.5], 0, 6)}, b"\0" * 6),
            file({"a": entry("F4", [3], 0, 1)}, b"\0"),
        ),
        Corrupt,
    ),
    "a dtype of equal width": (
        saved(fc_weight=BASE["fc.weight"].view(torch.int32)),
        Refused,
    ),
    "an unknown dtype": (raw(file({"a": entry("F128", [1], 0, 16)}, b"\0" * 16)), Corrupt),
    "no elements in 2^62 rows": (raw(file({"a": entry("F32", [0, 2**62], 0, 0)})), Corrupt),
    "one key twice with one range": (
        raw(file(f'{{"a":{json.dumps(ONE)},"a":{json.dumps(ONE)}}}', FOUR)),
        Corrupt,
    ),
    "one key twice with two ranges, metadata twice": (
        raw(
            file(f'{{"a":{json.dumps(ONE)},"a":{json.dumps(entry("F32", [1], 4, 8))}}}', FOUR * 2),
            file('{"__metadata__":{},"__metadata__":{}}'),
        ),
        Corrupt,
    ),
    "metadata that is not texts, or nested 50,000 deep": (
        raw(file('{"__metadata__":{"a":1}}'), file(nested(1)), file(nested(50_000))),
        Corrupt,
    ),
    "names that could be paths or hide something": (
        raw(
            *(
                file({name: ONE}, FOUR)
                for name in ("../../x", "/abs", "a\0", "", "x" * 10**6, "a\u202eb")
            )
        ),
        Corrupt,
    ),
    "a name that looks like another": (
        saved(**{"fc_weight": None, "fс_weight": BASE["fc.weight"]}),  # noqa: RUF001
        Refused,
    ),
    "no UTF-8, a byte order mark, no JSON, 100,000 brackets": (
        raw(
            *(file(b) for b in (b'{"\xff":{}}', b"\xef\xbb\xbf{}", b"{hi}", b"[]", b"null")),
            file("{}}"),
            file('{"a":' + "[" * 100_000),
        ),
        Corrupt,
    ),
    "a field more in an entry, spaces in front": (
        raw(file({"a": {**ONE, "compression": "none"}}, FOUR), file(" {}")),
        Corrupt,
    ),
    "a million empty tensors": (
        raw(file({f"{i}": entry("F32", [0], 0, 0) for i in range(10**6)})),
        Corrupt,
    ),
    "90 MB of spaces": (raw(file("{}" + " " * 90 * 10**6)), Corrupt),
    "boolean bytes other than 0 and 1": (
        raw(file({"mask": entry("BOOL", [3], 0, 3)}, b"\0\x01\x02")),
        Corrupt,
    ),
    "a matrix turned": (saved(fc_weight=BASE["fc.weight"].t()), Refused),
    "a row more": (saved(fc_weight=torch.ones(3, 3)), Refused),
    "a tensor missing": (saved(ids=None), Refused),
    "a tensor too many": (saved(extra=torch.ones(1)), Refused),
    "one alias of tied weights missing": (saved(fc_weight=None), Refused),
    "an adapter sent as a full model": (as_full_delta, Refused),
    "quantised weights sent as a full model": (saved(fc_weight=torch.ones(2, 3).char()), Refused),
    "an adapter of another rank": (adapter(rank=3), Corrupt),
    "an adapter with an alpha that is none": (adapter(lora_alpha=math.inf), Corrupt),
    "an adapter of another base": (adapter(width=4), Refused),
    "a delta of another base": (delta_of_another_base, Refused),
    "an index that names a missing shard": (
        index(a="one.safetensors", b="two.safetensors"),
        NotFound,
    ),
    "an index that names a path outside": (index(a="../one.safetensors"), Corrupt),
    "an index that gives a tensor to the wrong shard": (
        index(a="one.safetensors", b="one.safetensors"),
        Corrupt,
    ),
    "a pickle": (raw(pickle.dumps({"a": [1.0] * 50}, 2)), InvalidInput),
    "a zip archive": (raw(zipped()), InvalidInput),
    "gzip": (raw(gzip.compress(b"hello" * 20)), InvalidInput),
    "a web page": (raw(b"<!DOCTYPE html><html><body>404</body></html>"), InvalidInput),
}


def take(path: Path, base: RangeReader) -> None:
    """What a merge does first: open, read everything, compare with the base."""
    with open_input(path, base) as reader:
        contents(reader)
        check(reader.schema, base.schema, str(path))


@pytest.mark.parametrize("row", ROWS)
def test_row_is_refused(row: str, tmp_path: Path) -> None:
    write, family = ROWS[row]
    path = write(tmp_path)
    started = time.perf_counter()
    with pytest.raises(family) as caught:
        take(path, MemoryReader(BASE))
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "\n" not in message
    assert len(message) < 2500


BITS = {
    "a NaN": torch.tensor([1.0, math.nan]),
    "infinities": torch.tensor([math.inf, -math.inf]),
    "nothing but NaN": torch.full((2,), math.nan),
    "NaN in sixteen bits": torch.tensor([1.0, math.nan]).bfloat16(),
    "infinity in eight bits": torch.tensor([1.0, math.inf]).to(torch.float8_e5m2),
}


@pytest.mark.parametrize("row", BITS)
def test_values_that_are_not_finite_are_named(row: str, tmp_path: Path) -> None:
    """A file may hold them; they are found by name, and a merge refuses them."""
    save_file({"good": torch.ones(2), "bad": BITS[row]}, tmp_path / "m.safetensors")
    with open_input(tmp_path / "m.safetensors") as reader:
        found = inspect_model(reader)
    assert [facts.name for facts in found.not_finite] == ["bad"]


def test_huge_values_are_not_called_infinite(tmp_path: Path) -> None:
    save_file({"w": torch.full((3,), 3e38)}, tmp_path / "m.safetensors")
    with open_input(tmp_path / "m.safetensors") as reader:
        found = inspect_model(reader)
    assert found.not_finite == ()
    assert found.norm == pytest.approx(3e38 * math.sqrt(3), rel=1e-6)


def test_denormals_are_taken_as_they_are(tmp_path: Path) -> None:
    tiny = struct.unpack("<f", struct.pack("<I", 1))[0]
    tensors = {"w": torch.full((1000,), tiny)}
    save_file(tensors, tmp_path / "m.safetensors")
    started = time.perf_counter()
    with open_input(tmp_path / "m.safetensors") as reader:
        assert torch.equal(reader.read("w"), tensors["w"])
        assert inspect_model(reader).tensors[0].maximum == tiny
    assert time.perf_counter() - started < 5
