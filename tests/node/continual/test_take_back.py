"""Revoking and going back over the wire: once, whichever replies are lost."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.continual.serving import Served, served
from tests.node.continual.streams import begun
from tests.support.wire import Enrolment, until
from weft.errors import Denied, NotFound, Refused, Unavailable
from weft.node.continual.queue import ASKED
from weft.node.continual.records import Cause, Status
from weft.node.continual.service import ContinualService
from weft.node.continual.stream import Stream
from weft.protocol import take_back
from weft.protocol.channel import ChannelPool
from weft.protocol.push import Patience, Target

ARGUMENTS: dict[str, Any] = {"patience": Patience(), "say": print}


@pytest.fixture
def enrol(tmp_path: Path) -> Enrolment:
    return Enrolment(tmp_path / "federation")


def losing(method: Callable[..., Awaitable[Any]], times: int) -> Callable[..., Awaitable[Any]]:
    """A method that does what is asked, and whose first answers get lost."""
    left = times

    async def lossy(self: ContinualService, request: Any, context: Any) -> Any:
        nonlocal left
        reply = await method(self, request, context)
        if reply.ready and left:
            left -= 1
            raise Unavailable("the reply is lost")
        return reply

    return lossy


def patience() -> Patience:
    """One that does not sleep."""

    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0)

    return Patience(sleep=at_once)


async def fed(at: Served, models: Path, *names: str) -> None:
    """Take some, each absorbed before the next comes."""

    def job(stream: Stream) -> None:
        for name in names:
            stream.offer(models / name)
            stream.drain()

    await at.keeper.ask(job)
    count = len(at.keeper.view.contributions)
    await until(lambda: not at.keeper.view.waiting, 30)
    assert count == len(at.keeper.view.contributions)


@pytest.mark.parametrize("replies", [1, 3])
async def test_a_rollback_whose_reply_is_lost_is_done_once(
    replies: int, home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContinualService, "Rollback", losing(ContinualService.Rollback, replies))
    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1", "c2", "c3")
        made = await take_back.rolled_back(at.target, 1, seen=3, patience=patience(), say=print)
        assert (made.number, made.cause, made.members) == (4, "rolled back", 1)
        assert len(at.keeper.view.generations) == 5
        assert made.head == at.keeper.view.generations[1].head


@pytest.mark.parametrize("replies", [1, 3])
async def test_a_revocation_whose_reply_is_lost_is_done_once(
    replies: int, home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContinualService, "Revoke", losing(ContinualService.Revoke, replies))
    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1", "c2")
        made = await take_back.revoked(at.target, 1, patience=patience(), say=print)
        assert (made.number, made.cause, made.contribution) == (3, "revoked", 1)
        assert len(at.keeper.view.generations) == 4


async def test_one_that_waits_is_revoked_once_too(
    home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContinualService, "Revoke", losing(ContinualService.Revoke, 2))
    async with served(begun(home / "s", models), enrol, works=False) as at:
        await at.keeper.ask(lambda stream: stream.offer(models / "c1"))
        made = await take_back.revoked(at.target, 1, patience=patience(), say=print)
        assert made.number == 0
        (told,) = at.keeper.view.contributions
        assert (told.status, told.reason) == (Status.SET_ASIDE, "revoked before its turn")


@pytest.mark.parametrize("wish", [{"back_to": 1}, {"revoke": 2}])
async def test_killed_between_the_wish_and_its_generation(
    wish: dict[str, object], home: Path, models: Path, enrol: Enrolment
) -> None:
    """The next process has the wish in its journal; who asks again finds it, or it is done."""
    folder = begun(home / "s", models)
    async with served(folder, enrol, works=False) as at:
        await fed(at, models, "c1", "c2")
        await at.keeper.ask(lambda stream: stream._write(ASKED, wish))
    async with served(folder, enrol) as at:
        if "revoke" in wish:
            made = await take_back.revoked(at.target, 2, **ARGUMENTS)
        else:
            made = await take_back.rolled_back(at.target, 1, seen=2, **ARGUMENTS)
        assert (made.number, made.members) == (3, 1)
        assert len(at.keeper.view.generations) == 4


async def test_what_came_after_a_lost_reply_stays_and_a_new_request_is_a_new_one(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1", "c2")
        first = await take_back.rolled_back(at.target, 1, seen=2, **ARGUMENTS)
        await fed(at, models, "c3")
        again = await take_back.rolled_back(at.target, 1, seen=2, **ARGUMENTS)
        assert (again.number, first.number) == (3, 3)
        assert at.keeper.view.newest.members == (1, 3)
        newest = (await take_back.head(at.target, Patience())).generation.number
        later = await take_back.rolled_back(at.target, 1, seen=newest, **ARGUMENTS)
        assert (newest, later.number, later.members) == (4, 5, 1)


async def test_a_stream_that_goes_on_meanwhile_keeps_nobody_from_going_back(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1", "c2")
        seen = (await take_back.head(at.target, Patience())).generation.number
        await fed(at, models, "c3")
        made = await take_back.rolled_back(at.target, 1, seen=seen, **ARGUMENTS)
        assert (seen, made.number, made.members) == (2, 4, 1)


async def test_who_has_to_wait_is_told_once(
    home: Path, models: Path, enrol: Enrolment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_back, "WAIT_S", 0.05)
    go_on, told = threading.Event(), list[str]()

    def say(text: str) -> None:
        told.append(text)
        asyncio.get_running_loop().call_later(0.3, go_on.set)

    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1")
        standing = asyncio.create_task(at.keeper.ask(lambda stream: go_on.wait(60)))
        made = await take_back.revoked(at.target, 1, patience=patience(), say=say)
        await standing
        assert made.cause == Cause.REVOKED.value
        assert len(told) == 1


async def test_what_cannot_be_is_said_and_not_tried_again(
    home: Path, models: Path, enrol: Enrolment
) -> None:
    async with served(begun(home / "s", models), enrol) as at:
        await fed(at, models, "c1", "c2")
        with pytest.raises(NotFound, match="no generation 9; there are 0 to 2"):
            await take_back.rolled_back(at.target, 9, seen=2, **ARGUMENTS)
        with pytest.raises(NotFound, match="no contribution 9; there are 2"):
            await take_back.revoked(at.target, 9, **ARGUMENTS)
        await take_back.revoked(at.target, 1, **ARGUMENTS)
        with pytest.raises(Refused, match="was revoked since; nothing has changed"):
            await take_back.rolled_back(at.target, 2, seen=3, **ARGUMENTS)
        pool = ChannelPool(enrol("node-a"))
        node = Target(pool=pool, address=at.target.address, name="stream")
        assert (await take_back.head(node, Patience())).generation.number == 3
        with pytest.raises(Denied, match="the role node may not call"):
            await take_back.revoked(node, 2, **ARGUMENTS)
        await pool.close()
