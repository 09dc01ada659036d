"""Getting into a run: an address, a base, the coordinator's word, and back again.

A node joins once in its life; afterwards its journal says what is left to do, and
each new connection to the coordinator begins with a join, so that it learns where
the node is now.
"""

import asyncio

import structlog

from weft.checkpoints.artifacts import put_model
from weft.checkpoints.reader import open_checkpoint
from weft.errors import WeftError
from weft.node.collector import Peers
from weft.node.config import NodeConfig
from weft.node.coordinator_link import CoordinatorLink, until_available
from weft.node.entries import Joined
from weft.node.errors import OtherJournal
from weft.node.life import Life
from weft.node.workspace import Workspace
from weft.protocol.channel import ChannelPool
from weft.protocol.errors import BadAddress
from weft.protocol.fetch import Holder, fetch_artifact
from weft.protocol.v1.coordinator_pb2 import JoinRequest

log = structlog.get_logger(__name__)

_ANY = ("0.0.0.0", "[::]", "")
_HERE = ("127.0.0.1", "localhost", "[::1]")
BASE_PIN = "base"


def advertised(config: NodeConfig, port: int) -> str:
    """The host:port under which the other members reach this node.

    Raises:
        BadAddress: it listens on any address, and nothing tells which one is meant.
    """
    if config.advertise is not None:
        return config.advertise
    host = config.listen.rpartition(":")[0]
    if host not in _ANY:
        return f"{host}:{port}"
    if config.coordinator.rpartition(":")[0] not in _HERE:
        raise BadAddress(
            f"listen = {config.listen!r} is any address of this machine, and the "
            "coordinator is elsewhere: set advertise to the host:port that the others reach"
        )
    return f"127.0.0.1:{port}"


class Joining:
    """Keeps a node in its run.

    Args:
        config: the node's configuration.
        workspace: its files.
        life: whose journal says whether it has joined.
        link: the coordinator.
        peers: the members, for whoever holds the base.
        pool: channels.
    """

    def __init__(
        self,
        config: NodeConfig,
        workspace: Workspace,
        life: Life,
        link: CoordinatorLink,
        peers: Peers,
        pool: ChannelPool,
    ) -> None:
        self._config, self._workspace = config, workspace
        self._life, self._link, self._peers, self._pool = life, link, peers, pool
        self._request = JoinRequest()

    async def join(self, address: str, data_size: int) -> None:
        """Join the run; a node that has a journal goes on also where that fails.

        Raises:
            OtherJournal: the data folder is of another run of the same name.
            WeftError: the coordinator refuses a node that has not joined yet.
        """
        base = await asyncio.to_thread(self._own_base)
        self._request = JoinRequest(address=address, base_digest=base, data_size=data_size)
        rounds = self._life.rounds
        if rounds.spec is None or rounds.plan is None:
            where = f"the coordinator at {self._config.coordinator}"
            await until_available(self.ask, what=where)
            return
        try:
            await self.ask()
        except OtherJournal:
            raise
        except WeftError as answer:
            log.warning("going on by the journal", reason=str(answer))

    async def ask(self) -> None:
        """Ask the coordinator to take this node in, or to note where it is now."""
        spec, plan = await self._link.join(self._request)
        held = self._life.rounds.spec
        if held is None:
            await self._life.record(Joined(spec=spec.to_bytes().decode()))
        elif spec.digest != held.digest:
            raise OtherJournal(
                f"{self._workspace.folder} holds run {held.name!r} with digest "
                f"{held.digest[:12]}, the coordinator's has {spec.digest[:12]}; "
                "give the new run a data folder of its own"
            )
        await self._life.hold(plan)

    def _own_base(self) -> str:
        path = self._config.base
        if path is None:
            return ""
        with open_checkpoint(path) as reader:
            digest = put_model(self._workspace.store, reader)
        self._workspace.store.pin(digest, BASE_PIN)
        return digest

    async def ensure_base(self, digest: str | None) -> None:
        """Have the run's base in the store, from the coordinator or any member."""
        if digest is None:
            log.info("this run has no base: contributions travel whole")
            return
        base = digest

        async def fetch() -> None:
            coordinator = Holder(name=self._link.name, address=self._link.address)
            await fetch_artifact(
                self._workspace.store,
                base,
                [coordinator, *self._peers.others()],
                self._pool,
                progress_s=self._config.progress_s,
            )

        store = self._workspace.store
        await asyncio.to_thread(store.pin, base, BASE_PIN)
        if not store.has(base):
            await until_available(fetch, what=f"base {base[:12]}")
