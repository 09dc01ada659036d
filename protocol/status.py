"""One table between weft's families of errors and gRPC's status codes.

A service raises errors of weft; the gate of the server turns them into a status
here, and the caller's side turns the status back into the same family with the
server's message. Whatever is not one of ours becomes INTERNAL with a reference
into the server's log: internals never travel. Paths are cut to their last part.

    status_of(Refused("run is stopped"))      # FAILED_PRECONDITION, "run is stopped"
    error_of(code, "run is stopped")          # Refused

Stable.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import grpc
import structlog

from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Stalled,
    TrainingFailed,
    Unavailable,
    WeftError,
)

log = structlog.get_logger(__name__)

FAMILIES: MappingProxyType[type[WeftError], grpc.StatusCode] = MappingProxyType(
    {
        InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
        NotFound: grpc.StatusCode.NOT_FOUND,
        Refused: grpc.StatusCode.FAILED_PRECONDITION,
        Denied: grpc.StatusCode.PERMISSION_DENIED,
        Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Unavailable: grpc.StatusCode.UNAVAILABLE,
        Stalled: grpc.StatusCode.DEADLINE_EXCEEDED,
        Corrupt: grpc.StatusCode.DATA_LOSS,
        TrainingFailed: grpc.StatusCode.ABORTED,
        WeftError: grpc.StatusCode.INTERNAL,
    }
)
"""The table. One code a family, so that the way back is the same table."""

_FROM_GRPC: MappingProxyType[grpc.StatusCode, type[WeftError]] = MappingProxyType(
    {
        **{code: family for family, code in FAMILIES.items()},
        # Codes that gRPC itself answers with, and no family of ours sends.
        grpc.StatusCode.UNAUTHENTICATED: Denied,
        grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
        grpc.StatusCode.UNIMPLEMENTED: Refused,
        grpc.StatusCode.ALREADY_EXISTS: Refused,
        grpc.StatusCode.CANCELLED: Unavailable,
        grpc.StatusCode.UNKNOWN: WeftError,
    }
)

_MESSAGE_CHARACTERS = 1000
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\",;:()]+/)+(?=[^\s/'\",;:()])")


def family_of(error: BaseException) -> type[WeftError]:
    """The nearest class of the table that an error derives from; WeftError for strangers."""
    return next((one for one in type(error).__mro__ if one in FAMILIES), WeftError)


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """What the other side is told about an error.

    An error that is none of ours is logged with its traceback under a random
    reference, and only the reference travels.
    """
    if isinstance(error, WeftError):
        return FAMILIES[family_of(error)], public(str(error))
    reference = secrets.token_hex(4)
    log.error("internal error", reference=reference, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error, reference {reference} in the log there"


def error_of(code: grpc.StatusCode, message: str) -> WeftError:
    """The error of a status: the family that the other side raised, with its message."""
    return _FROM_GRPC.get(code, WeftError)(message)


@contextmanager
def translated(*, peer: str) -> Iterator[None]:
    """Turn gRPC's errors of the block into errors of weft that name the peer."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        details = error.details() or str(error.code().name).lower()
        raise error_of(error.code(), f"{peer}: {details}") from error


def public(message: str) -> str:
    """A message as it may travel: one line, bounded, absolute paths cut to their last part."""
    line = " ".join(message.split())
    return _PATH.sub("", line)[:_MESSAGE_CHARACTERS]
