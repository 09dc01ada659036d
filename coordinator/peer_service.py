"""The coordinator as a holder: nodes fetch a run's base from it as from any peer."""

from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.v1.peer_pb2_grpc import PeerServicer


class ArtifactHolder(PeerServicer):
    """Manifest and Fetch of the service Peer; the rest belongs to nodes, and is not there."""

    def __init__(self, artifacts: ArtifactService) -> None:
        self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch  # type: ignore[method-assign]
