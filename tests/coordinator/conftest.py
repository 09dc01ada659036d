"""A coordinator in this process: real sockets and certificates, a clock of the test's."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.coordinator.life import Clock
from tests.support.wire import MIB, Enrolment, deposit
from weft.checkpoints.store import Store
from weft.coordinator.peer_service import ArtifactHolder, readable_by
from weft.coordinator.repository import MemoryRepository
from weft.coordinator.runs import Runs
from weft.coordinator.service import CoordinatorService
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool, coordinator_stub
from weft.protocol.identity import Role
from weft.protocol.run import RunSpec
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.server import Server
from weft.protocol.v1.coordinator_pb2_grpc import (
    CoordinatorStub,
    add_CoordinatorServicer_to_server,
)
from weft.protocol.v1.peer_pb2_grpc import add_PeerServicer_to_server


@dataclass
class Running:
    """A coordinator that listens, and those who call it."""

    runs: Runs
    store: Store
    clock: Clock
    enrol: Enrolment
    address: str
    revoked: set[str]
    base: str
    pools: dict[str, ChannelPool]

    def pool(self, name: str, role: Role = Role.NODE) -> ChannelPool:
        if name not in self.pools:
            self.pools[name] = ChannelPool(self.enrol(name, role))
        return self.pools[name]

    def stub(self, name: str, role: Role = Role.NODE) -> CoordinatorStub:
        return coordinator_stub(self.pool(name, role).to(self.address, "coordinator"))

    @property
    def operator(self) -> CoordinatorStub:
        return self.stub("olga", Role.OPERATOR)

    def spec(self, **fields: object) -> RunSpec:
        given = {"name": "quilt", "nodes": 2, "rounds": 6, "base": self.base, **fields}
        return RunSpec.model_validate(given)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Running]:
    enrol, clock, store = Enrolment(tmp_path / "ca"), Clock(), Store(tmp_path / "store")
    runs = await Runs.open(MemoryRepository(), clock=clock, wall=lambda: 7.0)
    revoked: set[str] = set()
    server = Server(
        credentials=enrol("coordinator", Role.COORDINATOR),
        listen="127.0.0.1:0",
        authorizer=Authorizer(revoked=lambda: revoked),
    )
    service = CoordinatorService(runs, store)
    holder = ArtifactHolder(ArtifactService(store, readable_by(runs)))
    server.add(lambda to: add_CoordinatorServicer_to_server(service, to))
    server.add(lambda to: add_PeerServicer_to_server(holder, to))
    port = await server.start()
    base = deposit(store, {"weight": 2 * MIB + 8, "bias": 16})
    made = Running(runs, store, clock, enrol, f"127.0.0.1:{port}", revoked, base, {})
    yield made
    runs.stop()
    for pool in made.pools.values():
        await pool.close()
    await server.stop(1)
    await runs.close()
