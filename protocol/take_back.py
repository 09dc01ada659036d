"""Looking into a stream at the other end, and taking things back there.

    newest = await head(target, patience)
    await rolled_back(target, 12, seen=newest.generation.number, patience=patience, say=print)

Each of these may be cut anywhere and asked again: a reply that was lost changes nothing.
Stable within a protocol version.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from weft.errors import Unavailable
from weft.protocol.channel import call, stream
from weft.protocol.limits import PROGRESS_S
from weft.protocol.push import WAIT_S, Patience, Target
from weft.protocol.v1 import continual_pb2 as pb

Answer = TypeVar("Answer")

_NONE_OF_THEM: Final = 2**53
"""A number beyond that of any generation."""


async def head(target: Target, patience: Patience) -> pb.HeadReply:
    """The merged model as it is now.

    Raises:
        Unavailable: the server cannot be reached.
    """
    reply: pb.HeadReply = await _patiently(
        lambda: call(target.stub().Head, pb.HeadRequest(), timeout_s=PROGRESS_S), patience
    )
    return reply


async def history(target: Target, patience: Patience) -> list[pb.HistoryEntry]:
    """All contributions, then all generations.

    Raises:
        Unavailable: the server cannot be reached.
    """
    return await _patiently(lambda: _entries(target, pb.HistoryRequest()), patience)


async def contributions(target: Target, patience: Patience) -> list[pb.Contribution]:
    """All that ever came.

    Raises:
        Unavailable: the server cannot be reached.
    """
    request = pb.HistoryRequest(after_generation=_NONE_OF_THEM)
    entries = await _patiently(lambda: _entries(target, request), patience)
    return [each.contribution for each in entries]


async def revoked(
    target: Target, seq: int, *, patience: Patience, say: Callable[[str], None]
) -> pb.Generation:
    """Take a contribution out; returns the generation without it.

    Args:
        target: the server.
        seq: of the contribution.
        patience: how long to try again while it cannot be reached.
        say: told that it has to wait there.

    Raises:
        Unavailable: the server cannot be reached.
        WeftError: why it cannot be taken out; nothing has changed.
    """
    request = pb.RevokeRequest(seq=seq, wait_s=WAIT_S)
    return await _made(lambda: target.stub().Revoke, request, patience, say)


async def rolled_back(
    target: Target, number: int, *, seen: int, patience: Patience, say: Callable[[str], None]
) -> pb.Generation:
    """Make the head what it was in an earlier generation; returns the one that this made.

    Args:
        target: the server.
        number: of that generation.
        seen: the newest generation that is known here: that it was done already, and only
            the answer was lost, is told by what came after.
        patience: how long to try again while the server cannot be reached.
        say: told that it has to wait there.

    Raises:
        Unavailable: the server cannot be reached.
        WeftError: why there is no way back; nothing has changed.
    """
    request = pb.RollbackRequest(generation=number, seen=seen, wait_s=WAIT_S)
    return await _made(lambda: target.stub().Rollback, request, patience, say)


async def _made(
    method: Callable[[], Any], request: Any, patience: Patience, say: Callable[[str], None]
) -> pb.Generation:
    """Ask until it is done; a call that only waits is an answer, and another one is made."""
    asked = 0
    while True:
        reply = await _patiently(
            lambda: call(method(), request, timeout_s=WAIT_S + PROGRESS_S), patience
        )
        if reply.ready:
            generation: pb.Generation = reply.generation
            return generation
        asked += 1
        if asked == 1:
            say("asked for; the stream is at work, this waits for its turn")


async def _entries(target: Target, request: pb.HistoryRequest) -> list[pb.HistoryEntry]:
    return [each async for each in stream(target.stub().History, request)]


async def _patiently(operation: Callable[[], Awaitable[Answer]], patience: Patience) -> Answer:
    while True:
        try:
            answer = await operation()
        except Unavailable as error:
            await patience.after(error)
            continue
        patience.progressed()
        return answer
