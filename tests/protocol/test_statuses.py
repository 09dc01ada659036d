"""What the other side said is found, whichever status gRPC sets first."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from weft.protocol.statuses import BrokenWrite, Statuses, write

REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, "the reason")
OWN = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class Call:
    """As much of a call as `Statuses` looks at."""

    def __init__(self) -> None:
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def set(self, status: tuple[grpc.StatusCode, str]) -> None:
        self.status = status
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback(self)

    async def code(self) -> grpc.StatusCode | None:
        return self.status[0] if self.status else None

    async def details(self) -> str | None:
        return self.status[1] if self.status else None


@pytest.mark.parametrize("order", [[REFUSED], [OWN, REFUSED], [REFUSED, OWN]])
async def test_the_real_status_is_found(order: list[tuple[grpc.StatusCode, str]]) -> None:
    call = Call()
    statuses = Statuses(call)
    for status in order:
        call.set(status)
    async with asyncio.timeout(1):
        assert await statuses.real() == REFUSED


async def test_a_status_that_comes_late_is_waited_for() -> None:
    call = Call()
    statuses = Statuses(call)
    call.set(OWN)
    asyncio.get_running_loop().call_later(0.1, call.set, REFUSED)
    async with asyncio.timeout(2):
        assert await statuses.real() == REFUSED


@pytest.mark.parametrize(
    ("status", "raised"), [(OWN, BrokenWrite), (REFUSED, grpc.aio.AioRpcError)]
)
async def test_a_write_that_fails_is_told_from_a_call_that_failed(
    status: tuple[grpc.StatusCode, str], raised: type[Exception]
) -> None:
    class Failing:
        async def write(self, request: Any) -> None:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(status[0], nothing, nothing, status[1], None)

    with pytest.raises(raised):
        await write(Failing(), b"")
