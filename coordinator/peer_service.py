"""The coordinator as a holder: nodes fetch a run's base from it as from any peer."""

from typing import Any, Never

from weft.coordinator.errors import NotANode
from weft.coordinator.runs import Runs
from weft.protocol.identity import Identity, Role
from weft.protocol.run import NodeId
from weft.protocol.serve_artifacts import ArtifactService, MayRead
from weft.protocol.v1.peer_pb2_grpc import PeerServicer


def readable_by(runs: Runs) -> MayRead:
    """Who may read here: operators everything, a member of a run the base of that run."""

    def may_read(caller: Identity, digest: str) -> bool:
        if caller.role is not Role.NODE:
            return caller.role is Role.OPERATOR
        records = (live.record for live in runs.all() if live.record.spec.base == digest)
        members = (record.members.get(NodeId(caller.name)) for record in records)
        return any(member is not None and not member.left for member in members)

    return may_read


class ArtifactHolder(PeerServicer):
    """Manifest and Fetch of the service Peer; the rest belongs to nodes."""

    def __init__(self, artifacts: ArtifactService) -> None:
        self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch  # type: ignore[method-assign]
        self.Contribution = self.Verdict = self.Announcement = _refuse  # type: ignore[method-assign]
        self.Share = self.Status = _refuse  # type: ignore[method-assign]


async def _refuse(request: Any, context: Any) -> Never:
    raise NotANode("the coordinator takes part in no round; ask a member of the run")
