"""The coordinator as a process: it listens, lasts, ends in order, and refuses mistakes."""

import asyncio
import json
import os
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.coordinator.processes import CoordinatorProcess
from tests.support.wire import deposit, until
from weft.checkpoints.store import Store
from weft.coordinator import daemon
from weft.coordinator.config import CoordinatorConfig, load_config
from weft.coordinator.daemon import serve
from weft.coordinator.database import SqlRepository
from weft.coordinator.errors import StorageFailed
from weft.coordinator.repository import Change
from weft.errors import Corrupt, Denied, InvalidInput, Refused, Unavailable, WeftError
from weft.protocol.channel import ChannelPool, call, coordinator_stub, stream
from weft.protocol.convert import plan_of
from weft.protocol.identity import Role
from weft.protocol.run import Plan, RunSpec
from weft.protocol.upload import put_artifact
from weft.protocol.v1 import coordinator_pb2 as wire
from weft.protocol.v1.coordinator_pb2_grpc import CoordinatorStub

S = 10.0


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    made = CoordinatorProcess(tmp_path)
    yield made
    made.close()


@asynccontextmanager
async def calling(
    process: CoordinatorProcess, name: str, role: Role = Role.NODE
) -> AsyncIterator[tuple[CoordinatorStub, ChannelPool]]:
    pool = ChannelPool(process.enrol(name, role))
    try:
        yield coordinator_stub(pool.to(process.address, "coordinator")), pool
    finally:
        await pool.close()


async def create(process: CoordinatorProcess) -> RunSpec:
    """A run of one node, its base uploaded."""
    store = Store(process.folder / "outbox")
    base = deposit(store, {"w": 4096})
    spec = RunSpec(name="quilt", nodes=1, rounds=3, base=base)
    async with calling(process, "olga", Role.OPERATOR) as (stub, pool):
        await put_artifact(store, base, pool.to(process.address, "coordinator", bulk=True))
        await call(stub.CreateRun, wire.CreateRunRequest(spec=spec.to_bytes()), timeout_s=S)
    return spec


async def join(process: CoordinatorProcess) -> Plan:
    async with calling(process, "a") as (stub, _):
        request = wire.JoinRequest(run="quilt", address="a:1")
        return plan_of((await call(stub.Join, request, timeout_s=S)).plan)


async def first_plan(process: CoordinatorProcess, version: int = 0) -> Plan:
    async with calling(process, "a") as (stub, _):
        request = wire.WatchRequest(run="quilt", version=version, keepalive_s=0.2)
        async with aclosing(stream(stub.Watch, request, progress_s=S)) as watching:
            return plan_of(await anext(watching))


async def test_it_lasts_ends_in_order_and_never_loads_torch(
    coordinator: CoordinatorProcess,
) -> None:
    coordinator.start()
    assert coordinator.process is not None
    spec = await create(coordinator)
    before = await join(coordinator)
    process = psutil.Process(coordinator.process.pid)
    assert not [one.path for one in process.memory_maps() if "torch" in one.path]
    assert process.memory_info().rss < 300 * 2**20
    coordinator.process.send_signal(signal.SIGKILL)
    assert coordinator.process.wait(5) == -signal.SIGKILL
    coordinator.start()
    assert await first_plan(coordinator) == before
    assert await join(coordinator) == before
    store = Store(coordinator.folder / "data" / "store")
    assert store.pins() == [(spec.base, "run:quilt")]
    await stopped_while_watched(coordinator, before, signal.SIGTERM)
    coordinator.start()
    await stopped_while_watched(coordinator, before, signal.SIGINT)


async def stopped_while_watched(
    process: CoordinatorProcess, held: Plan, how: signal.Signals
) -> None:
    async with calling(process, "a") as (stub, _):
        request = wire.WatchRequest(run="quilt", version=held.version)
        watching = stream(stub.Watch, request, progress_s=S)
        waiting = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0.3)
        assert process.stop(how, timeout_s=5) == 0
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), Unavailable)


class InProcess(CoordinatorProcess):
    """The same daemon on this process's event loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.page = ""

    def write(self, **keys: object) -> CoordinatorConfig:
        lines = [f"{k} = {json.dumps(v)}" for k, v in {**self.keys, **keys}.items()]
        self.config.write_text("\n".join(lines) + "\n")
        return load_config(self.config)

    @asynccontextmanager
    async def up(self, **keys: object) -> AsyncIterator[None]:
        stop = asyncio.Event()
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(serve(self.write(**keys), stop=stop))
            await until(lambda: task.done() or found(logs, "listening") != "", 20)
            if task.done():
                await task
            self.address, self.page = found(logs, "listening"), found(logs, "status page")
            try:
                yield
            finally:
                stop.set()
                await asyncio.wait_for(task, 5)


def found(logs: Sequence[Mapping[str, Any]], event: str) -> str:
    return next((str(one["address"]) for one in logs if one["event"] == event), "")


@pytest.fixture
def here(tmp_path: Path) -> InProcess:
    return InProcess(tmp_path)


async def test_a_second_coordinator_on_the_folder_is_refused(here: InProcess) -> None:
    async with here.up():
        with pytest.raises(Refused, match=rf"another coordinator \(pid {os.getpid()}\) uses"):
            await serve(here.write())
        await create(here)


async def test_a_database_that_went_missing_is_not_begun_anew(here: InProcess) -> None:
    async with here.up():
        await create(here)
    database = here.folder / "data" / "runs.sqlite"
    kept = database.read_bytes()
    database.unlink()
    with pytest.raises(Corrupt, match="missing or empty; restore it from a backup"):
        await serve(here.write())
    database.write_bytes(kept)
    async with here.up():
        await join(here)


async def test_a_restored_backup_halts_the_run_until_the_right_one_is_back(
    here: InProcess,
) -> None:
    database = here.folder / "data" / "runs.sqlite"
    async with here.up():
        await create(here)
    older = database.read_bytes()
    async with here.up():
        held = await join(here)
    newer = database.read_bytes()
    database.write_bytes(older)
    async with here.up():
        await join(here)
        with pytest.raises(Unavailable, match=r"holds version 7 .* put the newer database back"):
            await first_plan(here, version=7)
    database.write_bytes(newer)
    async with here.up():
        assert await first_plan(here, version=held.version) == held


async def test_revoking_takes_effect_while_it_runs(here: InProcess) -> None:
    async with here.up():
        await create(here)
        await join(here)
        (serial,) = here.enrol.authority.revoke("a")
        async with calling(here, "olga", Role.OPERATOR) as (stub, _), asyncio.timeout(20):
            revoked: list[str] = []
            while not revoked:
                await asyncio.sleep(0.1)
                status = await call(stub.GetRun, wire.GetRunRequest(run="quilt"), timeout_s=S)
                revoked = list(status.plan.revoked)
        assert revoked == [serial]
        with pytest.raises(Denied, match="revoked"):
            await first_plan(here)


async def test_pins_of_runs_that_were_never_made_are_let_go(here: InProcess) -> None:
    async with here.up():
        spec = await create(here)
    store = Store(here.folder / "data" / "store")
    store.pin("ab" * 32, "run:never")
    assert len(store.pins()) == 2
    async with here.up():
        assert store.pins() == [(spec.base, "run:quilt")]


async def test_the_status_page_and_the_metrics(here: InProcess) -> None:
    async with here.up(metrics="127.0.0.1:0"):
        await create(here)
        await join(here)
        page, document, metrics = [
            await asyncio.to_thread(fetched, f"http://{here.page}{path}")
            for path in ("/", "/status.json", "/metrics")
        ]
    assert "<h2>quilt</h2>" in page
    (run,) = json.loads(document)["runs"]
    assert (run["run"], run["state"], run["members"][0]["node"]) == ("quilt", "running", "a")
    assert 'weft_coordinator_run_state{run="quilt",state="running"} 1.0' in metrics
    assert 'weft_coordinator_run_members{run="quilt",standing="present"} 1.0' in metrics
    assert "weft_coordinator_change_seconds_count 2.0" in metrics
    assert 'weft_coordinator_bytes_total{caller="a",direction="received"}' in metrics


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


async def test_mistakes_name_the_key(here: InProcess) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes: list[tuple[dict[str, object], str]] = [
            ({"listen": f"127.0.0.1:{port}"}, f"port {port} cannot be listened on"),
            ({"metrics": f"127.0.0.1:{port}"}, "name a free host:port"),
            ({"credentials": str(here.enrol("a").folder)}, "a has the role node"),
            ({"revoked": "nothing.json"}, "nothing.json"),
            ({"database": "sqlite"}, "database: not a URL"),
            ({"lisen": ""}, "nearest valid key listen"),
            ({"metrics": "here"}, "metrics"),
            ({"data": "coordinator.toml/data"}, "data = .*cannot be used"),
        ]
        for keys, complaint in mistakes:
            with pytest.raises(InvalidInput, match=complaint):
                await serve(here.write(**keys))


async def test_a_storage_that_fails_ends_the_coordinator(
    here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: SqlRepository, change: Change) -> None:
        raise StorageFailed("the disk has failed")

    async def create_there() -> None:
        async with here.up():
            monkeypatch.setattr(SqlRepository, "commit", fails)
            with pytest.raises(WeftError, match="the disk has failed"):
                await create(here)

    with pytest.raises(StorageFailed, match="the disk has failed"):
        await create_there()


async def test_a_full_disk_is_no_health(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = health_pb2.HealthCheckResponse.ServingStatus

    async def asked() -> int:
        async with calling(here, "a") as (_, pool):
            stub = health_pb2_grpc.HealthStub(pool.to(here.address, "coordinator"))
            reply = await call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=S)
            return int(reply.status)

    async with here.up():
        assert await asked() == serving.SERVING
    monkeypatch.setattr(daemon, "LEAST_FREE_BYTES", 2**62)
    async with here.up(), asyncio.timeout(10):
        while await asked() != serving.NOT_SERVING:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
