"""A 500 MB model on two nodes: what travels, what a cut costs, what a node keeps in memory.

    python benchmarks/large_model.py [--megabytes 500] [--codec raw] [--cut-at-chunk 250]

Real processes on loopback over mutual TLS. One node is reached through a proxy
that cuts its connection once, in the middle of its contribution. Printed are the
bytes that the other node received beyond the artifacts themselves (a resent chunk
would be 1 MiB of them), and the peak memory of each process (VmHWM).
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


def peak_mib(pid: int) -> float:
    """The most memory that a live process has held, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def run_text(codec: str) -> str:
    """The run: one round of neighbour merges, no global merge."""
    return f'[merge]\ncodec = "{codec}"\n[final]\nenabled = false\n'


async def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Run the federation and print the table."""
    fed = Federation(
        folder,
        rounds=1,
        run=run_text(arguments.codec),
        base=f'[base]\ntrainer = "trainer:Tiny"\n[base.options]\nmegabytes = {arguments.megabytes}\n',
        options={"megabytes": arguments.megabytes},
        trainer=TRAINER,
    )
    try:
        await asyncio.to_thread(fed.start_coordinator)
        started = time.monotonic()
        await asyncio.to_thread(fed.weft, "run", "create", "run.toml")
        print(f"base uploaded in {time.monotonic() - started:.1f} s")
        await asyncio.to_thread(fed.start_node, "n1", 'listen_behind = ""' * 0)
        await asyncio.to_thread(fed.wait, lambda: '"listening"' in fed.log("n1"), "n1 listens")
    except BaseException:
        fed.close()
        raise
    try:
        await two_nodes(arguments, fed)
    finally:
        fed.close()


async def two_nodes(arguments: argparse.Namespace, fed: Federation) -> None:
    """Start the second node and follow both to the end of the round."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--codec", choices=["raw", "lossless"], default="raw")
    parser.add_argument("--cut-at-chunk", type=int, default=250)
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(parser.parse_args(), Path(scratch)))
