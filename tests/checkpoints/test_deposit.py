"""What is made here: in order, complete, or not at all."""

import os
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.checkpoints.stores import random_bytes, schema_of_sizes
from tests.checkpoints.test_writer import file_size_limit
from weft.checkpoints.digest import ChunkHasher
from weft.checkpoints.errors import BadManifest, BadTensor, DiskFull, MissingTensor
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store

TWO = schema_of_sizes({"a": 4, "b": 2})
BASE = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def empty(store: Store) -> bool:
    return store.digests() == [] and os.listdir(store.root / "staging") == []


def test_order_and_names_are_checked(store: Store) -> None:
    with store.deposit(TWO, kind="model") as deposit:
        with pytest.raises(MissingTensor):
            deposit.write("z", [b""])
        with pytest.raises(BadTensor, match="not its turn"):
            deposit.write("b", [b"12"])
        deposit.write("a", [b"12", b"", b"34"])
        with pytest.raises(BadTensor, match="not its turn"):
            deposit.write("a", [b"1234"])
        deposit.write("b", [b"56"])
        with pytest.raises(BadTensor, match="not its turn"):
            deposit.write("b", [b"56"])
    assert store.read_chunk(deposit.digest, 0) == b"1234"


@pytest.mark.parametrize("data", [b"123", b"12345", b""])
def test_plain_tensor_of_another_size(store: Store, data: bytes) -> None:
    with pytest.raises(BadTensor), store.deposit(TWO, kind="model") as deposit:
        deposit.write("a", [data])
    assert empty(store)


def test_encoded_tensor_beyond_any_codec(store: Store) -> None:
    with (
        pytest.raises(BadTensor, match="more than"),
        store.deposit(TWO, kind="delta", codec="raw") as deposit,
    ):
        deposit.write("a", (bytes(1000) for _ in range(10)))
    assert empty(store)


def test_missing_tensor_at_the_end(store: Store) -> None:
    deposit = store.deposit(TWO, kind="model")
    with pytest.raises(BadTensor, match="1 tensors were not put, b the first"), deposit:
        deposit.write("a", [b"1234"])
    assert empty(store)
    assert deposit.digest == ""


def test_exception_leaves_nothing(store: Store) -> None:
    def fail_halfway() -> None:
        with store.deposit(TWO, kind="model") as deposit:
            deposit.write("a", [b"1234"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert empty(store)


def test_contradictions_are_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(BadManifest, match="against nothing"):
        store.deposit(TWO, kind="delta", against=BASE)
    with pytest.raises(BadManifest, match="no digest"):
        store.deposit(TWO, kind="delta", codec="raw", against="base")
    assert empty(store)


def test_encoded_sizes_follow_from_the_bytes(store: Store) -> None:
    schema = Schema((TensorSpec("a", "F32", (1000,)), TensorSpec("b", "F32", (2,))))
    with store.deposit(schema, kind="delta", codec="lossless", against=BASE) as deposit:
        deposit.write("a", [b"short"])
        deposit.write("b", [random_bytes(0, 1000), random_bytes(1, 500)])
    manifest = store.manifest(deposit.digest)
    assert [(e.name, e.size_bytes, len(e.chunks)) for e in manifest.tensors] == [
        ("a", 5, 1),
        ("b", 1500, 1),
    ]
    assert manifest.schema == schema
    assert manifest.against == BASE
    assert store.read_chunk(deposit.digest, 1) == random_bytes(0, 1000) + random_bytes(1, 500)


def test_payload_opens_with_the_reference(store: Store) -> None:
    schema = Schema((TensorSpec("a", "U8", (3,)), TensorSpec("b", "F64", (1,))))
    with store.deposit(schema, kind="model", metadata={"k": "v"}) as deposit:
        deposit.write("a", [b"\x01\x02\x03"])
        deposit.write("b", [bytes(8)])
    with safe_open(store.payload_path(deposit.digest), "pt") as found:
        assert found.metadata() == {"k": "v"}
        assert found.get_tensor("a").tolist() == [1, 2, 3]
        assert found.get_tensor("b").tolist() == [0.0]


def test_digest_depends_on_everything_but_the_layout(store: Store) -> None:
    def put(data: bytes = b"1234", **changes: str) -> str:
        arguments = {"kind": "model", "metadata": "", **changes}
        schema = schema_of_sizes({changes.get("name", "a"): 4})
        with store.deposit(
            schema,
            kind="share" if arguments["kind"] == "share" else "model",
            metadata={"m": arguments["metadata"]},
        ) as deposit:
            deposit.write(schema.tensors[0].name, [data])
        return deposit.digest

    digests = [put(), put(b"1235"), put(kind="share"), put(metadata="x"), put(name="b")]
    assert len(set(digests)) == len(digests)
    assert put() == digests[0]


def test_no_room_by_the_expected_size(store: Store) -> None:
    with pytest.raises(DiskFull, match="bytes are needed"):
        store.deposit(TWO, kind="model", expect_bytes=2**60).__enter__()
    assert empty(store)


def test_no_room_while_writing(store: Store) -> None:
    schema = schema_of_sizes({"a": 2**20})
    deposit = store.deposit(schema, kind="model", expect_bytes=2**20)
    with file_size_limit(2**19), pytest.raises(DiskFull), deposit:
        deposit.write("a", [bytes(2**20)])
    assert empty(store)
    with store.deposit(schema, kind="model") as deposit:
        deposit.write("a", [bytes(2**20)])
    hasher = ChunkHasher()
    hasher.update(bytes(2**20))
    assert store.manifest(deposit.digest).tensors[0].chunks == hasher.digests()
