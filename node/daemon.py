"""`weft node`: builds a node from its configuration and lets it live.

The composition root. Objects are made here and handed to each other; what they
do is in their own modules, and `weft.node.rounds` tells the story.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from weft.checkpoints.disk import free_bytes
from weft.checkpoints.manifest import Manifest
from weft.errors import Refused, WeftError
from weft.node.aligning import Aligning
from weft.node.backends import backend_for
from weft.node.board import Board
from weft.node.collector import Collector, Peers
from weft.node.config import NodeConfig
from weft.node.coordinator_link import CoordinatorLink
from weft.node.global_merge import GlobalMerge, GlobalStage, Linger
from weft.node.global_steps import GlobalSteps
from weft.node.joining import Joining, advertised
from weft.node.journal import EntryLog, Journal
from weft.node.judging import Judging
from weft.node.ledger import Ledger
from weft.node.life import Life
from weft.node.lock import FolderLock
from weft.node.merging import Merging
from weft.node.metrics import NodeMetrics
from weft.node.metrics import serve as serve_metrics
from weft.node.neighbours import Neighbourhood
from weft.node.peer_service import PeerService
from weft.node.reporting import Reporter
from weft.node.round_steps import RoundSteps
from weft.node.rounds import RoundMachine, Stage
from weft.node.shares import ShareDesk
from weft.node.traffic import Traffic
from weft.node.training import TrainerBackend
from weft.node.workspace import Workspace
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool
from weft.protocol.identity import Credentials, Identity, Role
from weft.protocol.logs import configure_logs
from weft.protocol.run import NodeId, Plan, RunName, RunSpec, RunState
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.server import Server
from weft.protocol.v1.peer_pb2_grpc import add_PeerServicer_to_server

log = structlog.get_logger(__name__)

_STATES = [*Stage, *GlobalStage]
_GRACE_S = 2.0
_STOP_S = 4.5

JournalOpener = Callable[[Workspace, str, NodeId], EntryLog]


def open_journal(workspace: Workspace, run: str, me: NodeId) -> EntryLog:
    """The node's durable journal."""
    return Journal.open(workspace.journal, identity={"run": run, "node": me})


async def serve(config: NodeConfig, *, journal_of: JournalOpener = open_journal) -> None:
    """Run a node until its run is over, or SIGTERM or SIGINT comes.

    Args:
        config: what `load_node_config` read.
        journal_of: opens the journal; tests put a faulty one here.

    Raises:
        WeftError: what the node cannot live with; the command line prints it.
    """
    living = asyncio.ensure_future(_live(config, journal_of))

    def stop() -> None:
        living.cancel()
        # A thread in the middle of a merge cannot be cancelled. Whatever it writes
        # is safe from a kill, so a node never takes longer than this to stop.
        last = threading.Timer(_STOP_S, os._exit, (0,))
        last.daemon = True
        last.start()

    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, stop)
    try:
        await living
    except asyncio.CancelledError:
        log.info("stopped by a signal; start the node again to go on")


async def _live(config: NodeConfig, journal_of: JournalOpener) -> None:
    credentials = Credentials.load(config.credentials)
    me = NodeId(credentials.identity.name)
    configure_logs(config.log_level, node=me)
    with FolderLock(config.data):
        workspace = Workspace(config.data)
        async with AsyncExitStack() as stack:
            node = Node(config, me, credentials, workspace, journal_of)
            await node.run(stack)


class Node:
    """One node's objects, wired.

    Args:
        config: the node's configuration.
        me: its name, from its certificate.
        credentials: its certificate and key.
        workspace: its data folder, locked.
        journal_of: opens its journal.
    """

    def __init__(
        self,
        config: NodeConfig,
        me: NodeId,
        credentials: Credentials,
        workspace: Workspace,
        journal_of: JournalOpener,
    ) -> None:
        self._config, self._me, self._workspace = config, me, workspace
        self._credentials = credentials
        self.metrics = NodeMetrics(states=_STATES)
        self.metrics.certificate_ends(credentials.expires_at.timestamp(), time.time)
        self.metrics.room(lambda: free_bytes(workspace.folder))
        self.traffic = Traffic(self.metrics)
        self.board = Board()
        self.journal = journal_of(workspace, config.run, me)
        self.pool = ChannelPool(credentials, on_bytes=self.traffic.moved)
        self.link = CoordinatorLink(
            self.pool,
            address=config.coordinator,
            name=config.coordinator_name,
            run=RunName(config.run),
        )
        neighbourhood = Neighbourhood(me, self._spec)
        self.rounds = RoundMachine(me, neighbourhood.edges)
        self.final = GlobalMerge(me)
        self.life = Life(
            rounds=self.rounds,
            final=self.final,
            journal=self.journal,
            board=self.board,
            metrics=self.metrics,
        )
        self.peers = Peers(me, self.pool, config.run, lambda: self.rounds.plan)
        self.joining = Joining(config, workspace, self.life, self.link, self.peers, self.pool)
        self.collector = Collector(
            self.peers,
            self.pool,
            workspace.store,
            progress_s=config.progress_s,
            check=self._check,
            on_contact=self.metrics.heard,
        )
        self.desk = ShareDesk(
            me=me,
            spec_of=self._spec,
            store=workspace.store,
            peers=self.peers,
            pool=self.pool,
            progress_s=config.progress_s,
            patience_s=config.share_patience_s,
        )
        self.reporter = Reporter(
            me=me,
            life=self.life,
            link=self.link,
            board=self.board,
            collector=self.collector,
            traffic=self.traffic,
        )

    def _check(self, manifest: Manifest, node: NodeId, round: int) -> None:
        Merging(self._workspace.store, self._spec()).check(manifest, node, round)

    def _spec(self) -> RunSpec:
        if self.rounds.spec is None:
            raise Refused("this node has not joined a run yet")
        return self.rounds.spec

    def _plan(self) -> Plan:
        if self.rounds.plan is None:
            raise Refused("this node holds no plan yet")
        return self.rounds.plan

    async def run(self, stack: AsyncExitStack) -> None:
        """Listen, join, live, linger; whatever was started is stopped in the end."""
        stack.callback(self.journal.close)
        stack.push_async_callback(self.pool.close)
        if self._config.metrics:
            endpoint = serve_metrics(self.metrics, self._config.metrics)
            stack.callback(endpoint.close)
        port = await self._listen(stack)
        training = backend_for(
            self._config.train, folder=self._config.folder, data=self._workspace.folder
        )
        stack.push_async_callback(training.stop, _GRACE_S)
        facts = await training.start()
        size = self._config.train.data_size or facts.data_size or 0
        await self.joining.join(advertised(self._config, port), size)
        follow = self.link.follow(self._version, self.life.hold, self.joining.ask)
        async with _background(follow):
            await self.joining.ensure_base(self._spec().base)
            async with _background(self.reporter.run(self._spec().lease_s)):
                try:
                    await self._live(training)
                except WeftError as failure:
                    await self.reporter.last_words(f"stopped: {failure}")
                    raise

    async def _listen(self, stack: AsyncExitStack) -> int:
        artifacts = ArtifactService(
            self._workspace.store, lambda caller, _: self._is_member(caller)
        )
        service = PeerService(
            rounds=self.rounds,
            final=self.final,
            board=self.board,
            artifacts=artifacts,
            shares=self.desk,
            status=self.reporter.document,
            is_member=self._is_member,
        )
        server = Server(
            credentials=self._credentials,
            listen=self._config.listen,
            authorizer=Authorizer(revoked=self._revoked),
            on_bytes=self.traffic.moved,
        )
        server.add(lambda grpc_server: add_PeerServicer_to_server(service, grpc_server))
        port = await server.start()
        stack.push_async_callback(server.stop, 1.0)
        log.info("listening", address=self._config.listen, port=port)
        return port

    def _is_member(self, caller: Identity) -> bool:
        plan = self.rounds.plan
        known = plan is not None and plan.member(NodeId(caller.name)) is not None
        return known and caller.role is Role.NODE

    def _revoked(self) -> frozenset[str]:
        return frozenset() if self.rounds.plan is None else self.rounds.plan.revoked

    def _version(self) -> int:
        return 0 if self.rounds.plan is None else self.rounds.plan.version

    async def _live(self, training: TrainerBackend) -> None:
        aligning = await self._aligning(training)
        round_steps = RoundSteps(
            me=self._me,
            spec=self._spec(),
            rounds=self.rounds,
            workspace=self._workspace,
            training=training,
            collector=self.collector,
            judging=Judging(
                me=self._me,
                spec=self._spec(),
                workspace=self._workspace,
                aligning=aligning,
                metrics=self.metrics,
            ),
            peers=self.peers,
            ledger=Ledger(self.journal),
            metrics=self.metrics,
        )
        global_steps = GlobalSteps(
            me=self._me,
            spec=self._spec(),
            final=self.final,
            plan_of=self._plan,
            workspace=self._workspace,
            training=training,
            aligning=aligning,
            desk=self.desk,
            peers=self.peers,
            pool=self.pool,
            link=self.link,
            board=self.board,
            ledger=round_steps.ledger,
            progress_s=self._config.progress_s,
            say=self.life.say,
        )
        ended = await self.life.live(round_steps, global_steps)
        if isinstance(ended, Linger):
            log.info("done", model=ended.model, folder=str(self._workspace.merged_folder))
            await self._linger()
        else:
            log.info("the run was stopped")

    async def _aligning(self, training: TrainerBackend) -> Aligning | None:
        if not self._spec().merge.aligns:
            return None
        aligning = Aligning(
            spec=self._spec(), workspace=self._workspace, training=training, metrics=self.metrics
        )
        await aligning.prepare()
        return aligning

    async def _linger(self) -> None:
        """Serve until the coordinator says that everybody is done.

        While it is away nobody says so; then a node stays for `linger_s`.
        """
        while not await self.board.wait_for(self._run_is_over, self._config.linger_s):
            if not self.link.connected:
                log.warning("leaving; the coordinator is away, nobody says that the run is over")
                return

    def _run_is_over(self) -> bool | None:
        over = self._plan().state in (RunState.FINISHED, RunState.STOPPED)
        return True if over else None


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something beside the body; the failure of either ends the other."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as failures:
        # One error, one line for a person: what failed first is what is told.
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
