"""The coordinator as a holder: nodes fetch a run's base from it as from any peer."""

from typing import Any, Never

from weft.coordinator.errors import NotANode
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.v1.peer_pb2_grpc import PeerServicer


class ArtifactHolder(PeerServicer):
    """Manifest and Fetch of the service Peer; the rest belongs to nodes."""

    def __init__(self, artifacts: ArtifactService) -> None:
        self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch  # type: ignore[method-assign]
        self.Contribution = self.Verdict = self.Announcement = _refuse  # type: ignore[method-assign]
        self.Share = self.Status = _refuse  # type: ignore[method-assign]


async def _refuse(request: Any, context: Any) -> Never:
    raise NotANode("the coordinator takes part in no round; ask a member of the run")
