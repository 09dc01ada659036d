"""`weft stream serve`: a stream that takes what is pushed and what a folder gets.

The composition root: configuration -> objects -> tasks, and an orderly end. One thread
works on the stream (`keeper.py`); whatever it is killed in, the next process goes on
where the journal ends, so a stop never waits for an absorption.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from weft.checkpoints.disk import free_bytes
from weft.checkpoints.errors import MissingCheckpoint
from weft.node.continual.errors import BadStream
from weft.node.continual.keeper import FIRST_PAUSE_S, Keeper
from weft.node.continual.metrics import StreamMetrics
from weft.node.continual.service import ContinualService
from weft.node.continual.uploads import Uploads
from weft.node.continual.watch import SETTLE_S
from weft.node.continual.watching import RESCAN_S, Watching
from weft.node.errors import JournalBusy
from weft.node.metrics import serve as serve_metrics
from weft.protocol.authorize import Authorizer
from weft.protocol.identity import Credentials
from weft.protocol.revocations import Revocations
from weft.protocol.server import Server
from weft.protocol.threads import in_thread
from weft.protocol.until_stopped import stop_signals, until
from weft.protocol.v1.continual_pb2_grpc import add_ContinualServicer_to_server

log = structlog.get_logger(__name__)

GRACE_S: Final = 1.0
_STOP_S: Final = 4.5
_HOUSEKEEPING_S: Final = 2.0
_SWEEP_EVERY: Final = 1800
LEAST_FREE_BYTES: Final = 64 * 2**20
"""With less than that on the disk the health service says: not serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamServerConfig:
    """What `weft stream serve` is told.

    Attributes:
        folder: of the stream.
        watch: a folder that training jobs write to; None: none.
        listen: host:port for those who push; empty: nobody can.
        credentials: folder of node.pem, node.key and ca.pem; needed with `listen`.
        revoked: the authority's revoked.json, read again whenever it changes.
        metrics: host:port of /metrics, plain HTTP without any login; empty: none.
        threads: workers of the merge.
        memory_bytes: what they may fill between them.
        settle_s: how long nothing may have changed in a watched checkpoint.
        rescan_s: how often the watched folder is looked at, whatever the system tells.
        prefix: of torch.distributed checkpoints there only tensors that begin with it.
    """

    folder: Path
    watch: Path | None = None
    listen: str = ""
    credentials: Path | None = None
    revoked: Path | None = None
    metrics: str = ""
    threads: int = 1
    memory_bytes: int = 2**40
    settle_s: float = SETTLE_S
    rescan_s: float = RESCAN_S
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.watch is None and not self.listen:
            raise BadStream(
                "a stream is served to somebody: give --watch FOLDER, --listen HOST:PORT, or both"
            )
        if self.listen and self.credentials is None:
            raise BadStream("--listen needs --credentials FOLDER (weft certs issue makes one)")
        if self.watch is not None and not self.watch.is_dir():
            raise MissingCheckpoint(f"{self.watch}: no such folder to watch")
        if self.watch is not None and _below(self.watch, self.folder):
            raise BadStream(f"{self.watch}: cannot be watched, the stream itself writes there")


async def serve(config: StreamServerConfig, *, stop: asyncio.Event | None = None) -> None:
    """Serve a stream until a signal ends it.

    Args:
        config: what is served, and to whom.
        stop: ends it instead of SIGTERM and SIGINT, for tests.

    Raises:
        WeftError: it cannot start, or its own files are damaged.
    """
    with nullcontext(stop) if stop is not None else stop_signals(_end_soon) as ended:
        async with AsyncExitStack() as stack:
            work = await _assembled(config, stack)
            await until(ended, work)
            log.info("stopping")


async def _assembled(
    config: StreamServerConfig, stack: AsyncExitStack
) -> list[Coroutine[Any, Any, None]]:
    """Everything that runs; what has to be closed is on the stack."""
    metrics = StreamMetrics()
    keeper = await _kept(config, metrics)
    stack.push_async_callback(keeper.close)
    metrics.room(lambda: free_bytes(config.folder))
    metrics.in_trouble(lambda: bool(keeper.trouble))
    if config.metrics:
        endpoint = serve_metrics(metrics, config.metrics)
        stack.callback(endpoint.close)
        log.info("metrics", port=endpoint.port)
    others: list[Coroutine[Any, Any, None]] = []
    if config.listen:
        others.append(await _listening(config, keeper, metrics, stack))
    if config.watch is not None:
        watching = Watching(
            config.watch,
            keeper,
            settle_s=config.settle_s,
            rescan_s=config.rescan_s,
            prefix=config.prefix,
        )
        others.append(watching.run())
        log.info("watching", folder=str(config.watch))
    # Last: whoever cannot listen has not begun what nobody would wait for.
    return [keeper.work(), *others]


async def _kept(config: StreamServerConfig, metrics: StreamMetrics) -> Keeper:
    """The stream, opened; waits for whoever is busy with its journal."""
    while True:
        try:
            return await Keeper.open(
                config.folder, metrics, threads=config.threads, memory_bytes=config.memory_bytes
            )
        except JournalBusy as busy:
            log.error("cannot begin; tried again", reason=str(busy), in_s=FIRST_PAUSE_S)
            await asyncio.sleep(FIRST_PAUSE_S)


async def _listening(
    config: StreamServerConfig, keeper: Keeper, metrics: StreamMetrics, stack: AsyncExitStack
) -> Coroutine[Any, Any, None]:
    """Listen; returns what has to be looked after meanwhile."""
    credentials = Credentials.load(config.credentials or Path())
    metrics.certificate_ends(credentials.expires_at.timestamp())
    revocations = await in_thread(Revocations, config.revoked)
    uploads = await in_thread(Uploads, config.folder, keeper.base, keeper.base_schema)
    service = ContinualService(keeper, uploads)
    stack.callback(service.close)
    server = Server(
        credentials=credentials,
        listen=config.listen,
        authorizer=Authorizer(revoked=lambda: revocations.serials),
        on_bytes=metrics.moved,
        config_key="--listen",
    )
    server.add(lambda to: add_ContinualServicer_to_server(service, to))
    port = await server.start()
    stack.push_async_callback(server.stop, GRACE_S)
    host = config.listen.rpartition(":")[0]
    log.info("listening", address=f"{host}:{port}", name=credentials.identity.name)
    return _keep_house(config.folder, keeper, server, revocations, uploads)


async def _keep_house(
    folder: Path, keeper: Keeper, server: Server, revocations: Revocations, uploads: Uploads
) -> None:
    """Look at files now and then: revocations, the room that is left, abandoned uploads."""
    rounds = 0
    while True:
        await in_thread(revocations.refresh)
        free = await in_thread(free_bytes, folder)
        await server.set_serving(free >= LEAST_FREE_BYTES and not keeper.trouble)
        rounds += 1
        if rounds % _SWEEP_EVERY == 0:
            await in_thread(uploads.sweep)
        await asyncio.sleep(_HOUSEKEEPING_S)


def _end_soon() -> None:
    """End the process in a while, whatever it does then.

    A thread in the middle of a merge cannot be cancelled. Whatever it writes is safe from a
    kill, so a server never takes longer than this to stop.
    """
    last = threading.Timer(_STOP_S, os._exit, (0,))
    last.daemon = True
    last.start()


def _below(inner: Path, outer: Path) -> bool:
    """Whether one folder is the other, or lies in it."""
    return outer.resolve() in (inner.resolve(), *inner.resolve().parents)
