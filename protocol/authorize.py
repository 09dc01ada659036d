"""Who may call what: a table of methods and roles, deny by default.

The decision only; `weft.protocol.gate` asks it on every call of a server. A
method that the table does not name is refused to everybody.

    Authorizer(allowed=lambda identity: identity.name in members, revoked=serials)

Stable.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from weft.errors import Denied
from weft.protocol.errors import ProtocolMismatch, TooManyStreams
from weft.protocol.identity import Identity, Role
from weft.protocol.limits import CALLS_PER_IDENTITY, PROTOCOL_VERSION, STREAMS_PER_IDENTITY

_NODES: Final = frozenset({Role.NODE})
_OPERATORS: Final = frozenset({Role.OPERATOR})
_PUSHERS: Final = frozenset({Role.NODE, Role.OPERATOR})
_EVERYBODY: Final = frozenset(Role)

METHODS: Final[Mapping[str, frozenset[Role]]] = MappingProxyType(
    {
        "/weft.v1.Coordinator/Join": _NODES,
        "/weft.v1.Coordinator/Watch": _NODES | _OPERATORS,
        "/weft.v1.Coordinator/Report": _NODES,
        "/weft.v1.Coordinator/Promise": _NODES,
        "/weft.v1.Coordinator/Leave": _NODES,
        "/weft.v1.Coordinator/CreateRun": _OPERATORS,
        "/weft.v1.Coordinator/ListRuns": _OPERATORS,
        "/weft.v1.Coordinator/GetRun": _OPERATORS,
        "/weft.v1.Coordinator/SetRunState": _OPERATORS,
        "/weft.v1.Coordinator/PutArtifact": _OPERATORS,
        "/weft.v1.Peer/Contribution": _NODES,
        "/weft.v1.Peer/Verdict": _NODES,
        "/weft.v1.Peer/Announcement": _NODES,
        "/weft.v1.Peer/Share": _NODES,
        "/weft.v1.Peer/Manifest": _EVERYBODY,
        "/weft.v1.Peer/Fetch": _EVERYBODY,
        "/weft.v1.Peer/Status": _EVERYBODY,
        "/weft.v1.Continual/Begin": _PUSHERS,
        "/weft.v1.Continual/Upload": _PUSHERS,
        "/weft.v1.Continual/Commit": _PUSHERS,
        "/weft.v1.Continual/Wait": _PUSHERS,
        "/weft.v1.Continual/Head": _PUSHERS,
        "/weft.v1.Continual/History": _PUSHERS,
        "/weft.v1.Continual/Revoke": _OPERATORS,
        "/weft.v1.Continual/Rollback": _OPERATORS,
        "/grpc.health.v1.Health/Check": _EVERYBODY,
        "/grpc.health.v1.Health/List": _EVERYBODY,
        "/grpc.health.v1.Health/Watch": _EVERYBODY,
    }
)
"""Which roles may call which method."""

VERSION_KEY: Final = "weft-protocol"
"""Key of the metadata that says which version of the protocol the caller speaks."""

_UNVERSIONED: Final = "/grpc."
"""Services that are not ours and whose callers need not know our version."""


def _everybody(identity: Identity) -> bool:
    return True


def _nobody() -> Collection[str]:
    return frozenset()


class Authorizer:
    """Decides on each call, and counts the open ones of each identity.

    Args:
        allowed: whether an enrolled identity may speak at all (a member of a run).
        revoked: the serial numbers that no longer count, asked on every call and
            before every message of a stream: it must be quick.
        methods: roles by method.
        streams_per_identity: most open streams of one name.
        calls_per_identity: most open calls of one name that are not streams.
    """

    def __init__(
        self,
        *,
        allowed: Callable[[Identity], bool] = _everybody,
        revoked: Callable[[], Collection[str]] = _nobody,
        methods: Mapping[str, frozenset[Role]] = METHODS,
        streams_per_identity: int = STREAMS_PER_IDENTITY,
        calls_per_identity: int = CALLS_PER_IDENTITY,
    ) -> None:
        self._allowed = allowed
        self._revoked = revoked
        self._methods = methods
        self._limits = {True: streams_per_identity, False: calls_per_identity}
        self._open: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def admit(self, method: str, identity: Identity, federation: str) -> None:
        """Let a call begin, or say why not.

        Args:
            method: `/package.Service/Method`.
            identity: who calls.
            federation: the one that this server belongs to.

        Raises:
            Denied: another federation, a revoked certificate, a role or an
                identity that may not call this.
        """
        if identity.federation != federation:
            raise Denied(
                f"{identity.uri} is of another federation; this server belongs to {federation}"
            )
        self.require_unrevoked(identity)
        if identity.role not in self._methods.get(method, frozenset()):
            short = method.rpartition(".")[2]
            raise Denied(f"the role {identity.role} may not call {short} ({identity.name})")
        if not self._allowed(identity):
            raise Denied(f"{identity.name} is not known here; has it joined?")

    def require_unrevoked(self, identity: Identity) -> None:
        """Refuse an identity whose certificate was revoked, in the middle of a stream too.

        Raises:
            Denied: it was.
        """
        if identity.serial in self._revoked():
            raise Denied(f"the certificate of {identity.name} was revoked ({identity.serial})")

    @contextmanager
    def counted(self, identity: Identity, *, stream: bool) -> Iterator[None]:
        """Hold one of the identity's places while a call is open.

        Raises:
            TooManyStreams: all are taken.
        """
        held, limit = self._open[stream], self._limits[stream]
        if held[identity.name] >= limit:
            kind = "streams" if stream else "calls"
            raise TooManyStreams(f"{identity.name} has {limit} open {kind} here, the most allowed")
        held[identity.name] += 1
        try:
            yield
        finally:
            held[identity.name] -= 1
            if not held[identity.name]:
                del held[identity.name]


def require_version(method: str, spoken: str | None) -> None:
    """Refuse a caller of another version of the protocol.

    Raises:
        ProtocolMismatch: names both versions.
    """
    if spoken == str(PROTOCOL_VERSION) or method.startswith(_UNVERSIONED):
        return
    theirs = "does not say which version" if spoken is None else f"speaks version {spoken[:20]}"
    raise ProtocolMismatch(
        f"the caller {theirs} of the weft protocol, this side speaks version {PROTOCOL_VERSION}; "
        "install the same release on both"
    )
