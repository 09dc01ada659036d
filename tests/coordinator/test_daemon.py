"""The coordinator as a process: it listens, lasts, ends in order, and refuses mistakes."""

import asyncio
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.coordinator.processes import CoordinatorProcess
from tests.support.wire import deposit
from weft.checkpoints.store import Store
from weft.errors import Denied
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
    maps = Path(f"/proc/{coordinator.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert psutil.Process(coordinator.process.pid).memory_info().rss < 300 * 2**20
    coordinator.process.send_signal(signal.SIGKILL)
    assert coordinator.process.wait(5) == -signal.SIGKILL
    coordinator.start()
    assert await first_plan(coordinator) == before
    assert await join(coordinator) == before
    store = Store(coordinator.folder / "data" / "store")
    assert store.pins() == [(spec.base, "run:quilt")]
    for how in (signal.SIGTERM, signal.SIGINT):
        async with calling(coordinator, "a") as (stub, _):
            request = wire.WatchRequest(run="quilt", version=before.version)
            watching = stream(stub.Watch, request, progress_s=S)
            waiting = asyncio.ensure_future(anext(watching))
            await asyncio.sleep(0.2)
            assert coordinator.stop(how, timeout_s=5) == 0
            await asyncio.wait([waiting])
            assert waiting.exception() is not None
        coordinator.start()


def test_a_second_coordinator_on_the_folder_is_refused(coordinator: CoordinatorProcess) -> None:
    coordinator.start()
    assert coordinator.process is not None
    other = CoordinatorProcess(coordinator.folder / "other", data=str(coordinator.folder / "data"))
    other.begin()
    code, line = other.ended()
    assert code == 2
    assert f"another coordinator (pid {coordinator.process.pid}) uses" in line
    assert coordinator.process.poll() is None


async def test_a_database_that_went_missing_is_not_begun_anew(
    coordinator: CoordinatorProcess,
) -> None:
    coordinator.start()
    await create(coordinator)
    assert coordinator.stop() == 0
    database = coordinator.folder / "data" / "runs.sqlite"
    kept = database.read_bytes()
    database.unlink()
    coordinator.begin()
    code, line = coordinator.ended()
    assert code == 1
    assert "missing or empty; restore it from a backup" in line
    database.write_bytes(kept)
    coordinator.start()
    await join(coordinator)


async def test_a_restored_backup_halts_the_run_until_the_right_one_is_back(
    coordinator: CoordinatorProcess,
) -> None:
    coordinator.start()
    await create(coordinator)
    assert coordinator.stop() == 0
    database = coordinator.folder / "data" / "runs.sqlite"
    older = database.read_bytes()
    coordinator.start()
    held = await join(coordinator)
    assert coordinator.stop() == 0
    newer = database.read_bytes()
    database.write_bytes(older)
    coordinator.start()
    await join(coordinator)
    with pytest.raises(Exception, match=r"holds version 7 .* put the newer database back"):
        await first_plan(coordinator, version=7)
    assert coordinator.stop() == 0
    database.write_bytes(newer)
    coordinator.start()
    assert await first_plan(coordinator, version=held.version) == held


async def test_revoking_takes_effect_while_it_runs(coordinator: CoordinatorProcess) -> None:
    coordinator.start()
    await create(coordinator)
    await join(coordinator)
    (serial,) = coordinator.enrol.authority.revoke("a")
    deadline = time.monotonic() + 20
    with pytest.raises(Denied, match="revoked"):
        while time.monotonic() < deadline:
            await first_plan(coordinator)
            await asyncio.sleep(0.1)
    async with calling(coordinator, "olga", Role.OPERATOR) as (stub, _):
        for _ in range(50):
            status = await call(stub.GetRun, wire.GetRunRequest(run="quilt"), timeout_s=S)
            if status.plan.revoked:
                break
            await asyncio.sleep(0.1)
        assert list(status.plan.revoked) == [serial]


def test_the_status_page_and_the_metrics(coordinator: CoordinatorProcess) -> None:
    coordinator.keys["metrics"] = "127.0.0.1:0"
    coordinator.start()
    asyncio.run(create(coordinator))
    asyncio.run(join(coordinator))
    (event,) = coordinator.events("status page")
    page, document, metrics = (
        fetched(f"http://{event['address']}{path}") for path in ("/", "/status.json", "/metrics")
    )
    assert "<h2>quilt</h2>" in page
    assert "running" in page
    (run,) = json.loads(document)["runs"]
    assert (run["run"], run["state"], run["members"][0]["node"]) == ("quilt", "running", "a")
    assert 'weft_coordinator_run_state{run="quilt",state="running"} 1.0' in metrics
    assert 'weft_coordinator_run_members{run="quilt",standing="present"} 1.0' in metrics
    assert "weft_coordinator_change_seconds_count 2.0" in metrics
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetched(f"http://{event['address']}/nothing")


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def test_mistakes_are_one_line(coordinator: CoordinatorProcess) -> None:
    right = dict(coordinator.keys)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node = str(coordinator.enrol("a").folder)
        for keys, complaint in (
            ({"listen": f"127.0.0.1:{port}"}, f"port {port} cannot be listened on"),
            ({"metrics": f"127.0.0.1:{port}"}, "name a free host:port"),
            ({"credentials": node}, "a has the role node, expected coordinator"),
            ({"revoked": "nothing.json"}, "nothing.json"),
            ({"database": "sqlite"}, "database: not a URL"),
            ({"lisen": ""}, "nearest valid key listen"),
        ):
            coordinator.keys = {**right, **keys}
            coordinator.begin()
            code, line = coordinator.ended()
            assert code == 2, line
            assert line.startswith("weft: "), line
            assert complaint in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_folder_that_cannot_be_written(coordinator: CoordinatorProcess) -> None:
    (coordinator.folder / "data").mkdir(mode=0o500)
    coordinator.begin()
    code, line = coordinator.ended()
    assert code == 2
    assert "data = " in line
