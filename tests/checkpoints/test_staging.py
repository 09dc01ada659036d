"""Only what is verified enters; what was there stays; the last chunk makes an object."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints.stores import CHUNK, SIZES, fetch, put_bytes
from tests.checkpoints.test_writer import file_size_limit
from weft.checkpoints.errors import BadChunk, BadManifest, BadPath, DiskFull, IncompleteArtifact
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store


@pytest.fixture
def source(tmp_path: Path) -> Store:
    return Store(tmp_path / "source")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def stage(source: Store, store: Store, digest: str) -> Staging:
    return store.stage(source.manifest_bytes(digest))


def test_chunks_in_any_order(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    with stage(source, store, digest) as staging:
        assert staging.digest == digest
        assert staging.missing() == [(0, 5)]
        for index, left in ((3, [(0, 3), (4, 5)]), (0, [(1, 3), (4, 5)]), (4, [(1, 3)])):
            staging.write_chunk(index, source.read_chunk(digest, index))
            assert staging.missing() == left
        assert not store.has(digest)
        with pytest.raises(IncompleteArtifact, match="2 of 5 chunks are missing"):
            staging.commit()
        for index in (2, 1):
            staging.write_chunk(index, source.read_chunk(digest, index))
        assert staging.missing() == []
        assert staging.commit() == digest
    assert store.has(digest)
    assert [v.fault for v in store.verify()] == [""]


def test_bad_chunks_leave_no_trace(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    good = source.read_chunk(digest, 0)
    payload = store.root / "staging" / digest / "payload.safetensors"
    with stage(source, store, digest) as staging:
        before = payload.read_bytes()
        for data in (b"", good[:-1], good + b"\x00"):
            with pytest.raises(BadChunk, match=f"{len(data)} bytes, {CHUNK} expected"):
                staging.write_chunk(0, data)
        for data in (bytes(CHUNK), bytes([good[0] ^ 1]) + good[1:], source.read_chunk(digest, 4)):
            with pytest.raises(BadChunk, match="does not match its digest"):
                staging.write_chunk(0, data)
        for index in (-1, 5, 2**63):
            with pytest.raises(BadManifest):
                staging.write_chunk(index, good)
        assert payload.read_bytes() == before
        assert staging.missing() == [(0, 5)]
        staging.write_chunk(0, good)
        staging.write_chunk(0, memoryview(good))
        with pytest.raises(BadChunk):
            staging.write_chunk(0, bytes(CHUNK))
        assert staging.missing() == [(1, 5)]


def test_what_an_earlier_process_left_is_hashed(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    with stage(source, store, digest) as staging:
        for index in (0, 1, 3):
            staging.write_chunk(index, source.read_chunk(digest, index))
    payload = store.root / "staging" / digest / "payload.safetensors"
    with payload.open("r+b") as file:
        file.seek(staging.manifest.chunk(1).offset_in_payload + 2000)
        file.write(b"rotten")
    with stage(source, Store(store.root), digest) as staging:
        assert staging.missing() == [(1, 3), (4, 5)]
    assert fetch(source, store, digest) == digest


@pytest.mark.parametrize("damage", ["no manifest", "half manifest", "short", "long", "read-only"])
def test_half_made_staging_is_mended(source: Store, store: Store, damage: str) -> None:
    digest = put_bytes(source)
    with stage(source, store, digest) as staging:
        staging.write_chunk(0, source.read_chunk(digest, 0))
    folder = store.root / "staging" / digest
    payload, manifest = folder / "payload.safetensors", folder / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half manifest":
        os.truncate(manifest, 10)
    elif damage == "read-only":
        payload.chmod(0o444)
        manifest.chmod(0o444)
    else:
        os.truncate(payload, 9 if damage == "short" else 10**7)
    with stage(source, store, digest) as staging:
        assert staging.missing() == ([(0, 5)] if damage == "short" else [(1, 5)])
    fetch(source, store, digest)
    assert [v.fault for v in store.verify()] == [""]


def test_artifact_that_is_here_already(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    with stage(source, source, digest) as staging:
        assert staging.missing() == []
        staging.write_chunk(0, source.read_chunk(digest, 0))
        assert staging.commit() == digest
        staging.discard()
    assert source.has(digest)


def test_two_at_once_end_as_one_object(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    first, second = stage(source, store, digest), stage(source, store, digest)
    for index in range(5):
        first.write_chunk(index, source.read_chunk(digest, index))
        second.write_chunk(4 - index, source.read_chunk(digest, 4 - index))
    third = stage(source, store, digest)
    assert third.missing() == []
    assert first.commit() == second.commit() == third.commit() == digest
    assert [v.fault for v in store.verify()] == [""]
    assert os.listdir(store.root / "staging") == []


def test_commit_twice(source: Store, store: Store) -> None:
    digest = put_bytes(source, sizes={"x": 3})
    with stage(source, store, digest) as staging:
        staging.write_chunk(0, source.read_chunk(digest, 0))
        assert staging.commit() == staging.commit() == digest


def test_discard_gives_the_space_back(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    stage(source, store, digest).discard()
    assert os.listdir(store.root / "staging") == []


def test_empty_artifact(source: Store, store: Store) -> None:
    digest = put_bytes(source, sizes={})
    with stage(source, store, digest) as staging:
        assert staging.missing() == []
        staging.commit()
    assert store.manifest(digest).tensors == ()


def test_link_in_staging_is_not_followed(source: Store, store: Store, tmp_path: Path) -> None:
    digest = put_bytes(source)
    folder = store.root / "staging" / digest
    folder.mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    (folder / "payload.safetensors").symlink_to(tmp_path / "victim")
    with pytest.raises(BadPath):
        stage(source, store, digest)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_no_room_is_said_at_once_and_nothing_is_left(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    with file_size_limit(CHUNK), pytest.raises(DiskFull, match="bytes are needed"):
        stage(source, store, digest)
    assert os.listdir(store.root / "staging") == []
    assert fetch(source, store, digest) == digest


def test_more_than_the_disk_has_is_refused(
    source: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put_bytes(source)
    monkeypatch.setattr("weft.checkpoints.disk.free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull, match="bytes are needed and 1000 are free"):
        stage(source, store, digest)
    assert os.listdir(store.root / "staging") == []


def test_room_is_reserved_before_the_first_chunk(source: Store, store: Store) -> None:
    digest = put_bytes(source)
    with stage(source, store, digest):
        payload = store.root / "staging" / digest / "payload.safetensors"
        assert payload.stat().st_blocks * 512 >= sum(SIZES.values())


@settings(max_examples=20)
@given(order=st.permutations(range(5)), cuts=st.sets(st.integers(0, 4), max_size=2))
def test_any_order_with_restarts(
    order: list[int], cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every chunk is sent once, however often the process ends between two of them."""
    folder = tmp_path_factory.mktemp("any")
    source, store = Store(folder / "source"), Store(folder / "store")
    digest = put_bytes(source)
    staging = stage(source, store, digest)
    for position, index in enumerate(order):
        if position in cuts:
            staging.close()
            staging = stage(source, Store(store.root), digest)
        assert staging.missing_chunks == 5 - position
        staging.write_chunk(index, source.read_chunk(digest, index))
    staging.commit()
    assert store.manifest(digest) == Manifest.from_bytes(source.manifest_bytes(digest))
    shutil.rmtree(folder)
