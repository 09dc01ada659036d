"""Pins are durable, idempotent, and whatever an owner is called."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.checkpoints.errors import BadDigest
from weft.checkpoints.pins import Pins
from weft.errors import InvalidInput

FIRST, SECOND = "ab" * 32, "cd" * 32


def test_pins_outlive_the_object_that_made_them(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    for _ in range(2):
        pins.add(SECOND, "run:demo")
        pins.add(FIRST, "base")
        pins.add(FIRST, "run:demo/round 3")
    expected = [(FIRST, "base"), (FIRST, "run:demo/round 3"), (SECOND, "run:demo")]
    assert list(Pins(tmp_path)) == expected
    for _ in range(2):
        pins.remove(FIRST, "base")
    assert list(Pins(tmp_path)) == expected[1:]


@settings(max_examples=30)
@given(owner=st.text(min_size=1, max_size=15))
def test_any_owner(owner: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pins = Pins(tmp_path_factory.mktemp("pins"))
    try:
        owner.encode()
    except UnicodeEncodeError:
        return
    pins.add(FIRST, owner)
    assert list(pins) == [(FIRST, owner)]
    pins.remove(FIRST, owner)
    assert list(pins) == []


def test_owners_that_are_refused(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    for owner in ("", "x" * 191):
        with pytest.raises(InvalidInput, match="owner of a pin"):
            pins.add(FIRST, owner)
    pins.add(FIRST, "x" * 190)
    with pytest.raises(BadDigest):
        pins.add("../" + FIRST, "me")
    assert len(os.listdir(tmp_path)) == 1


def test_folder_is_synced_after_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(os.listdir(tmp_path)))
    pins = Pins(tmp_path)
    pins.add(FIRST, "me")
    pins.remove(FIRST, "me")
    assert synced == [[f"{FIRST}.me"], []]
