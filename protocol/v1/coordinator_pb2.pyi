from weft.protocol.v1 import peer_pb2 as _peer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("run", "address", "base_digest", "schema_digest", "data_size")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_SIZE_FIELD_NUMBER: _ClassVar[int]
    run: str
    address: str
    base_digest: str
    schema_digest: str
    data_size: int
    def __init__(self, run: _Optional[str] = ..., address: _Optional[str] = ..., base_digest: _Optional[str] = ..., schema_digest: _Optional[str] = ..., data_size: _Optional[int] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("spec", "plan", "lease_s")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    plan: Plan
    lease_s: float
    def __init__(self, spec: _Optional[bytes] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., lease_s: _Optional[float] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("run", "version", "keepalive_s")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_S_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: int
    keepalive_s: float
    def __init__(self, run: _Optional[str] = ..., version: _Optional[int] = ..., keepalive_s: _Optional[float] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("node", "address", "data_size")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_SIZE_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    data_size: int
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., data_size: _Optional[int] = ...) -> None: ...

class Epoch(_message.Message):
    __slots__ = ("number", "from_round", "members")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FROM_ROUND_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    number: int
    from_round: int
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, number: _Optional[int] = ..., from_round: _Optional[int] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class GlobalSet(_message.Message):
    __slots__ = ("phase", "contributors")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    contributors: _containers.RepeatedCompositeFieldContainer[_peer_pb2.Contributor]
    def __init__(self, phase: _Optional[str] = ..., contributors: _Optional[_Iterable[_Union[_peer_pb2.Contributor, _Mapping]]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("run", "version", "state", "members", "epochs", "proposed", "committed", "revoked")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: int
    state: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    epochs: _containers.RepeatedCompositeFieldContainer[Epoch]
    proposed: _containers.RepeatedCompositeFieldContainer[GlobalSet]
    committed: _containers.RepeatedCompositeFieldContainer[GlobalSet]
    revoked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., epochs: _Optional[_Iterable[_Union[Epoch, _Mapping]]] = ..., proposed: _Optional[_Iterable[_Union[GlobalSet, _Mapping]]] = ..., committed: _Optional[_Iterable[_Union[GlobalSet, _Mapping]]] = ..., revoked: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("run", "state", "round", "plan_version", "metrics", "bytes_sent", "bytes_received", "merges_adopted", "merges_rejected", "message", "announced", "result", "members_digest")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class AnnouncedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    MERGES_ADOPTED_FIELD_NUMBER: _ClassVar[int]
    MERGES_REJECTED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    run: str
    state: str
    round: int
    plan_version: int
    metrics: _containers.ScalarMap[str, float]
    bytes_sent: int
    bytes_received: int
    merges_adopted: int
    merges_rejected: int
    message: str
    announced: _containers.ScalarMap[str, str]
    result: str
    members_digest: str
    def __init__(self, run: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., plan_version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., merges_adopted: _Optional[int] = ..., merges_rejected: _Optional[int] = ..., message: _Optional[str] = ..., announced: _Optional[_Mapping[str, str]] = ..., result: _Optional[str] = ..., members_digest: _Optional[str] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("plan_version",)
    PLAN_VERSION_FIELD_NUMBER: _ClassVar[int]
    plan_version: int
    def __init__(self, plan_version: _Optional[int] = ...) -> None: ...

class PromiseRequest(_message.Message):
    __slots__ = ("run", "set")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    run: str
    set: GlobalSet
    def __init__(self, run: _Optional[str] = ..., set: _Optional[_Union[GlobalSet, _Mapping]] = ...) -> None: ...

class PromiseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateRunRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    def __init__(self, spec: _Optional[bytes] = ...) -> None: ...

class CreateRunReply(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunSummary(_message.Message):
    __slots__ = ("run", "state", "members", "round", "rounds", "created_at")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    run: str
    state: str
    members: int
    round: int
    rounds: int
    created_at: float
    def __init__(self, run: _Optional[str] = ..., state: _Optional[str] = ..., members: _Optional[int] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., created_at: _Optional[float] = ...) -> None: ...

class ListRunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunSummary]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunSummary, _Mapping]]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("node", "address", "report", "silent_s", "lease_valid", "left")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_VALID_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    report: ReportRequest
    silent_s: float
    lease_valid: bool
    left: bool
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ..., silent_s: _Optional[float] = ..., lease_valid: _Optional[bool] = ..., left: _Optional[bool] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("spec", "plan", "members", "message")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    plan: Plan
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    message: str
    def __init__(self, spec: _Optional[bytes] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., message: _Optional[str] = ...) -> None: ...

class SetRunStateRequest(_message.Message):
    __slots__ = ("run", "state")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    state: str
    def __init__(self, run: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class SetRunStateReply(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class PutArtifactRequest(_message.Message):
    __slots__ = ("manifest_piece", "chunk")
    MANIFEST_PIECE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest_piece: bytes
    chunk: _peer_pb2.Chunk
    def __init__(self, manifest_piece: _Optional[bytes] = ..., chunk: _Optional[_Union[_peer_pb2.Chunk, _Mapping]] = ...) -> None: ...

class PutArtifactReply(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...
