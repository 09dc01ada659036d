"""The coordinator's process: configuration -> objects -> tasks, and an orderly end.

    asyncio.run(serve(load_config(path)))

Logs one line a happening; the one with the event `listening` says that nodes and
operators may come, and where. SIGTERM and SIGINT end it within five seconds: who
watches is sent away, what was begun is finished. Torch is never imported here.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Final

import structlog

from weft.checkpoints.disk import free_bytes
from weft.checkpoints.store import Store
from weft.coordinator.config import CoordinatorConfig
from weft.coordinator.data_folder import DataFolder
from weft.coordinator.database import SqlRepository
from weft.coordinator.errors import WrongRole
from weft.coordinator.metrics import CoordinatorMetrics
from weft.coordinator.peer_service import ArtifactHolder, readable_by
from weft.coordinator.runs import Runs
from weft.coordinator.service import CoordinatorService, owner_of
from weft.coordinator.status_page import StatusServer
from weft.coordinator.statuses import RunStatus, status_of
from weft.coordinator.timekeeper import Timekeeper
from weft.errors import Unavailable
from weft.protocol.authorize import Authorizer
from weft.protocol.identity import Credentials, Role
from weft.protocol.revocations import Revocations
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.server import Server
from weft.protocol.threads import in_thread
from weft.protocol.until_stopped import stop_signals, until
from weft.protocol.v1.coordinator_pb2_grpc import add_CoordinatorServicer_to_server
from weft.protocol.v1.peer_pb2_grpc import add_PeerServicer_to_server

log = structlog.get_logger(__name__)

GRACE_S: Final = 2.0
_HOUSEKEEPING_S: Final = 2.0
_STATUS_S: Final = 2.0
LEAST_FREE_BYTES: Final = 64 * 2**20
"""With less than that on the disk the health service says: not serving."""


async def serve(config: CoordinatorConfig, *, stop: asyncio.Event | None = None) -> None:
    """Be the coordinator until a signal ends it.

    Args:
        config: what `load_config` read.
        stop: ends it instead of SIGTERM and SIGINT, for whoever runs it beside
            something else.

    Raises:
        WeftError: it cannot start (which key, which file, what to do), or it cannot
            go on because of its storage.
    """
    async with AsyncExitStack() as stack:
        parts = await _assembled(config, stack)
        with nullcontext(stop) if stop is not None else stop_signals() as ended:
            bound = await parts.server.start()
            stack.push_async_callback(parts.server.stop, GRACE_S)
            stack.callback(parts.runs.stop)
            host = config.listen.rpartition(":")[0]
            log.info("listening", address=f"{host}:{bound}", runs=len(parts.runs.all()))
            await until(ended, [parts.keeper.keep(), parts.keep_house(), parts.runs.failure()])
            log.info("stopping")


class _Parts:
    """What the tasks of the daemon work on."""

    def __init__(
        self,
        *,
        runs: Runs,
        server: Server,
        keeper: Timekeeper,
        revocations: Revocations,
        metrics: CoordinatorMetrics,
        folder: DataFolder,
    ) -> None:
        self.runs = runs
        self.server = server
        self.keeper = keeper
        self._revocations = revocations
        self._metrics = metrics
        self._folder = folder

    async def keep_house(self) -> None:
        """Look at files now and then: revocations, and the room that is left."""
        while True:
            await in_thread(self._revocations.refresh)
            free = await in_thread(free_bytes, self._folder.path)
            self._metrics.free(free)
            await self.server.set_serving(free >= LEAST_FREE_BYTES)
            await asyncio.sleep(_HOUSEKEEPING_S)


async def _assembled(config: CoordinatorConfig, stack: AsyncExitStack) -> _Parts:
    """Everything but the sockets of the server; what has to be closed is on the stack."""
    credentials = await in_thread(_credentials, config)
    folder = stack.enter_context(await in_thread(DataFolder, config.data))
    revocations = await in_thread(Revocations, config.revoked)
    repository = await in_thread(_repository, config, folder, credentials.identity.federation)
    runs = await Runs.open(repository, clock=time.monotonic, wall=time.time)
    stack.push_async_callback(runs.close)
    store = await in_thread(_store, folder, runs)
    statuses = _Statuses(runs, asyncio.get_running_loop())
    metrics = CoordinatorMetrics(statuses)
    metrics.expires(credentials.expires_at.timestamp())
    runs.on_change = metrics.changed
    if config.metrics:
        page = await in_thread(StatusServer, config.metrics, statuses, metrics.registry)
        stack.push_async_callback(in_thread, page.close)
        log.info("status page", address=page.address)
    server = Server(
        credentials=credentials,
        listen=config.listen,
        authorizer=Authorizer(revoked=lambda: revocations.serials),
        on_bytes=metrics.moved,
    )
    service = CoordinatorService(runs, store)
    holder = ArtifactHolder(ArtifactService(store, readable_by(runs)))
    server.add(lambda to: add_CoordinatorServicer_to_server(service, to))
    server.add(lambda to: add_PeerServicer_to_server(holder, to))
    return _Parts(
        runs=runs,
        server=server,
        keeper=Timekeeper(runs, revoked=lambda: revocations.serials),
        revocations=revocations,
        metrics=metrics,
        folder=folder,
    )


def _credentials(config: CoordinatorConfig) -> Credentials:
    credentials = Credentials.load(config.credentials)
    if credentials.identity.role is not Role.COORDINATOR:
        raise WrongRole(
            f"credentials = {config.credentials}: {credentials.identity.name} has the role "
            f"{credentials.identity.role}, expected coordinator "
            "(weft certs issue DIR coordinator --role coordinator)"
        )
    return credentials


def _repository(config: CoordinatorConfig, folder: DataFolder, federation: str) -> SqlRepository:
    repository = SqlRepository(config.database_url, federation=federation, identity=folder.identity)
    try:
        folder.remember(repository.identity)
    except BaseException:
        repository.close()
        raise
    return repository


def _store(folder: DataFolder, runs: Runs) -> Store:
    """The store, without the pins of runs that were never made."""
    store = Store(folder.store)
    wanted = {(live.record.spec.base, owner_of(live.record.name)) for live in runs.all()}
    for digest, owner in store.pins():
        if (digest, owner) not in wanted:
            store.unpin(digest, owner)
    return store


class _Statuses:
    """All runs as they are now, for threads that are not the event loop's."""

    def __init__(self, runs: Runs, loop: asyncio.AbstractEventLoop) -> None:
        self._runs = runs
        self._loop = loop

    def __call__(self) -> Sequence[RunStatus]:
        """Ask the event loop; blocks.

        Raises:
            Unavailable: it does not answer.
        """
        asked = asyncio.run_coroutine_threadsafe(self._now(), self._loop)
        try:
            return asked.result(_STATUS_S)
        except TimeoutError:
            asked.cancel()
            raise Unavailable("the coordinator does not answer; is this machine busy?") from None

    async def _now(self) -> Sequence[RunStatus]:
        return [status_of(live, self._runs.now) for live in self._runs.all()]
