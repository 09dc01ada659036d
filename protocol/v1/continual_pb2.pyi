from weft.protocol.v1 import peer_pb2 as _peer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Offer(_message.Message):
    __slots__ = ("name", "weight", "lineage", "step", "started_from", "again")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STARTED_FROM_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    lineage: str
    step: int
    started_from: int
    again: bool
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., lineage: _Optional[str] = ..., step: _Optional[int] = ..., started_from: _Optional[int] = ..., again: _Optional[bool] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("offer", "manifest_piece")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_PIECE_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    manifest_piece: bytes
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., manifest_piece: _Optional[bytes] = ...) -> None: ...

class BeginReply(_message.Message):
    __slots__ = ("digest", "missing", "missing_chunks", "known")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MISSING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    digest: str
    missing: _containers.RepeatedCompositeFieldContainer[_peer_pb2.ChunkRange]
    missing_chunks: int
    known: Contribution
    def __init__(self, digest: _Optional[str] = ..., missing: _Optional[_Iterable[_Union[_peer_pb2.ChunkRange, _Mapping]]] = ..., missing_chunks: _Optional[int] = ..., known: _Optional[_Union[Contribution, _Mapping]] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("head", "chunk")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    head: UploadHead
    chunk: _peer_pb2.Chunk
    def __init__(self, head: _Optional[_Union[UploadHead, _Mapping]] = ..., chunk: _Optional[_Union[_peer_pb2.Chunk, _Mapping]] = ...) -> None: ...

class UploadHead(_message.Message):
    __slots__ = ("digest", "ranges")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    ranges: _containers.RepeatedCompositeFieldContainer[_peer_pb2.ChunkRange]
    def __init__(self, digest: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[_peer_pb2.ChunkRange, _Mapping]]] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("missing", "missing_chunks")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MISSING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedCompositeFieldContainer[_peer_pb2.ChunkRange]
    missing_chunks: int
    def __init__(self, missing: _Optional[_Iterable[_Union[_peer_pb2.ChunkRange, _Mapping]]] = ..., missing_chunks: _Optional[int] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("digest", "offer", "wait_s")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offer: Offer
    wait_s: float
    def __init__(self, digest: _Optional[str] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., wait_s: _Optional[float] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("ready", "known", "contribution")
    READY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    known: bool
    contribution: Contribution
    def __init__(self, ready: _Optional[bool] = ..., known: _Optional[bool] = ..., contribution: _Optional[_Union[Contribution, _Mapping]] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("seq", "wait_s")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    seq: int
    wait_s: float
    def __init__(self, seq: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class WaitReply(_message.Message):
    __slots__ = ("contribution", "message")
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    contribution: Contribution
    message: str
    def __init__(self, contribution: _Optional[_Union[Contribution, _Mapping]] = ..., message: _Optional[str] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("seq", "name", "digest", "form", "weight", "lineage", "step", "started_from", "norm", "overlap", "at", "status", "reason", "generation", "source")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STARTED_FROM_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    name: str
    digest: str
    form: str
    weight: float
    lineage: str
    step: int
    started_from: int
    norm: float
    overlap: float
    at: float
    status: str
    reason: str
    generation: int
    source: str
    def __init__(self, seq: _Optional[int] = ..., name: _Optional[str] = ..., digest: _Optional[str] = ..., form: _Optional[str] = ..., weight: _Optional[float] = ..., lineage: _Optional[str] = ..., step: _Optional[int] = ..., started_from: _Optional[int] = ..., norm: _Optional[float] = ..., overlap: _Optional[float] = ..., at: _Optional[float] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ..., generation: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("number", "cause", "head", "contribution", "members", "norm", "scale", "score", "at", "warnings", "state", "spans")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    number: int
    cause: str
    head: str
    contribution: int
    members: int
    norm: float
    scale: float
    score: float
    at: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    state: str
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    def __init__(self, number: _Optional[int] = ..., cause: _Optional[str] = ..., head: _Optional[str] = ..., contribution: _Optional[int] = ..., members: _Optional[int] = ..., norm: _Optional[float] = ..., scale: _Optional[float] = ..., score: _Optional[float] = ..., at: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ...) -> None: ...

class HeadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeadReply(_message.Message):
    __slots__ = ("path", "generation", "base", "contributions", "waiting", "message")
    PATH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    path: str
    generation: Generation
    base: str
    contributions: int
    waiting: int
    message: str
    def __init__(self, path: _Optional[str] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ..., base: _Optional[str] = ..., contributions: _Optional[int] = ..., waiting: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("after_contribution", "after_generation")
    AFTER_CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    AFTER_GENERATION_FIELD_NUMBER: _ClassVar[int]
    after_contribution: int
    after_generation: int
    def __init__(self, after_contribution: _Optional[int] = ..., after_generation: _Optional[int] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("contribution", "generation")
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    contribution: Contribution
    generation: Generation
    def __init__(self, contribution: _Optional[_Union[Contribution, _Mapping]] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("seq", "wait_s")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    seq: int
    wait_s: float
    def __init__(self, seq: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class RevokeReply(_message.Message):
    __slots__ = ("ready", "generation")
    READY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    generation: Generation
    def __init__(self, ready: _Optional[bool] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("generation", "wait_s", "seen")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    generation: int
    wait_s: float
    seen: int
    def __init__(self, generation: _Optional[int] = ..., wait_s: _Optional[float] = ..., seen: _Optional[int] = ...) -> None: ...

class RollbackReply(_message.Message):
    __slots__ = ("ready", "generation")
    READY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    generation: Generation
    def __init__(self, ready: _Optional[bool] = ..., generation: _Optional[_Union[Generation, _Mapping]] = ...) -> None: ...
