"""How many nodes gossip without training bears: python benchmarks/gossip_scale.py.

The first table: each schedule for 1,000 to 100,000 nodes that hold one number each, with
what a first matrix costs, what 100 rounds cost with all the matrices that they need, in
seconds of the clock and of the processor, the latter for each node and each message of a
round (flat, where cost grows with the nodes and nothing else), and the memory beyond what
the libraries take. Each row is a process of its own. The second table: 1,000 nodes beside
a loop over the nodes of a networkx graph, whose rows of weights and neighbours are numpy
arrays; the results are compared.
"""

import argparse
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import networkx as nx
import numpy as np

from weft.simulations.engines.failures import Failures
from weft.simulations.engines.gossip import GossipStudy, drawn_values
from weft.topology.edges import Float64
from weft.topology.matrices import Mixing
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule

ROUNDS = 100
PULLS = (("one_way", True),)
SCHEDULES = {
    "exponential": ScheduleParams(graph="exponential"),
    "one-peer exponential": ScheduleParams(graph="one_peer_exponential"),
    "ring": ScheduleParams(graph="ring"),
    "random matchings": ScheduleParams(graph="random_matching"),
    "sparse pairs, 0.2": ScheduleParams(graph="complete", schedule="sparse"),
    "sparse pulls, push-sum": ScheduleParams(
        graph="complete", weights="push_sum", schedule="sparse", schedule_options=PULLS
    ),
}
LOSSY = "exponential, 10 % lost"
LOSSES = Failures(loss=0.1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one process measured; seconds are of the clock but for `rounds_cpu_s`."""

    name: str
    nodes: int
    first_s: float
    rounds_s: float
    rounds_cpu_s: float
    messages: int
    peak_mib: float
    left: float


def schedule(name: str, nodes: int) -> Schedule:
    params = SCHEDULES["exponential" if name == LOSSY else name]
    return build_schedule(params, nodes=nodes, rounds=ROUNDS, seed=0)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up() -> None:
    """Import what is imported late."""
    schedule("ring", 10).mixing(0).sparse()


def measure(name: str, nodes: int) -> Row:
    """Run in a process of its own: peaks do not go down."""
    warm_up()
    before = peak_mib()
    started = time.perf_counter()
    schedule(name, nodes).mixing(0).sparse()
    built, used = time.perf_counter(), time.process_time()
    study = GossipStudy(
        schedule=schedule(name, nodes),
        values=drawn_values(nodes, 1, 0),
        failures=LOSSES if name == LOSSY else Failures(),
    )
    moments = list(study.moments())
    return Row(
        name=name,
        nodes=nodes,
        first_s=built - started,
        rounds_s=time.perf_counter() - built,
        rounds_cpu_s=time.process_time() - used,
        messages=sum(moment.messages for moment in moments),
        peak_mib=peak_mib() - before,
        left=moments[-1].mixed / moments[0].trained,
    )


def measured(sizes: list[int]) -> list[Row]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as apart:
        names = [*SCHEDULES, LOSSY]
        waiting = [apart.submit(measure, name, nodes) for name in names for nodes in sizes]
        return [row.result() for row in waiting]


def show(rows: list[Row]) -> None:
    print(
        f"{'schedule':24}{'nodes':>8}{'first W, s':>12}{'100 rounds, s':>15}"
        f"{'CPU s':>8}{'ns a node':>11}{'ns a message':>14}{'MiB':>7}{'distance left':>15}"
    )
    for row in rows:
        node = row.rounds_cpu_s / ROUNDS / row.nodes * 1e9
        message = row.rounds_cpu_s / row.messages * 1e9
        print(
            f"{row.name:24}{row.nodes:8}{row.first_s:12.3f}{row.rounds_s:15.3f}"
            f"{row.rounds_cpu_s:8.3f}{node:11.0f}{message:14.1f}{row.peak_mib:7.0f}{row.left:15.2e}"
        )


def looped(mixing: Mixing, values: Float64) -> Float64:
    """One round as a loop over the nodes of a networkx graph."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_weighted_edges_from(
        zip(
            mixing.senders.tolist(), mixing.receivers.tolist(), mixing.weights.tolist(), strict=True
        )
    )
    found = np.empty_like(values)
    for node in range(mixing.nodes):
        senders = graph.pred[node]
        weights = np.array([edge["weight"] for edge in senders.values()])
        found[node] = weights @ values[list(senders)]
    return found


def beside_networkx(name: str, nodes: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of 100 rounds, here and in a loop, and the largest difference between both."""
    values = drawn_values(nodes, 1, 0)
    plan = build_schedule(SCHEDULES[name], nodes=nodes, rounds=rounds, seed=0)
    mixings = [plan.mixing(round) for round in range(rounds)]
    started = time.perf_counter()
    held = values
    for mixing in mixings:
        held = looped(mixing, held)
    theirs = time.perf_counter() - started
    started = time.perf_counter()
    *_, (_, last) = GossipStudy(schedule=plan, values=values).holdings()
    ours = time.perf_counter() - started
    apart = float(np.abs(last.sums - held).max())
    return ours / rounds * ROUNDS, theirs / rounds * ROUNDS, apart


def show_beside_networkx(nodes: int, rounds: int) -> None:
    warm_up()
    print(
        f"\n{nodes} nodes beside a networkx loop, from {rounds} rounds; our matrices are made anew,"
        f"\nthe loop is given its weights\n"
        f"{'schedule':24}{'here, s':>10}{'loop, s':>10}{'ratio':>8}{'apart':>10}"
    )
    for name in SCHEDULES:
        ours, theirs, apart = beside_networkx(name, nodes, rounds)
        print(f"{name:24}{ours:10.4f}{theirs:10.3f}{theirs / ours:8.0f}{apart:10.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--loop-nodes", type=int, default=1_000)
    parser.add_argument("--loop-rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="the first table only, as JSON")
    given = parser.parse_args()
    rows = measured(given.nodes)
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    show(rows)
    show_beside_networkx(given.loop_nodes, given.loop_rounds)


if __name__ == "__main__":
    main()
