"""One way to write a manifest, and no other is read."""

import json
import time
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.entries import TensorEntry, size_cap
from weft.checkpoints.errors import BadManifest, MissingTensor, TooLarge
from weft.checkpoints.manifest import (
    MAX_CHUNKS,
    MAX_MANIFEST_BYTES,
    MAX_METADATA_BYTES,
    MAX_TENSORS,
    Manifest,
)
from weft.checkpoints.schema import TensorSpec
from weft.errors import WeftError

BASE = "ab" * 32
ZERO, ONE = b"\x00" * 32, b"\x01" * 32


def plain(name: str, shape: tuple[int, ...], *chunks: bytes) -> TensorEntry:
    spec = TensorSpec(name, "F32", shape)
    return TensorEntry(
        name=name, dtype="F32", shape=shape, size_bytes=spec.size_bytes, chunks=chunks
    )


SMALL = Manifest(kind="model", tensors=(plain("b", (2,), ONE), plain("a", (), ZERO)))
SMALL_BYTES = (
    b'{"against":null,"codec":"plain","format":"weft-artifact-1","kind":"model","metadata":{},'
    b'"tensors":[{"chunks":"' + b"00" * 32 + b'","dtype":"F32","name":"a","shape":[],"size":4},'
    b'{"chunks":"' + b"01" * 32 + b'","dtype":"F32","name":"b","shape":[2],"size":8}]}'
)


def test_bytes_and_digest_by_hand() -> None:
    assert SMALL.to_bytes() == SMALL_BYTES
    assert SMALL.digest == blake3(SMALL_BYTES).hexdigest()
    assert Manifest.from_bytes(SMALL_BYTES) == SMALL


def entries(codec: str) -> st.SearchStrategy[TensorEntry]:
    def build(name: str, extent: int, fill: int) -> TensorEntry:
        size = extent if codec != "plain" else extent * 4
        count = -(-size // CHUNK_BYTES)
        return TensorEntry(
            name=name,
            dtype="F32",
            shape=(extent,),
            size_bytes=size,
            chunks=(bytes([fill]) * 32,) * count,
        )

    extents = st.sampled_from([0, 1, 7, CHUNK_BYTES // 4, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
    return st.builds(build, st.text("abcé.", min_size=1, max_size=5), extents, st.integers(0, 255))


def manifests() -> st.SearchStrategy[Manifest]:
    def of(codec: str) -> st.SearchStrategy[Manifest]:
        return st.builds(
            Manifest,
            kind=st.sampled_from(["model", "delta", "moments", "share", "index"]),
            codec=st.just(codec),
            against=st.none() if codec == "plain" else st.sampled_from([None, BASE]),
            metadata=st.dictionaries(st.text("xyü\n", max_size=3), st.text('12"', max_size=3)),
            tensors=st.lists(
                entries(codec).filter(lambda entry: ".." not in entry.name),
                max_size=6,
                unique_by=lambda entry: entry.name,
            ).map(tuple),
        )

    return st.sampled_from(["plain", "raw", "lossless", "some_later_one"]).flatmap(of)


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.digest == manifest.digest
    assert list(again.metadata) == sorted(again.metadata)


@given(manifests())
def test_chunks_tile_the_payload(manifest: Manifest) -> None:
    chunks = [manifest.chunk(index) for index in range(manifest.chunk_count)]
    assert [chunk.index for chunk in chunks] == list(range(manifest.chunk_count))
    assert [c for entry in manifest.tensors for c in manifest.chunks_of(entry.name)] == chunks
    cursor = 0
    for chunk in sorted(chunks, key=lambda found: found.offset_in_payload):
        assert chunk.offset_in_payload == cursor
        assert 0 < chunk.length <= CHUNK_BYTES
        cursor += chunk.length
    assert cursor == manifest.total_bytes


@given(manifests(), manifests())
def test_equal_digest_equal_manifest(first: Manifest, second: Manifest) -> None:
    assert (first.digest == second.digest) == (first == second)


def test_chunk_by_hand() -> None:
    extent = CHUNK_BYTES // 4 + 1
    manifest = Manifest(
        kind="model", tensors=(plain("a", (1,), ZERO), plain("b", (extent,), ZERO, ONE))
    )
    last = manifest.chunk(2)
    assert (last.name, last.offset_in_tensor, last.offset_in_payload) == (
        "b", CHUNK_BYTES, CHUNK_BYTES + 4
    )  # fmt: skip
    assert (last.length, last.digest) == (4, ONE)
    assert manifest.total_bytes == CHUNK_BYTES + 8
    for index in (-1, 3):
        with pytest.raises(BadManifest, match="has 3"):
            manifest.chunk(index)
    with pytest.raises(MissingTensor):
        manifest.entry("z")


def test_schema_is_the_models_and_stored_schema_the_files() -> None:
    entry = TensorEntry(name="w", dtype="BF16", shape=(2, 3), size_bytes=9, chunks=(ONE,))
    manifest = Manifest(kind="delta", codec="lossless", against=BASE, tensors=(entry,))
    assert manifest.schema.tensors == (TensorSpec("w", "BF16", (2, 3)),)
    assert manifest.stored_schema.tensors == (TensorSpec("w", "U8", (9,)),)
    assert SMALL.stored_schema == SMALL.schema


def changed(**changes: object) -> bytes:
    document = json.loads(SMALL_BYTES)
    document.update(changes)
    return dumped(document)


def dumped(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def with_tensor(**changes: object) -> bytes:
    document = json.loads(SMALL_BYTES)
    document["tensors"][0].update(changes)
    return dumped(document)


def without(key: str) -> bytes:
    document = json.loads(SMALL_BYTES)
    del document[key]
    return dumped(document)


HEX = "00" * 32
REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "space": SMALL_BYTES.replace(b":", b": "),
    "space behind": SMALL_BYTES + b" ",
    "key twice": SMALL_BYTES.replace(b'"kind":"model"', b'"kind":"delta","kind":"model"'),
    "other order of keys": json.dumps(
        dict(reversed(json.loads(SMALL_BYTES).items())), separators=(",", ":")
    ).encode(),
    "tensors not sorted": dumped(
        {**json.loads(SMALL_BYTES), "tensors": json.loads(SMALL_BYTES)["tensors"][::-1]}
    ),
    "tensor twice": dumped(
        {**json.loads(SMALL_BYTES), "tensors": json.loads(SMALL_BYTES)["tensors"][:1] * 2}
    ),
    "escaped otherwise": SMALL_BYTES.replace(b'"model"', b'"\\u006dodel"'),
    "extra field": changed(extra=1),
    "missing field": without("codec"),
    "other format": changed(format="weft-artifact-2"),
    "kind unknown": changed(kind="weights"),
    "kind a number": changed(kind=1),
    "codec with a path": changed(codec="../raw"),
    "codec empty": changed(codec=""),
    "codec a number": changed(codec=1),
    "against short": changed(codec="raw", against="ab"),
    "against in capitals": changed(codec="raw", against="AB" * 32),
    "against a list": changed(codec="raw", against=[]),
    "plain against something": changed(against=BASE),
    "metadata a list": changed(metadata=[]),
    "metadata a number": changed(metadata={"a": 1}),
    "metadata half a character": changed(metadata={"a": "\ud800"}),
    "tensors an object": changed(tensors={}),
    "tensor a text": changed(tensors=["a"]),
    "tensor with an extra field": with_tensor(extra=1),
    "name a path": with_tensor(name="../a"),
    "name a number": with_tensor(name=1),
    "dtype unknown": with_tensor(dtype="F4"),
    "dtype null": with_tensor(dtype=None),
    "shape a number": with_tensor(shape=1),
    "shape negative": with_tensor(shape=[-1]),
    "shape a float": with_tensor(shape=[1.0]),
    "shape boolean": with_tensor(shape=[True]),
    "shape huge": with_tensor(shape=[2**70]),
    "size a float": with_tensor(size=4.0),
    "size a boolean": with_tensor(size=True),
    "size negative": with_tensor(size=-4),
    "size not the shape's": with_tensor(size=8),
    "size 2^63": with_tensor(size=2**63),
    "encoded size beyond any codec": dumped(
        {**json.loads(with_tensor(size=10**6)), "codec": "raw"}
    ),
    "chunk too few": with_tensor(chunks=""),
    "chunk too many": with_tensor(chunks=HEX * 2),
    "chunk half": with_tensor(chunks=HEX[:-2]),
    "chunk odd": with_tensor(chunks=HEX[:-1]),
    "chunk no hexadecimal": with_tensor(chunks="zz" * 32),
    "chunk in capitals": with_tensor(chunks="AB" * 32),
    "chunk with spaces": with_tensor(chunks="00 " * 32),
    "chunk a list": with_tensor(chunks=[HEX]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_manifest_that_is_refused(name: str) -> None:
    with pytest.raises(BadManifest) as caught:
        Manifest.from_bytes(REFUSED[name])
    assert str(caught.value).startswith("manifest: ")
    assert len(str(caught.value)) < 400


EMPTY = b'{"chunks":"","dtype":"F32","name":"a","shape":[0],"size":0},'
BOMBS: dict[str, Callable[[], bytes]] = {
    "too many bytes": lambda: b" " * (MAX_MANIFEST_BYTES + 1),
    "too many values": lambda: b"[" + b"0," * (24 * MAX_TENSORS) + b"0]",
    "too many lists": lambda: b"[" * (24 * MAX_TENSORS + 1),
    "too many tensors": lambda: SMALL_BYTES.replace(b",{", b"," + EMPTY * MAX_TENSORS + b"{"),
    "too much metadata": lambda: changed(metadata={"a": "x" * MAX_METADATA_BYTES}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_manifest_beyond_the_limits(name: str) -> None:
    data = BOMBS[name]()
    started = time.perf_counter()
    with pytest.raises(TooLarge):
        Manifest.from_bytes(data)
    assert time.perf_counter() - started < 10


def test_more_chunks_than_allowed() -> None:
    half = MAX_CHUNKS // 2 + 1
    extent = half * CHUNK_BYTES // 4
    both = tuple(plain(name, (extent,), *((ZERO,) * half)) for name in "ab")
    with pytest.raises(TooLarge, match="chunks are beyond"):
        Manifest(kind="model", tensors=both)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(WeftError):
        Manifest.from_bytes(data)


@given(st.integers(0, len(SMALL_BYTES) - 1), st.integers(1, 255))
def test_one_changed_byte_is_another_manifest_or_none(position: int, flip: int) -> None:
    data = bytearray(SMALL_BYTES)
    data[position] ^= flip
    try:
        found = Manifest.from_bytes(bytes(data))
    except WeftError:
        return
    assert found.digest != SMALL.digest
    assert found.to_bytes() == bytes(data)


def test_size_cap_has_room_for_every_codec() -> None:
    spec = TensorSpec("w", "F64", (2**20 + 1,))
    assert size_cap(spec) == 8 * (2**20 + 1) + 2 * 4096
    assert size_cap(TensorSpec("w", "F64", (0,))) == 0
