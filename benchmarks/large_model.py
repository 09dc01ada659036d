"""A 500 MB model on two nodes: what travels, what a cut costs, what a node keeps in memory.

    python benchmarks/large_model.py [--megabytes 500] [--codec raw] [--cut-at-chunk 250]

Real processes on loopback over mutual TLS. One node is reached through a proxy
that cuts its connection once, in the middle of its contribution; the run before,
on the same machine, is not cut. What the cut run moved beyond the other is what
was sent again. Peak memory is each process's VmHWM.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.federation import Federation
from tests.support.proxy import FaultProxy, Faults
from weft.checkpoints.store import Store

MIB = 2**20

TRAINER = '''
import torch
from torch import nn


class Tiny(nn.Module):
    """Not a learner: megabytes that change a little every round."""

    def __init__(self, shard: int = 0, megabytes: int = 500):
        super().__init__()
        self.shard, self.megabytes = shard, megabytes

    def model(self):
        net = nn.Module()
        net.parts = nn.ParameterList(torch.randn(250_000) for _ in range(self.megabytes))
        return net

    def train(self, model, round):
        with torch.no_grad():
            for part in model.parts:
                part.add_(torch.randn_like(part), alpha=1e-3)
        return {}
'''


BASE = '[base]\ntrainer = "trainer:Tiny"\n[base.options]\nmegabytes = {megabytes}\n'


def peak_mib(pid: int) -> float:
    """The most memory that a live process has held, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def run_text(codec: str) -> str:
    """The run: one round of neighbour merges, no global merge."""
    return f'[merge]\ncodec = "{codec}"\n[final]\nenabled = false\n'


async def measure(fed: Federation, cut_after: list[int]) -> int:
    """Run both nodes through one round; the bytes received from the second."""
    started = time.monotonic()
    await asyncio.to_thread(fed.start_coordinator)
    await asyncio.to_thread(fed.weft, "run", "create", "run.toml")
    print(f"  base uploaded in {time.monotonic() - started:.0f} s")
    port = fed.ports["n1"]
    async with FaultProxy(port, Faults(cut_after=cut_after)) as proxy:
        advertise = f'\nadvertise = "127.0.0.1:{proxy.port}"\n'
        started = time.monotonic()
        await asyncio.to_thread(fed.start_node, "n0")
        await asyncio.to_thread(fed.start_node, "n1", advertise)
        done = [fed.data(name) / "merged" / "model.safetensors" for name in fed.names]
        peaks: dict[str, float] = {}
        while not all(path.exists() for path in done):
            watch(fed, peaks)
            await asyncio.sleep(0.2)
        seconds = time.monotonic() - started
        watch(fed, peaks)
        return report(fed, proxy, peaks, seconds)


def watch(fed: Federation, peaks: dict[str, float]) -> None:
    """Note the peak memory of every process that is alive; none may have failed."""
    for name, process in fed.processes.items():
        if process.poll() is None:
            peaks[name] = peak_mib(process.pid)
        elif process.returncode != 0:
            raise SystemExit(fed.tails())


def report(fed: Federation, proxy: FaultProxy, peaks: dict[str, float], seconds: float) -> int:
    """Print what was measured; the bytes that came through the proxy."""
    store = Store(fed.data("n0") / "store")
    deltas = [store.manifest(digest) for digest in store.digests()]
    theirs = next(m for m in deltas if m.kind == "delta" and m.metadata["node"] == "n1")
    print(f"  {theirs.chunk_count} chunks ({theirs.codec}), against {str(theirs.against)[:12]}")
    print(f"  one round of two nodes, start-up and fetching the base included: {seconds:.0f} s")
    print(f"  contribution of n1     {theirs.total_bytes:>13,} B")
    print(f"  received on the wire   {proxy.received:>13,} B, {proxy.connections} connections")
    for name, peak in sorted(peaks.items()):
        print(f"  peak memory of {name:<12} {peak:>8.0f} MiB")
    return proxy.received


def main() -> None:
    """Parse the arguments and measure in a scratch folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--codec", choices=["raw", "lossless"], default="raw")
    parser.add_argument("--cut-at-chunk", type=int, default=250)
    arguments = parser.parse_args()
    print("not cut")
    whole = one_run(arguments, [])
    print(f"cut at chunk {arguments.cut_at_chunk}")
    # Connection 0 is for calls, connection 1 for the contribution.
    cut = one_run(arguments, [2**62, arguments.cut_at_chunk * MIB])
    print(f"sent again because of the cut: {cut - whole:,} B = {(cut - whole) / MIB:.2f} chunks")


def one_run(arguments: argparse.Namespace, cut_after: list[int]) -> int:
    """A federation in a scratch folder; the bytes received from the second node."""
    with tempfile.TemporaryDirectory() as scratch:
        fed = Federation(
            Path(scratch),
            rounds=1,
            run=run_text(arguments.codec),
            base=BASE.format(megabytes=arguments.megabytes),
            options={"megabytes": arguments.megabytes},
            trainer=TRAINER,
        )
        try:
            return asyncio.run(measure(fed, cut_after))
        finally:
            fed.close()


if __name__ == "__main__":
    main()
