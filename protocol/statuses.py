"""The status of a call that ended before all its messages were written.

gRPC's asyncio calls lose it: a write that fails puts INTERNAL in place of what the
other side said, and a refusal half way would read "Internal error from Core".
Internal: `weft.protocol.channel.send` uses it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast

import grpc

Answer = TypeVar("Answer")

_WRITE_FAILED: Final = "Internal error from Core"
_STATUS_POLL_S: Final = 0.01


class BrokenWrite(Exception):
    """The call takes no more messages; its status says why."""


async def write(open_call: Any, request: Any) -> None:
    """Write one message of a stream.

    Raises:
        BrokenWrite: the call takes no more.
        grpc.aio.AioRpcError: it failed otherwise.
    """
    try:
        await open_call.write(request)
    except grpc.aio.AioRpcError as error:
        if error.details() == _WRITE_FAILED:
            raise BrokenWrite from error
        raise


class Statuses:
    """Every status that a call was given.

    gRPC puts a status of its own in place of a call's when a write fails, before or
    after the other side's has come. So the first one is kept as it is set, and later
    ones are looked for.
    """

    def __init__(self, open_call: Any) -> None:
        self._open_call = open_call
        self._seen: list[tuple[grpc.StatusCode, str]] = []
        open_call.add_done_callback(self._note)

    def _note(self, open_call: Any) -> None:
        """Called by gRPC when a status is set, or by us when one is known to be."""
        self._seen.append((_at_once(open_call.code()), _at_once(open_call.details()) or ""))

    async def real(self) -> tuple[grpc.StatusCode, str]:
        """The other side's status, once it has come."""
        await self._open_call.code()
        while True:
            self._note(self._open_call)
            for code, details in self._seen:
                if details != _WRITE_FAILED:
                    return code, details
            await asyncio.sleep(_STATUS_POLL_S)


def _at_once(answer: Coroutine[Any, Any, Answer]) -> Answer:
    """The value of a coroutine that does not wait for anything."""
    try:
        answer.send(None)
    except StopIteration as done:
        return cast(Answer, done.value)
    answer.close()
    raise RuntimeError("a call that is done kept its status to itself")
