"""What is wanted stays, what is not goes, and the count is right."""

import os
import shutil
from pathlib import Path

import pytest

from tests.checkpoints.stores import flip, put_bytes, random_bytes, schema_of_sizes, set_age
from weft.checkpoints.errors import CorruptArtifact
from weft.checkpoints.store import Store

NOW = 1_000_000.0
TINY = {"t": 1000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose clock stands still, long after all that the tests age."""
    return Store(tmp_path / "store", clock=lambda: NOW)


def put_old(store: Store, seed: int, *, against: str | None = None, age_s: float = 3600) -> str:
    """Put an artifact and make it look that old."""
    if against is None:
        digest = put_bytes(store, seed, TINY)
    else:
        schema = schema_of_sizes(TINY)
        with store.deposit(schema, kind="delta", codec="raw", against=against) as deposit:
            deposit.write("t", [random_bytes(seed, 1000)])
        digest = deposit.digest
    set_age(store.payload_path(digest).parent, NOW - age_s)
    return digest


def test_only_what_is_pinned_stays(store: Store) -> None:
    kept, lost = put_old(store, 1), put_old(store, 2)
    store.pin(kept, "me")
    collected = store.gc()
    assert (collected.objects, collected.staged) == (1, 0)
    assert collected.freed_bytes > 1000
    assert store.digests() == [kept]
    assert not store.has(lost)
    store.unpin(kept, "me")
    assert store.gc().objects == 1
    assert store.digests() == []
    assert os.listdir(store.root / "staging") == []


def test_every_owner_counts(store: Store) -> None:
    digest = put_old(store, 1)
    store.pin(digest, "a")
    store.pin(digest, "b")
    store.unpin(digest, "a")
    assert store.gc().objects == 0
    store.unpin(digest, "b")
    assert store.gc().objects == 1


def test_what_a_pinned_object_is_against_stays_however_long_the_chain(store: Store) -> None:
    chain = [put_old(store, 0)]
    for seed in range(1, 5):
        chain.append(put_old(store, seed, against=chain[-1]))
    store.pin(chain[3], "me")
    assert store.gc().objects == 1
    assert store.digests() == sorted(chain[:4])


def test_base_that_is_elsewhere_is_no_matter(store: Store) -> None:
    digest = put_old(store, 1, against="ab" * 32)
    store.pin(digest, "me")
    store.pin("cd" * 32, "early")
    assert store.gc().objects == 0
    assert store.digests() == [digest]


def test_what_just_came_has_time_to_be_pinned(store: Store) -> None:
    base = put_old(store, 0)
    young = put_old(store, 1, against=base, age_s=59)
    old = put_old(store, 2, age_s=61)
    assert store.gc().objects == 1
    assert store.digests() == sorted([base, young])
    assert not store.has(old)
    assert store.gc(keep_unpinned_s=10).objects == 2


@pytest.mark.parametrize("way", ["put", "fetched"])
def test_put_or_fetched_again_counts_as_young(tmp_path: Path, way: str) -> None:
    store = Store(tmp_path / "store")
    digest = put_bytes(store, 1, TINY)
    set_age(store.payload_path(digest).parent, NOW)
    if way == "put":
        put_bytes(store, 1, TINY)
    else:
        store.stage(store.manifest_bytes(digest)).commit()
    assert store.gc().objects == 0
    set_age(store.payload_path(digest).parent, NOW)
    assert store.gc().objects == 1


def test_abandoned_staging_goes_and_fresh_staging_stays(store: Store, tmp_path: Path) -> None:
    source = Store(tmp_path / "source")
    digests = [put_bytes(source, seed, TINY) for seed in range(2)]
    for digest, age_s in zip(digests, (3601, 3599), strict=True):
        store.stage(source.manifest_bytes(digest)).close()
        set_age(store.root / "staging" / digest, NOW - age_s)
    for name in (".put-0000", ".trash-0000"):
        shutil.copytree(store.root / "staging" / digests[0], store.root / "staging" / name)
        set_age(store.root / "staging" / name, NOW - 3601)
    assert store.du().staged == 4
    collected = store.gc(keep_staging_s=3600)
    assert (collected.objects, collected.staged) == (0, 2)
    assert os.listdir(store.root / "staging") == [digests[1]]


def test_trash_of_a_process_that_died_goes_at_once(store: Store) -> None:
    (store.root / "staging" / ".trash-0123").mkdir()
    (store.root / "staging" / ".trash-0123" / "payload.safetensors").write_bytes(b"x")
    store.gc()
    assert os.listdir(store.root / "staging") == []


def test_unreadable_manifest_of_a_pinned_object_stops_gc(store: Store) -> None:
    base = put_old(store, 0)
    delta, other = put_old(store, 1, against=base), put_old(store, 2)
    store.pin(delta, "me")
    flip(store.payload_path(delta).with_name("manifest.json"), 20)
    fresh = Store(store.root, clock=lambda: NOW)
    with pytest.raises(CorruptArtifact, match=delta):
        fresh.gc()
    assert fresh.digests() == sorted([base, delta, other])
    fresh.remove(delta)
    assert fresh.gc().objects == 2


def test_usage_by_hand(store: Store, tmp_path: Path) -> None:
    empty = store.du()
    assert (empty.objects, empty.object_bytes, empty.pins, empty.staged) == (0, 0, 0, 0)
    assert empty.free_bytes > 0
    digest = put_bytes(store, 1, TINY)
    store.pin(digest, "me")
    source = Store(tmp_path / "source")
    store.stage(source.manifest_bytes(put_bytes(source, 2, TINY))).close()
    folder = store.payload_path(digest).parent
    size = sum(path.stat().st_size for path in folder.iterdir())
    used = store.du()
    assert (used.objects, used.object_bytes, used.pins, used.staged) == (1, size, 1, 1)
    assert used.staged_bytes > 1000


def test_verdicts_name_the_bad_object(store: Store) -> None:
    digests = sorted(put_bytes(store, seed, TINY) for seed in range(3))
    path = store.payload_path(digests[1])
    flip(path, path.stat().st_size - 1)
    verdicts = list(store.verify())
    assert [verdict.digest for verdict in verdicts] == digests
    assert [bool(verdict.fault) for verdict in verdicts] == [False, True, False]
    assert digests[1] in verdicts[1].fault
    assert list(store.verify([digests[0]])) == verdicts[:1]
    assert next(iter(store.verify(["ab" * 32]))).fault
