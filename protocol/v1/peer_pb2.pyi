from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ContributionRequest(_message.Message):
    __slots__ = ("run", "round", "wait_s", "members_digest")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    wait_s: float
    members_digest: str
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., wait_s: _Optional[float] = ..., members_digest: _Optional[str] = ...) -> None: ...

class ContributionReply(_message.Message):
    __slots__ = ("ready", "digest", "state", "at_round", "members_digest")
    READY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AT_ROUND_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    digest: str
    state: str
    at_round: int
    members_digest: str
    def __init__(self, ready: _Optional[bool] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., at_round: _Optional[int] = ..., members_digest: _Optional[str] = ...) -> None: ...

class VerdictRequest(_message.Message):
    __slots__ = ("run", "round", "wait_s")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    wait_s: float
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class VerdictReply(_message.Message):
    __slots__ = ("ready", "accepted", "reason")
    READY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    accepted: bool
    reason: str
    def __init__(self, ready: _Optional[bool] = ..., accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class AnnouncementRequest(_message.Message):
    __slots__ = ("run", "phase", "wait_s")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    run: str
    phase: str
    wait_s: float
    def __init__(self, run: _Optional[str] = ..., phase: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class AnnouncementReply(_message.Message):
    __slots__ = ("ready", "digest", "members_digest", "members", "committed", "state", "promised")
    READY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    digest: str
    members_digest: str
    members: _containers.RepeatedScalarFieldContainer[str]
    committed: _containers.RepeatedCompositeFieldContainer[Contributor]
    state: str
    promised: str
    def __init__(self, ready: _Optional[bool] = ..., digest: _Optional[str] = ..., members_digest: _Optional[str] = ..., members: _Optional[_Iterable[str]] = ..., committed: _Optional[_Iterable[_Union[Contributor, _Mapping]]] = ..., state: _Optional[str] = ..., promised: _Optional[str] = ...) -> None: ...

class Contributor(_message.Message):
    __slots__ = ("node", "digest")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    node: str
    digest: str
    def __init__(self, node: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ShareRequest(_message.Message):
    __slots__ = ("run", "set_digest", "share", "wait_s")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    run: str
    set_digest: str
    share: int
    wait_s: float
    def __init__(self, run: _Optional[str] = ..., set_digest: _Optional[str] = ..., share: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class ShareReply(_message.Message):
    __slots__ = ("ready", "digest")
    READY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    digest: str
    def __init__(self, ready: _Optional[bool] = ..., digest: _Optional[str] = ...) -> None: ...

class ManifestRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class ManifestPiece(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "ranges")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    ranges: _containers.RepeatedCompositeFieldContainer[ChunkRange]
    def __init__(self, digest: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[ChunkRange, _Mapping]]] = ...) -> None: ...

class ChunkRange(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "document")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    node: str
    document: str
    def __init__(self, node: _Optional[str] = ..., document: _Optional[str] = ...) -> None: ...
