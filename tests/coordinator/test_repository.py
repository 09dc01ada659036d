"""One contract, two repositories; then what only a disk can do wrong."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.coordinator.stories import Says, spec, told
from weft.coordinator.database import SqlRepository
from weft.coordinator.errors import (
    DatabaseDamaged,
    DatabaseFull,
    RunNotFound,
    StorageFailed,
    Superseded,
    WrongDatabase,
)
from weft.coordinator.membership import create
from weft.coordinator.records import Created, RunRecord
from weft.coordinator.repository import Change, MemoryRepository, Repository
from weft.errors import InvalidInput
from weft.protocol.run import NodeId, RunName, RunSpec

NAME = RunName("quilt")
STORY = [
    *(Says("join", NodeId(node)) for node in "ab"),
    Says("leave", NodeId("b")),
    *(Says("join", NodeId(node)) for node in "bc"),
    Says("report", NodeId("a"), round=2),
    Says("expire", NodeId("a"), others=(NodeId("c"),)),
    *(Says("announce", NodeId(node)) for node in "ab"),
    *(Says("done", NodeId(node)) for node in "ab"),
]


def changes() -> list[Change]:
    """A run from its creation to its end, each durable change of it."""
    first = create(spec(), at=1.0)
    made = [Change(event=Created(spec=spec()), after=first, at=1.0)]
    for event, before, after in told("deadline", STORY):
        if after.revision != before.revision:
            made.append(Change(event=event, after=after, at=1.0 + after.revision))
    return made


CHANGES = changes()


def sql(folder: Path, identity: str | None = None) -> SqlRepository:
    url = f"sqlite:///{folder}/runs.sqlite"
    return SqlRepository(url, federation="here", identity=identity)


@pytest.fixture(params=["memory", "sql"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    made: Repository = MemoryRepository() if request.param == "memory" else sql(tmp_path)
    yield made
    made.close()


def test_the_story_ends_as_it_should() -> None:
    assert CHANGES[-1].after.plan.state == "finished"
    assert len(CHANGES) >= 10


def test_what_was_committed_is_loaded(repository: Repository) -> None:
    assert repository.load() == {}
    for change in CHANGES:
        repository.commit(change)
        assert repository.load() == {NAME: change.after}


def test_history_tells_every_change_in_order(repository: Repository) -> None:
    for change in CHANGES:
        repository.commit(change)
    history = repository.history(NAME)
    assert [entry.event for entry in history] == [change.event for change in CHANGES]
    assert [entry.revision for entry in history] == list(range(1, len(CHANGES) + 1))
    assert [entry.at for entry in history] == [change.at for change in CHANGES]


def test_runs_do_not_touch_each_other(repository: Repository) -> None:
    other = create(spec().model_copy(update={"name": "other"}), at=2.0)
    repository.commit(CHANGES[0])
    repository.commit(Change(event=Created(spec=other.spec), after=other, at=2.0))
    repository.commit(CHANGES[1])
    assert repository.load() == {NAME: CHANGES[1].after, "other": other}
    assert len(repository.history(RunName("other"))) == 1


def test_no_such_run(repository: Repository) -> None:
    with pytest.raises(RunNotFound, match="no run of the name 'nothing'"):
        repository.history(RunName("nothing"))


@pytest.mark.parametrize("chosen", [0, 2], ids=["again", "too far"])
def test_a_change_follows_the_one_that_is_stored(repository: Repository, chosen: int) -> None:
    repository.commit(CHANGES[0])
    with pytest.raises(Superseded, match="another coordinator"):
        repository.commit(CHANGES[chosen])
    assert repository.load() == {NAME: CHANGES[0].after}


def test_rounds_are_kept_with_the_next_change(repository: Repository) -> None:
    """A report of a round alone is no change; it is not lost for good either."""
    rounds = [after.members[NodeId("a")].round for _, _, after in told("deadline", STORY[:6])]
    assert rounds[-1] == 2
    for change in CHANGES:
        repository.commit(change)
        if "c" in change.after.members and change.after.members[NodeId("c")].dropped:
            break
    assert repository.load()[NAME].members[NodeId("a")].round == 2


def test_reopening_a_database_finds_everything(tmp_path: Path) -> None:
    first = sql(tmp_path)
    for change in CHANGES[:5]:
        first.commit(change)
    first.close()
    again = sql(tmp_path, first.identity)
    assert again.load() == {NAME: CHANGES[4].after}
    for change in CHANGES[5:]:
        again.commit(change)
    assert len(again.history(NAME)) == len(CHANGES)
    again.close()


def test_two_coordinators_on_one_database_cannot_both_go_on(tmp_path: Path) -> None:
    one, two = sql(tmp_path), sql(tmp_path)
    one.commit(CHANGES[0])
    one.load()
    two.load()
    one.commit(CHANGES[1])
    with pytest.raises(Superseded, match="another coordinator"):
        two.commit(CHANGES[1])
    one.commit(CHANGES[2])
    assert one.load() == {NAME: CHANGES[2].after}
    assert len(one.history(NAME)) == 3
    one.close()
    two.close()


def test_durability_comes_before_speed(tmp_path: Path) -> None:
    repository = sql(tmp_path)
    with repository._transaction() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("synchronous", "journal_mode")
        }
    assert found == {"synchronous": 2, "journal_mode": "wal"}
    repository.close()


def test_a_database_that_was_there_is_never_begun_anew(tmp_path: Path) -> None:
    first = sql(tmp_path)
    first.commit(CHANGES[0])
    first.close()
    file = tmp_path / "runs.sqlite"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(DatabaseDamaged, match="missing or empty; restore it"):
        sql(tmp_path, first.identity)
    file.write_bytes(b"")
    with pytest.raises(DatabaseDamaged, match="missing or empty"):
        sql(tmp_path, first.identity)
    file.write_bytes(b"not a database at all" * 500)
    with pytest.raises(DatabaseDamaged, match="damaged"):
        sql(tmp_path, first.identity)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatabaseDamaged, match=r"damaged|restore"):
        sql(tmp_path, first.identity).load()
    file.write_bytes(whole)
    again = sql(tmp_path, first.identity)
    assert again.load() == {NAME: CHANGES[0].after}
    again.close()


def test_a_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    first = sql(tmp_path)
    for change in CHANGES:
        first.commit(change)
    first.close()
    file = tmp_path / "runs.sqlite"
    whole = file.read_bytes()
    chance = random.Random(1)
    noticed = 0
    for _ in range(150):
        place = chance.randrange(len(whole))
        broken = bytearray(whole)
        broken[place] ^= 1 << chance.randrange(8)
        file.write_bytes(broken)
        for leftover in tmp_path.glob("runs.sqlite-*"):
            leftover.unlink()
        noticed += not _reads_as_written(tmp_path, first.identity)
    assert noticed >= 10


def _reads_as_written(folder: Path, identity: str) -> bool:
    """True: everything is as it was; False: refused. Anything else fails the test."""
    repository = None
    try:
        repository = sql(folder, identity)
        found = repository.load()
        history = repository.history(NAME)
    except (DatabaseDamaged, WrongDatabase, StorageFailed):
        return False
    finally:
        if repository is not None:
            repository.close()
    assert found == {NAME: CHANGES[-1].after}
    assert [entry.event for entry in history] == [change.event for change in CHANGES]
    return True


def test_the_database_of_another_is_refused(tmp_path: Path) -> None:
    first = sql(tmp_path)
    first.close()
    with pytest.raises(WrongDatabase, match=f"its identity is {first.identity}, expected 00ff"):
        sql(tmp_path, "00ff")
    url = f"sqlite:///{tmp_path}/runs.sqlite"
    with pytest.raises(WrongDatabase, match="its federation is here, expected elsewhere"):
        SqlRepository(url, federation="elsewhere", identity=first.identity)


@pytest.mark.parametrize("url", ["runs.sqlite", "nothing://here", "postgresql+nodriver://x/y"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(InvalidInput, match="database: not a URL that can be used"):
        SqlRepository(url, federation="here")


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    repository = sql(tmp_path)
    repository.commit(CHANGES[0])
    with repository._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    long = create(spec().model_copy(update={"name": "long", "base": None}), at=0.0)
    big = long.spec.model_copy(update={"schema_digest": "x" * 100_000})
    full = Change(event=Created(spec=big), after=_with_spec(long, big), at=0.0)
    with pytest.raises(DatabaseFull, match="nothing was changed; make room"):
        repository.commit(full)
    assert repository.load() == {NAME: CHANGES[0].after}
    with repository._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=100000")
    repository.commit(full)
    assert set(repository.load()) == {NAME, "long"}
    repository.close()


def _with_spec(record: RunRecord, big: RunSpec) -> RunRecord:
    return dataclasses.replace(record, spec=big)


def test_any_other_failure_of_the_disk_stops_the_coordinator(tmp_path: Path) -> None:
    repository = sql(tmp_path)
    repository.commit(CHANGES[0])

    def read_only(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON")

    sa.event.listen(repository._engine, "begin", read_only)
    with pytest.raises(StorageFailed, match="readonly database; the coordinator stops"):
        repository.commit(CHANGES[1])
    repository.close()
    again = sql(tmp_path)
    assert again.load() == {NAME: CHANGES[0].after}
    again.close()
