"""A federation in one process: certificates, stores, and servers on loopback."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weft.checkpoints.digest import CHUNK_BYTES, chunk_digest
from weft.checkpoints.manifest import Manifest, TensorEntry
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store
from weft.protocol import certificates
from weft.protocol.authority import Authority
from weft.protocol.authorize import Authorizer
from weft.protocol.identity import Credentials, Identity, Role, dns_name
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.server import Server
from weft.protocol.v1 import peer_pb2
from weft.protocol.v1.peer_pb2_grpc import PeerServicer, add_PeerServicer_to_server

MIB = 2**20
FEDERATION = "test"


class Enrolment:
    """An authority in a folder, and credentials by name."""

    def __init__(self, folder: Path, federation: str = FEDERATION) -> None:
        self.folder = folder
        self.authority = Authority.init(folder / "ca", federation)
        self._made: dict[str, Credentials] = {}

    def __call__(self, name: str, role: Role = Role.NODE) -> Credentials:
        if name not in self._made:
            self._made[name] = Credentials.load(self.authority.issue(name, role).folder)
        return self._made[name]

    def odd(
        self,
        *,
        uris: Sequence[str],
        name: str = "odd",
        valid: certificates.Validity | None = None,
        trusting: "Enrolment | None" = None,
    ) -> Credentials:
        """Credentials with any URIs and dates; `trusting` names another root than the signer's."""
        key = certificates.new_key()
        leaf = certificates.leaf_certificate(
            self.authority.certificate,
            self.authority.key,
            key.public_key(),
            uris=uris,
            dns_names=[dns_name(name)],
            valid=valid or certificates.validity(datetime.now(UTC), 1),
        )
        root = (trusting or self).authority.certificate
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        (folder / "node.pem").write_bytes(certificates.certificate_pem(leaf))
        (folder / "node.key").write_bytes(certificates.key_pem(key))
        (folder / "node.key").chmod(0o600)
        (folder / "ca.pem").write_bytes(certificates.certificate_pem(root))
        return Credentials(
            folder=folder,
            identity=Identity(federation=FEDERATION, role=Role.NODE, name=name),
            expires_at=leaf.not_valid_after_utc,
            certificate_pem=certificates.certificate_pem(leaf),
            key_pem=certificates.key_pem(key),
            ca_pem=certificates.certificate_pem(root),
        )


class HoldingPeer(PeerServicer):
    """A peer that serves a store's artifacts, and answers Status."""

    def __init__(
        self, store: Store, may_read: Callable[[Identity, str], bool] | None = None
    ) -> None:
        self._artifacts = ArtifactService(store, may_read) if may_read else ArtifactService(store)

    def Manifest(self, request: peer_pb2.ManifestRequest, context: Any) -> Any:  # noqa: N802
        return self._artifacts.Manifest(request, context)

    def Fetch(self, request: peer_pb2.FetchRequest, context: Any) -> Any:  # noqa: N802
        return self._artifacts.Fetch(request, context)

    async def Status(  # noqa: N802
        self, request: peer_pb2.StatusRequest, context: Any
    ) -> peer_pb2.StatusReply:
        return peer_pb2.StatusReply(node="here", document="{}")


@asynccontextmanager
async def serving(
    credentials: Credentials, servicer: PeerServicer, **options: Any
) -> AsyncIterator[int]:
    """A server of the service Peer; yields its port."""
    options.setdefault("authorizer", Authorizer())
    server = Server(credentials=credentials, listen="127.0.0.1:0", **options)
    server.add(lambda to: add_PeerServicer_to_server(servicer, to))
    port = await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def deposit(store: Store, sizes: Mapping[str, int], seed: int = 0, kind: Any = "model") -> str:
    """An artifact of bytes from a seed; sizes by tensor name, multiples of four."""
    chance = random.Random(seed)
    specs = tuple(TensorSpec(name, "F32", (size // 4,)) for name, size in sorted(sizes.items()))
    with store.deposit(Schema(specs), kind=kind) as target:
        for spec in specs:
            target.write(spec.name, [chance.randbytes(4 * spec.shape[0])])
    return target.digest


def payload(store: Store, digest: str) -> list[bytes]:
    """Every chunk of an artifact."""
    count = store.manifest(digest).chunk_count
    return [store.read_chunk(digest, index) for index in range(count)]


def manifest_of(sizes: dict[str, int]) -> Manifest:
    """A manifest of F32 tensors of so many bytes; the digests are of zeros."""
    entries = []
    for name, size in sizes.items():
        lengths = [min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)]
        entries.append(
            TensorEntry(
                name=name,
                dtype="F32",
                shape=(size // 4,),
                size_bytes=size,
                chunks=tuple(chunk_digest(bytes(length)) for length in lengths),
            )
        )
    return Manifest(kind="model", tensors=tuple(entries))


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something that another task does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)
