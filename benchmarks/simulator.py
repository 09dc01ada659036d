"""How fast nodes are trained on one machine: weft's local engine, and what others do.

    python benchmarks/simulator.py --data FOLDER [--models mlp cnn] [--nodes 64] [--json FILE]
                                   [--rows local processes gossipy flower pfl "one model"]
                                   [--cache ~/.cache/weft-bench] [--torch-index URL]

FOLDER (or $WEFT_BENCH_DATA) holds vision/fashion_mnist.npz. A node has 2,000 images and
takes 20 steps of 32 a round. Figures are node-steps a second: steps of all nodes together.

local: training and the exchange of every round, on the one-peer exponential graph.
processes: one process a node with the same trainer and one thread, all at once; no exchange.
gossipy, Flower, pfl-research: their own exchange (a message a node; federated averaging),
    no evaluation, the same net, rate and batch. Installed once in environments of their own
    under the cache folder; what pip cannot install is left out. gossipy and pfl compute in one
    process, with one thread or one a core, whichever is faster; Flower in one actor a core.
one model: the ceiling, one model on all cores at as many examples a step as all nodes have.

"per CPU-s" is for a machine that others use too: steps a second of processor.
Memory is what all processes of a row hold when the clock stops, shared pages counted once.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from peers.environments import NotThere
from simulators import task
from simulators.rows import SCRIPTS, Failed, Row, best

TARGETS = {"mlp": 2.5, "cnn": 4.0}
"""local is at least so many times processes."""
ROUNDS = {"mlp": 10, "cnn": 2}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("WEFT_BENCH_DATA"))
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn"), default=["mlp", "cnn"])
    parser.add_argument("--rows", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS))
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of a node in a round")
    parser.add_argument("--rounds", type=int, default=0, help="0: 10 of the MLP, 2 of the CNN")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/weft-bench"))
    parser.add_argument("--torch-index", default="", help="a further index to take torch from")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    if given.data is None:
        parser.error("no data; give --data, or set WEFT_BENCH_DATA")
    cache = given.cache.expanduser().absolute()
    data = cache / "simulator"
    task.write(Path(given.data) / "vision" / "fashion_mnist.npz", data, given.nodes)
    found: dict[str, object] = {"nodes": given.nodes, "cores": os.cpu_count()}
    for model in given.models:
        rows: dict[str, Row] = {}
        print(f"\n{model}, {given.nodes} nodes, {os.cpu_count()} cores\n{HEAD}", flush=True)
        for name in given.rows:
            try:
                rows[name] = best(
                    name,
                    model=model,
                    nodes=given.nodes,
                    steps=given.steps,
                    rounds=given.rounds or ROUNDS[model],
                    data=data,
                    cache=cache,
                    torch_index=given.torch_index,
                )
            except (NotThere, Failed) as reason:
                print(f"  {reason}", flush=True)
                continue
            print(line(name, rows[name], rows.get("local"), model), flush=True)
        found[model] = {name: asdict(row) for name, row in rows.items()}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


HEAD = (
    f"  {'':12}{'node-steps/s':>13}{'per CPU-s':>11}{'MiB':>8}{'processes':>11}"
    f"{'local is':>12}{'per CPU-s':>11}{'memory':>8}"
)


def line(name: str, row: Row, local: Row | None, model: str) -> str:
    """A row, and how local compares with it."""
    shown = f"  {name:12}{row.rate:13.0f}{row.per_cpu:11.0f}{row.mib:8.0f}{row.processes:11d}"
    if local is None or name == "local":
        return shown
    times = local.rate / row.rate
    shown += f"{times:10.2f} x{local.per_cpu / row.per_cpu:9.2f} x{local.mib / row.mib:8.2f}"
    missed = {
        "processes": times < TARGETS[model] or local.mib > row.mib / 10,
        "gossipy": times <= 1,
    }
    return shown + ("  MISSED" if missed.get(name) else "")


if __name__ == "__main__":
    sys.exit(main())
