"""Stored bytes by chunk and by range, verified or not."""

import os
from pathlib import Path

import pytest

from tests.checkpoints.stores import CHUNK, SIZES, flip, put_bytes, random_bytes
from weft.checkpoints.errors import CorruptArtifact, MissingArtifact, MissingTensor
from weft.checkpoints.payload import Payload
from weft.checkpoints.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_chunks_of_a_tensor_in_one_buffer(store: Store) -> None:
    with store.payload(put_bytes(store)) as payload:
        parts = [(bytes(part), part.obj) for part in payload.chunks("a")]
        assert [len(part) for part, _ in parts] == [CHUNK, CHUNK, 100]
        assert b"".join(part for part, _ in parts) == random_bytes(0, SIZES["a"])
        assert len({id(owner) for _, owner in parts}) == 1
        assert list(payload.chunks("c")) == []
        with pytest.raises(MissingTensor):
            list(payload.chunks("z"))


@pytest.mark.parametrize("start", [0, CHUNK, 2 * CHUNK])
def test_fill_from_a_chunk_on(store: Store, start: int) -> None:
    whole = random_bytes(0, SIZES["a"])
    with store.payload(put_bytes(store)) as payload:
        for stop in {start + CHUNK, SIZES["a"]} - {3 * CHUNK}:
            into = bytearray(stop - start)
            payload.fill("a", memoryview(into), start)
            assert into == whole[start:stop]


def test_only_the_chunks_that_are_read_are_judged(store: Store) -> None:
    digest = put_bytes(store)
    path = store.payload_path(digest)
    offset = store.manifest(digest).chunk(1).offset_in_payload
    flip(path, path.stat().st_size - store.manifest(digest).total_bytes + offset + 17)
    into = memoryview(bytearray(CHUNK))
    with store.payload(digest) as payload:
        payload.fill("a", into, 0)
        payload.read_chunk(2)
        with pytest.raises(CorruptArtifact, match="chunk 1 of tensor a has changed"):
            payload.fill("a", into, CHUNK)
        with pytest.raises(CorruptArtifact, match="chunk 1 of tensor a has changed"):
            payload.read_chunk(1)
        with pytest.raises(CorruptArtifact):
            list(payload.chunks("a"))
    with store.payload(digest, verify=False) as payload:
        payload.fill("a", into, CHUNK)
        assert bytes(into) != random_bytes(0, SIZES["a"])[CHUNK : 2 * CHUNK]


def test_object_that_went_away(store: Store) -> None:
    digest = put_bytes(store)
    manifest, path = store.manifest(digest), store.payload_path(digest)
    store.remove(digest)
    with pytest.raises(MissingArtifact, match="gone from this store"):
        Payload(path, manifest)


def test_failed_open_leaves_no_descriptor(store: Store) -> None:
    digest = put_bytes(store)
    manifest, path = store.manifest(digest), store.payload_path(digest)
    os.truncate(path, 100)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(CorruptArtifact, match="100 bytes"):
            Payload(path, manifest)
    assert len(os.listdir("/proc/self/fd")) == before
