"""`weft store`: figures, garbage, rot; for people and as JSON."""

import json
from pathlib import Path

import pytest

from tests.checkpoints.stores import flip, put_bytes, set_age
from weft.checkpoints.store import Store
from weft.cli.__main__ import main

TINY = {"t": 1000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["store", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_du(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.pin(put_bytes(store, 1, TINY), "me")
    code, out, _ = run(capsys, "du", store.root)
    assert code == 0
    assert out.startswith("1 artifacts, 1.")
    assert "1 pins" in out
    code, out, _ = run(capsys, "du", store.root, "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["objects"], document["pins"], document["staged"]) == (1, 1, 0)
    assert document["object_bytes"] > 1000


def test_gc(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    kept, old, young = (put_bytes(store, seed, TINY) for seed in range(3))
    store.pin(kept, "me")
    for digest in (kept, old):
        set_age(store.payload_path(digest).parent, 1000.0)
    code, out, _ = run(capsys, "gc", store.root, "--json")
    assert code == 0
    assert json.loads(out)["objects"] == 1
    assert store.digests() == sorted([kept, young])
    code, out, _ = run(capsys, "gc", store.root, "--keep-unpinned-hours", 0)
    assert code == 0
    assert out.startswith("removed 1 artifacts and 0 abandoned transfers")
    assert store.digests() == [kept]


def test_verify(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = put_bytes(store, 1, TINY), put_bytes(store, 2, TINY)
    code, out, err = run(capsys, "verify", store.root)
    assert (code, err) == (0, "")
    assert out.startswith("2 artifacts, ")
    flip(store.payload_path(bad), store.payload_path(bad).stat().st_size - 1)
    code, out, err = run(capsys, "verify", store.root, "--json")
    assert code == 1
    document = json.loads(out)
    assert [found["digest"] for found in document["corrupt"]] == [bad]
    assert document["removed"] == 0
    assert err.startswith("weft: ")
    assert err.count("\n") == 1
    assert bad in err
    code, out, err = run(capsys, "verify", store.root, "--remove")
    assert (code, err) == (0, "")
    assert bad in out
    assert store.digests() == [good]


@pytest.mark.parametrize("command", ["du", "gc", "verify"])
def test_folder_that_is_no_store(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, command, tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "no store" in err
    assert not (tmp_path / "nowhere").exists()


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in ("du", "gc", "verify"))
