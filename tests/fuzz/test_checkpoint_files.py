"""Mutated checkpoint files, indices, manifests, deltas: a typed error, or a valid reading.

Bounded: a few thousand mutations in a few seconds; `--hypothesis-seed=random` and
a higher `WEFT_FUZZ_EXAMPLES` make a long run of it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints.crafted import contents, entry, file, model
from weft.checkpoints.artifacts import open_contribution, put_delta, put_model
from weft.checkpoints.codecs.codec import ByteStream
from weft.checkpoints.codecs.registry import create, names
from weft.checkpoints.digest import digest_of
from weft.checkpoints.header import build_header
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import INDEX_NAME, MemoryReader, open_checkpoint
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store
from weft.checkpoints.writer import write_checkpoint
from weft.errors import WeftError

EXAMPLES = int(os.environ.get("WEFT_FUZZ_EXAMPLES", "400"))
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Mutation = Callable[[bytes], bytes]


def flipped(place: float, mask: int) -> Mutation:
    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        if changed:
            changed[int(place * len(changed))] ^= mask
        return bytes(changed)

    return mutate


def cut(start: float, length: int) -> Mutation:
    return lambda data: data[: int(start * len(data))] + data[int(start * len(data)) + length :]


def inserted(place: float, text: bytes) -> Mutation:
    return lambda data: data[: int(place * len(data))] + text + data[int(place * len(data)) :]


def replaced(old: bytes, new: bytes) -> Mutation:
    return lambda data: data.replace(old, new, 1)


PLACES = st.floats(0, 1, exclude_max=True)
WORDS = st.sampled_from(
    [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"9", b"-", b".", b"e", b"null", b"NaN"]
    + [
        b" ",
        b"\n",
        b"\x00",
        b"\xff",
        b"\\u0000",
        b'"F32"',
        b'"I64"',
        b'"BOOL"',
        b"true",
        b"\x80\x02",
    ]
    + [str(2**power).encode() for power in (8, 31, 32, 53, 62, 63, 64, 200)]
)
MUTATIONS = st.lists(
    st.one_of(
        st.builds(flipped, PLACES, st.integers(1, 255)),
        st.builds(cut, PLACES, st.integers(1, 40)),
        st.builds(inserted, PLACES, WORDS | st.binary(max_size=12)),
        st.builds(replaced, WORDS, WORDS),
    ),
    min_size=1,
    max_size=4,
)


def outcome(call: Callable[[], object]) -> str:
    """The message of a typed error, or nothing; any other error is a failure of the test."""
    try:
        call()
    except WeftError as error:
        return str(error)
    return ""


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    for mutate in mutations:
        data = mutate(data)
    return data


def whole_file() -> bytes:
    tensors = {name: model()[name] for name in ("fc.weight", "mask", "scale", "empty", "ids")}
    reader = MemoryReader(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data, offset = b"", 0
    for name, raw in contents(reader).items():
        spec = reader.schema[name]
        header[name] = entry(spec.dtype, list(spec.shape), offset, offset + len(raw))
        data, offset = data + raw, offset + len(raw)
    return file(header, data)


FILE = whole_file()


def read_all(path: Path) -> None:
    with open_checkpoint(path) as reader:
        found = contents(reader)
    assert sum(map(len, found.values())) == reader.schema.size_bytes


def check_file(path: Path) -> None:
    fault = outcome(lambda: read_all(path))
    assert fault == "" or fault.startswith(str(path))
    assert len(fault) < 2500


@BOUNDED
@given(mutations=MUTATIONS)
def test_file(mutations: list[Mutation], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(mutated(FILE, mutations))
    check_file(path)


@BOUNDED
@given(mutations=MUTATIONS)
def test_header_with_its_length_right(mutations: list[Mutation], tmp_path: Path) -> None:
    """As above, but the length follows the mutation, so that more of the parser is met."""
    length = int.from_bytes(FILE[:8], "little")
    header = mutated(FILE[8 : 8 + length], mutations)
    path = tmp_path / "m.safetensors"
    path.write_bytes(file(header, FILE[8 + length :]))
    check_file(path)


@BOUNDED
@given(mutations=MUTATIONS)
def test_index(mutations: list[Mutation], tmp_path: Path) -> None:
    homes: dict[str, str] = {}
    for shard, part in (("a.safetensors", ("fc.weight", "mask")), ("b.safetensors", ("scale",))):
        if not (tmp_path / shard).exists():
            write_checkpoint(tmp_path / shard, {name: model()[name] for name in part})
        homes |= dict.fromkeys(part, shard)
    text = json.dumps({"metadata": {"total_size": 1.0}, "weight_map": homes}).encode()
    (tmp_path / INDEX_NAME).write_bytes(mutated(text, mutations))
    check_file(tmp_path)


@pytest.fixture(scope="module")
def manifest_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    store = Store(tmp_path_factory.mktemp("store"))
    return store.manifest_bytes(put_model(store, MemoryReader(model()), metadata={"a": "b"}))


def read_manifest(data: bytes) -> None:
    found = Manifest.from_bytes(data)
    assert found.to_bytes() == data
    assert found.digest == digest_of(data)
    assert build_header(found.stored_schema, found.metadata)
    count = found.chunk_count
    assert [found.chunk(index).index for index in range(count)] == list(range(count))


@BOUNDED
@given(mutations=MUTATIONS)
def test_manifest(mutations: list[Mutation], manifest_bytes: bytes) -> None:
    fault = outcome(lambda: read_manifest(mutated(manifest_bytes, mutations)))
    assert fault == "" or fault.startswith("manifest: ")


SPEC = TensorSpec("w", "BF16", (37, 5))


@pytest.mark.parametrize("codec", names())
@BOUNDED
@given(mutations=MUTATIONS)
def test_encoded_bytes(codec: str, mutations: list[Mutation]) -> None:
    """What a hostile sender may put under a digest of its own."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(37 * 5, generator=generator).bfloat16()
    encoded = b"".join(bytes(part) for part in create(codec).encode(SPEC, [base + 1], [base]))

    def decode() -> None:
        stream = ByteStream([mutated(encoded, mutations)], "x")
        blocks = list(create(codec).decode(SPEC, stream, [base]))
        assert sum(block.numel() for block in blocks) == SPEC.elements

    fault = outcome(decode)
    assert fault == "" or fault.startswith("x: ")


@settings(BOUNDED, max_examples=EXAMPLES // 2)
@given(mutations=MUTATIONS, codec=st.sampled_from(names()), part=st.sampled_from(["m", "p"]))
def test_object_on_the_disk(
    mutations: list[Mutation],
    codec: str,
    part: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is changed in an object: the same bytes come out, or an error that names it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    store = Store(tmp_path_factory.mktemp("store"))
    base = MemoryReader({"w": torch.arange(50.0)})
    against = put_model(store, base)
    finetuned = {"w": torch.arange(50.0) + 0.5}
    digest = put_delta(store, MemoryReader(finetuned), base, against, codec)
    payload = store.payload_path(digest)
    path = payload if part == "p" else payload.with_name("manifest.json")
    path.chmod(0o644)
    path.write_bytes(mutated(path.read_bytes(), mutations))

    def read() -> None:
        with open_contribution(Store(store.root), digest, base) as reader:
            assert torch.equal(reader.read("w"), finetuned["w"])

    fault = outcome(read)
    assert fault == "" or digest in fault


def test_empty_schema_has_a_header() -> None:
    assert build_header(Schema(()), {}) == (8).to_bytes(8, "little") + b"{}      "
