"""A journal that another process holds for long: it is said, and nothing ends."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.continual.serving import Silent, kept, served
from tests.node.continual.streams import begun
from tests.support.wire import Enrolment, until
from weft.node import journal as journal_module
from weft.node.continual import daemon
from weft.node.continual import keeper as keeper_module
from weft.node.continual.daemon import StreamServerConfig, serve
from weft.node.continual.files import JOURNAL
from weft.node.continual.keeper import Keeper
from weft.node.continual.stream import Stream
from weft.protocol import take_back
from weft.protocol.push import Patience


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BUSY_S", 0.05)
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(daemon, "FIRST_PAUSE_S", 0.01)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process keeps the journal of a stream to itself."""
    other = sqlite3.connect(folder / JOURNAL, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()


async def test_an_absorption_is_tried_again_until_it_can_be_written_down(
    home: Path, models: Path
) -> None:
    folder = begun(home / "s", models)
    async with kept(folder) as keeper:
        await keeper.ask(lambda stream: stream.offer(models / "c1"))
        async with Silent(keeper.work()):
            with held(folder):
                await until(lambda: "busy with another process" in keeper.trouble, 30)
                assert keeper.view.newest.number == 0
            await until(lambda: keeper.view.newest.number == 1, 30)
            await until(lambda: keeper.trouble == "", 30)


@pytest.mark.parametrize("what", ["revoke", "rollback"])
async def test_who_takes_back_meanwhile_tries_again_and_it_is_done_once(
    what: str, home: Path, models: Path, tmp_path: Path
) -> None:
    folder, told, held_up = begun(home / "s", models), list[str](), asyncio.Event()

    def say(text: str) -> None:
        told.append(text)
        held_up.set()

    async with served(folder, Enrolment(tmp_path / "federation")) as at:
        await at.keeper.ask(lambda stream: stream.offer(models / "c1"))
        await at.keeper.ask(Stream.drain)
        patience = Patience(say=say)
        with held(folder):
            asked = asyncio.create_task(
                take_back.revoked(at.target, 1, patience=patience, say=print)
                if what == "revoke"
                else take_back.rolled_back(at.target, 0, seen=1, patience=patience, say=print)
            )
            await held_up.wait()
        assert "busy with another process" in told[0]
        assert (await asked).number == 2
        assert at.keeper.view.newest.members == ()
        assert len(at.keeper.view.generations) == 3


async def test_a_server_begins_once_the_journal_is_free(
    home: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tried, stop = begun(home / "s", models), list[Path](), asyncio.Event()
    Stream(folder).close()  # its journal is begun
    (home / "w").mkdir()
    opening, working = Keeper.open, asyncio.Event()

    async def counted(path: Path, *given: object, **named: object) -> Keeper:
        tried.append(path)
        keeper = await opening(path, *given, **named)  # type: ignore[arg-type]
        working.set()
        return keeper

    monkeypatch.setattr(Keeper, "open", counted)
    config = StreamServerConfig(folder=folder, watch=home / "w")
    with held(folder):
        serving = asyncio.create_task(serve(config, stop=stop))
        await until(lambda: len(tried) > 2 or serving.done(), 30)
        assert not working.is_set()
    async with asyncio.timeout(30):
        await working.wait()
        stop.set()
        await serving
