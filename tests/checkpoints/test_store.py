"""Objects are there whole, verified, known by what they hold."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.checkpoints.stores import CHUNK, SIZES, fetch, flip, put_bytes, random_bytes
from weft.checkpoints.errors import (
    BadDigest,
    BadManifest,
    CorruptArtifact,
    MissingArtifact,
    NotAStore,
)
from weft.checkpoints.store import KEPT_MANIFESTS, Store

TINY = {"t": 3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_put_is_there(store: Store) -> None:
    digest = put_bytes(store)
    assert store.has(digest)
    assert store.digests() == [digest]
    manifest = store.manifest(digest)
    assert manifest.digest == digest
    assert manifest.metadata == {"seed": "0"}
    assert {entry.name: entry.size_bytes for entry in manifest.tensors} == SIZES
    whole = random_bytes(0, SIZES["a"])
    assert b"".join(store.read_chunk(digest, i) for i in range(3)) == whole
    assert store.read_chunk(digest, 3) == random_bytes(1, 5)
    assert len(store.read_chunk(digest, 4)) == CHUNK
    for index in (-1, 5):
        with pytest.raises(BadManifest):
            store.read_chunk(digest, index)


def test_put_again_is_the_same_object(store: Store) -> None:
    digest = put_bytes(store)
    inode = store.payload_path(digest).stat().st_ino
    assert put_bytes(store) == digest
    assert store.payload_path(digest).stat().st_ino == inode
    assert put_bytes(store, seed=1) != digest
    assert len(store.digests()) == 2
    assert os.listdir(store.root / "staging") == []


def test_fetched_is_the_same_object(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    digest = put_bytes(store)
    assert fetch(store, other, digest) == digest
    assert other.manifest_bytes(digest) == store.manifest_bytes(digest)
    assert [v.fault for v in other.verify()] == [""]


def test_objects_are_read_only_and_nothing_else_is_left(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    digest = put_bytes(store)
    fetch(store, other, digest)
    for root in (store.root, other.root):
        folder = root / "objects" / digest[:2] / digest
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in folder.iterdir()}
        assert modes == {"manifest.json": 0o444, "payload.safetensors": 0o444}
        assert os.listdir(root / "staging") == []


def test_missing_artifact(store: Store) -> None:
    digest = "ab" * 32
    assert not store.has(digest)
    for call in (store.manifest, store.manifest_bytes, store.payload, store.payload_path):
        with pytest.raises(MissingArtifact, match=digest):
            call(digest)
    with pytest.raises(MissingArtifact):
        store.read_chunk(digest, 0)
    with pytest.raises(MissingArtifact):
        store.remove(digest)


@pytest.mark.parametrize("name", ["", "../../etc", "AB" * 32, "ab" * 31, "ab" * 32 + "/x"])
def test_names_that_are_no_digests_never_become_paths(store: Store, name: str) -> None:
    for call in (store.has, store.manifest, store.payload_path, store.remove):
        with pytest.raises(BadDigest):
            call(name)
    with pytest.raises(BadDigest):
        store.pin(name, "me")


def test_manifests_are_kept_but_not_for_ever(store: Store) -> None:
    digests = [put_bytes(store, seed, TINY) for seed in range(KEPT_MANIFESTS + 4)]
    first = store.manifest(digests[0])
    assert store.manifest(digests[0]) is first
    for digest in digests[1:]:
        store.manifest(digest)
    assert store.manifest(digests[0]) is not first
    assert store.manifest(digests[0]) == first


def test_kept_manifest_does_not_outlive_its_object(store: Store) -> None:
    digest = put_bytes(store, sizes=TINY)
    store.manifest(digest)
    store.remove(digest)
    with pytest.raises(MissingArtifact):
        store.manifest(digest)


def test_every_flipped_byte_of_a_small_object_is_found(store: Store) -> None:
    """2,000 flips and more: in the payload, its header included, and in the manifest."""
    digest = put_bytes(store, sizes={"x": 1700, "y": 10})
    payload = store.payload_path(digest)
    manifest = payload.with_name("manifest.json")
    flips = [(payload, p) for p in range(payload.stat().st_size)]
    flips += [(manifest, p) for p in range(manifest.stat().st_size)]
    assert len(flips) >= 2000
    for path, position in flips:
        flip(path, position, 1 << position % 8)
        (verdict,) = store.verify()
        assert digest in verdict.fault
        flip(path, position, 1 << position % 8)
    assert [verdict.fault for verdict in store.verify()] == [""]


def test_rotten_bytes_are_not_handed_out(store: Store) -> None:
    digest = put_bytes(store)
    assert store.read_chunk(digest, 1)
    flip(store.payload_path(digest), store.payload_path(digest).stat().st_size - 5)
    with pytest.raises(CorruptArtifact, match=r"tensor d has changed.*verify --remove"):
        store.read_chunk(digest, 4)
    assert store.read_chunk(digest, 3) == random_bytes(1, 5)


@pytest.mark.parametrize("size", [0, 3, 100])
def test_shortened_payload(store: Store, size: int) -> None:
    digest = put_bytes(store)
    os.truncate(store.payload_path(digest), size)
    with pytest.raises(CorruptArtifact, match="expected"):
        store.payload(digest)
    (verdict,) = store.verify()
    assert verdict.fault


def test_changed_or_lost_manifest(store: Store) -> None:
    digest = put_bytes(store, sizes=TINY)
    path = store.payload_path(digest).with_name("manifest.json")
    flip(path, 20)
    with pytest.raises(CorruptArtifact, match="manifest has changed"):
        store.manifest(digest)
    path.unlink()
    with pytest.raises(CorruptArtifact, match="gone"):
        store.manifest(digest)
    assert [v.digest for v in store.verify() if v.fault] == [digest]


def test_links_inside_an_object_are_not_followed(store: Store, tmp_path: Path) -> None:
    digest = put_bytes(store, sizes=TINY)
    path = store.payload_path(digest)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match=r"payload\.safetensors"):
        store.read_chunk(digest, 0)


def test_removed_and_fetched_again(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    digest = put_bytes(other)
    fetch(other, store, digest)
    flip(store.payload_path(digest), 5000)
    store.remove(digest)
    assert not store.has(digest)
    fetch(other, store, digest)
    assert [v.fault for v in store.verify()] == [""]


def test_foreign_files_are_passed_over(store: Store) -> None:
    digest = put_bytes(store, sizes=TINY)
    objects = store.root / "objects"
    (objects / "README").write_text("hello")
    (objects / digest[:2] / "notes").mkdir()
    (objects / "zz").symlink_to(objects / digest[:2])
    (objects / "ff").mkdir(exist_ok=True)
    (objects / "ff" / ("ee" * 32)).mkdir()
    (store.root / "pins" / "hello").write_text("")
    (store.root / "staging" / "hello").write_text("")
    assert store.digests() == [digest]
    assert store.pins() == []
    assert store.gc(keep_unpinned_s=0).objects == 1
    assert (store.root / "staging" / "hello").exists()


def test_folder_of_something_else_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(NotAStore, match=r"thesis\.tex"):
        Store(tmp_path)
    with pytest.raises(NotAStore, match="no store"):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_other_format_is_refused(store: Store) -> None:
    (store.root / "format").write_text("weft-store-9\n")
    with pytest.raises(NotAStore, match="weft-store-9"):
        Store(store.root)


def test_store_that_was_half_made_is_finished(tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store(root)
    for name in ("objects", "pins"):
        (root / name).rmdir()
    put_bytes(Store(root, create=False))
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / ".format.0123.tmp").write_text("weft-st")
    put_bytes(Store(tmp_path / "early"))


def test_threads_may_share_a_store(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda seed: put_bytes(store, seed % 3, TINY), range(24)))
        assert len(set(digests)) == 3
        chunks = pool.map(lambda digest: store.read_chunk(digest, 0), digests)
        assert len(set(chunks)) == 3
        list(pool.map(lambda n: store.pin(digests[n], f"owner-{n}"), range(24)))
    assert len(store.pins()) == 24
    assert sorted(set(digests)) == store.digests()


def test_store_needs_no_torch() -> None:
    probe = (
        "import sys, weft.checkpoints.store, weft.checkpoints.manifest, weft.checkpoints.schema\n"
        "sys.exit(bool({'torch', 'numpy', 'safetensors', 'zstandard'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=60)
