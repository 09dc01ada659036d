"""How fast an artifact moves: `fetch_artifact` beside bare gRPC streams.

    python benchmarks/transfer.py [--megabytes 200] [--repeats 5]

Two processes on loopback. The bare streams send the same bytes in messages of
1 MiB and do nothing with them: no identity, no digest, no disk. The third row is
the plain loop over such a stream that hashes each message, writes it to a file and
syncs that at the end: the same work as `fetch_artifact`, one step after the other.
`fetch_artifact` goes through the whole of weft: mutual TLS, the gate, chunks read
and verified in the holder's store, verified again and written to the receiver's,
committed. The last row is the same up to the commit's fsync.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from blake3 import blake3

from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.staging import Staging
from weft.checkpoints.store import Store
from weft.protocol.authority import Authority
from weft.protocol.authorize import Authorizer
from weft.protocol.channel import ChannelPool
from weft.protocol.fetch import Holder, fetch_artifact
from weft.protocol.identity import Credentials, Role
from weft.protocol.peer_channel import channel_options
from weft.protocol.serve_artifacts import ArtifactService
from weft.protocol.server import Server, server_options
from weft.protocol.v1 import peer_pb2, peer_pb2_grpc

MIB = 2**20
TENSOR_BYTES = 8 * MIB


class Bare(peer_pb2_grpc.PeerServicer):
    """Sends one buffer again and again; the digest of the request is the number of messages."""

    def __init__(self) -> None:
        self._data = os.urandom(MIB)

    async def Fetch(  # noqa: D102, N802
        self, request: Any, context: Any
    ) -> AsyncIterator[peer_pb2.Chunk]:
        for index in range(int(request.digest)):
            yield peer_pb2.Chunk(index=index, data=self._data)


class Held(peer_pb2_grpc.PeerServicer):
    """The two methods of a node that serve artifacts."""

    def __init__(self, artifacts: ArtifactService) -> None:
        self.Manifest, self.Fetch = artifacts.Manifest, artifacts.Fetch


async def serve(folder: Path, megabytes: int) -> None:
    """The holder's process: prints its ports and the artifact's digest, then serves."""
    credentials = Credentials.load(folder / "holder")
    store = Store(folder / "holder-store")
    digest = deposit(store, megabytes)
    server = Server(credentials=credentials, listen="127.0.0.1:0", authorizer=Authorizer())
    held = Held(ArtifactService(store))
    server.add(lambda to: peer_pb2_grpc.add_PeerServicer_to_server(held, to))
    ports = {"weft": await server.start(), "digest": digest}
    bare = grpc.aio.server(options=server_options())
    peer_pb2_grpc.add_PeerServicer_to_server(Bare(), bare)
    ports["plain"] = bare.add_insecure_port("127.0.0.1:0")
    ports["tls"] = bare.add_secure_port("127.0.0.1:0", credentials.server())
    await bare.start()
    print(json.dumps(ports), flush=True)
    await bare.wait_for_termination()


def deposit(store: Store, megabytes: int) -> str:
    """An artifact of random float32 tensors."""
    sizes = [
        min(TENSOR_BYTES, megabytes * MIB - start)
        for start in range(0, megabytes * MIB, TENSOR_BYTES)
    ]
    specs = tuple(TensorSpec(f"t{i:04d}", "F32", (size // 4,)) for i, size in enumerate(sizes))
    with store.deposit(Schema(specs), kind="model") as target:
        for spec, size in zip(specs, sizes, strict=True):
            target.write(spec.name, [os.urandom(size)])
    return target.digest


async def bare_stream(channel: grpc.aio.Channel, megabytes: int) -> None:
    stub = peer_pb2_grpc.PeerStub(channel)
    total = 0
    async for chunk in stub.Fetch(peer_pb2.FetchRequest(digest=str(megabytes))):
        total += len(chunk.data)
    if total != megabytes * MIB:
        raise RuntimeError(f"{total} bytes came, {megabytes * MIB} were sent")


async def bare_file(channel: grpc.aio.Channel, megabytes: int, path: Path) -> None:
    stub = peer_pb2_grpc.PeerStub(channel)
    digests = []
    with path.open("wb") as file:
        async for chunk in stub.Fetch(peer_pb2.FetchRequest(digest=str(megabytes))):
            digests.append(blake3(chunk.data).digest())
            file.write(chunk.data)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()  # noqa: ASYNC240


async def measure(
    folder: Path, ports: dict[str, Any], megabytes: int, repeats: int
) -> dict[str, list[float]]:
    credentials = Credentials.load(folder / "receiver")
    pool = ChannelPool(credentials)
    options = channel_options("holder")
    plain = grpc.aio.insecure_channel(f"127.0.0.1:{ports['plain']}", options=options)
    tls = grpc.aio.secure_channel(
        f"127.0.0.1:{ports['tls']}", credentials.channel(), options=options
    )
    root, committed = folder / "receiver-store", []
    commit = Staging.commit

    def timed_commit(staging: Staging) -> str:
        committed.append(time.perf_counter())
        return commit(staging)

    Staging.commit = timed_commit  # type: ignore[method-assign]

    async def fetch() -> None:
        holders = [Holder("holder", f"127.0.0.1:{ports['weft']}")]
        await fetch_artifact(Store(root), ports["digest"], holders, pool)

    async def timed(work: Callable[[], Awaitable[None]]) -> float:
        start = time.perf_counter()
        await work()
        return time.perf_counter() - start

    rows: dict[str, list[float]] = {
        name: [] for name in ("plain", "tls", "file", "fetch", "fetch-no-fsync")
    }
    for _ in range(repeats + 1):
        rows["plain"].append(await timed(lambda: bare_stream(plain, megabytes)))
        rows["tls"].append(await timed(lambda: bare_stream(tls, megabytes)))
        written = folder / "bare-file"
        rows["file"].append(await timed(lambda: bare_file(tls, megabytes, written)))  # noqa: B023
        start = time.perf_counter()
        rows["fetch"].append(await timed(fetch))
        rows["fetch-no-fsync"].append(committed[-1] - start)
        shutil.rmtree(root)
    await pool.close()
    await plain.close()
    await tls.close()
    return {name: seconds[1:] for name, seconds in rows.items()}  # the first warms up


def report(rows: dict[str, list[float]], megabytes: int) -> None:
    names = {
        "plain": "bare stream, plaintext",
        "tls": "bare stream, mutual TLS",
        "file": "bare mutual TLS, hashed, written",
        "fetch": "fetch_artifact",
        "fetch-no-fsync": "fetch_artifact, up to the commit",
    }
    tls = statistics.median(rows["tls"])
    print(f"{megabytes} MiB over loopback, {len(rows['tls'])} repeats, {os.cpu_count()} cores")
    print(f"{'':34} {'median MB/s':>12} {'best MB/s':>10} {'of bare TLS':>12}")
    for name, title in names.items():
        median, best = statistics.median(rows[name]), min(rows[name])
        rate = megabytes * MIB / 1e6
        print(f"{title:34} {rate / median:12.0f} {rate / best:10.0f} {tls / median:12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.megabytes))
        return
    folder = Path(tempfile.mkdtemp(prefix="weft-transfer-"))
    authority = Authority.init(folder / "ca", "bench")
    for name in ("holder", "receiver"):
        authority.issue(name, Role.NODE, out=folder / name)
    command = [
        sys.executable,
        __file__,
        "--serve",
        str(folder),
        "--megabytes",
        str(arguments.megabytes),
    ]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ports = json.loads(holder.stdout.readline()) if holder.stdout else {}
        rows = asyncio.run(measure(folder, ports, arguments.megabytes, arguments.repeats))
    finally:
        holder.terminate()
        holder.wait()
        shutil.rmtree(folder)
    report(rows, arguments.megabytes)


if __name__ == "__main__":
    main()
