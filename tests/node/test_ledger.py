"""How adopted models were made: kept in the journal, once each, enough to make them again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from weft.node.errors import JournalCorrupt
from weft.node.journal import EntryLog, Journal, MemoryJournal
from weft.node.ledger import KIND, Build, Ledger, LedgerEntry, Parent, Statistics

ENTRY = LedgerEntry(
    kind="neighbours",
    run="digits",
    node="node-1",
    round=3,
    seed=7,
    base="ba5e",
    method="mean",
    options={"bound": 4096.0, "fast": False, "note": "x", "count": 2},
    parents=(
        Parent(node="node-0", digest="aaa", weight=0.1),
        Parent(node="node-1", digest="bbb", weight=0.9),
    ),
    missed={"node-2": "declined: norm"},
    statistics=Statistics.RE_ESTIMATED,
    result="ccc",
)


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EntryLog]:
    opened: EntryLog = MemoryJournal()
    if request.param == "disk":
        opened = Journal.open(tmp_path / "j", identity={"node": "node-1"})
    yield opened
    opened.close()


def test_entries_come_back_as_they_were(log: EntryLog) -> None:
    ledger = Ledger(log)
    log.append("trained", {"round": 3})  # other kinds stand between
    final = replace(
        ENTRY, kind="global", base=None, statistics=Statistics.FOLDED, moments={"node-0": "m0"}
    )
    ledger.append(ENTRY)
    ledger.append(final)
    again = Ledger(log)
    assert again.entries() == ledger.entries() == [ENTRY, final]
    kinds = {name: type(value) for name, value in again.entries()[0].options.items()}
    assert kinds == {"bound": float, "fast": bool, "note": str, "count": int}


def test_a_merge_that_is_done_again_is_written_down_once(log: EntryLog) -> None:
    Ledger(log).append(ENTRY)
    Ledger(log).append(ENTRY)  # after a restart
    assert len(log.entries()) == 1
    Ledger(log).append(replace(ENTRY, round=4))
    assert [record.kind for record in log.entries()] == [KIND, KIND]


def test_how_a_model_was_made_is_found_by_its_digest(log: EntryLog) -> None:
    ledger = Ledger(log)
    later = replace(ENTRY, round=9)
    for entry in (ENTRY, replace(ENTRY, result="ddd"), later):
        ledger.append(entry)
    assert ledger.of("ccc") == later
    assert ledger.of("nothing") is None


def test_what_it_takes_to_make_a_model_again() -> None:
    assert ENTRY.needs() == {"ba5e", "aaa", "bbb"}
    assert replace(ENTRY, base=None, moments={"n": "mmm"}).needs() == {"aaa", "bbb", "mmm"}


def test_the_build_is_the_one_that_runs() -> None:
    build = Build.here()
    assert build.torch == torch.__version__
    assert json.loads(json.dumps(ENTRY.to_document()))["build"]["torch"] == build.torch


@pytest.mark.parametrize(
    "change", [{"colour": "red"}, {"round": "third"}, {"statistics": "guessed"}]
)
def test_an_entry_of_another_weft_is_named(change: dict[str, object], log: EntryLog) -> None:
    log.append("joined", {})
    log.append(KIND, {**ENTRY.to_document(), **change})
    with pytest.raises(JournalCorrupt, match=f"entry 2 is no ledger entry: {next(iter(change))}"):
        Ledger(log)


def test_of_what_was_aligned_the_aligned_model_is_needed(log: EntryLog) -> None:
    """What was published alone does not make the merged model again: that takes the trainer."""
    theirs, own = ENTRY.parents
    entry = replace(ENTRY, align="activations", parents=(replace(theirs, aligned="aaa'"), own))
    assert entry.needs() == {"ba5e", "aaa'", "bbb"}
    Ledger(log).append(entry)
    assert Ledger(log).entries() == [entry]
