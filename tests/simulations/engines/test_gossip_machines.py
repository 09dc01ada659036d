"""Sixty-four of the daemon's own machines, each holding a number, against the arrays.

The machines get their edges as a daemon's do, by the run's specification and plan, and
merge by what they chose. What the arrays lose does not arrive at a machine either.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

from weft.node.due import (
    Agree,
    Begin,
    Collect,
    Evaluate,
    Merge,
    Publish,
    RoundsDone,
    Start,
    Step,
    Train,
)
from weft.node.entries import (
    Entry,
    Evaluated,
    Joined,
    Judged,
    Merged,
    PlanHeld,
    Published,
    Started,
    Trained,
    TrainingBegun,
)
from weft.node.neighbours import Neighbourhood
from weft.node.rounds import RoundMachine
from weft.protocol.run import (
    Digest,
    Epoch,
    Member,
    MergeSpec,
    NodeId,
    Plan,
    RunName,
    RunSpec,
    RunState,
    ScheduleSpec,
    TopologySpec,
    members_digest,
)
from weft.protocol.scheduling import schedule_for
from weft.simulations.engines.failures import Failures, Partition
from weft.simulations.engines.gossip import GossipStudy, drawn_values
from weft.topology.edges import Float64
from weft.topology.matrices import Mixing
from weft.topology.options import Scalar

NODES, ROUNDS = 64, 7
NAMES = tuple(NodeId(f"n{index:02}") for index in range(NODES))
EPOCH = Epoch(number=0, from_round=0, members=NAMES)
PLAN = Plan(
    run=RunName("numbers"),
    version=1,
    state=RunState.RUNNING,
    members=tuple(
        Member(node=node, address=f"{node}:1", data_size=1 + index % 5)
        for index, node in enumerate(NAMES)
    ),
    epochs=(EPOCH,),
)


def spec(graph: str, weights: str = "own", schedule: str = "every", **options: Scalar) -> RunSpec:
    return RunSpec(
        name="numbers",
        nodes=NODES,
        rounds=ROUNDS,
        seed=5,
        base="0" * 64,
        merge=MergeSpec(policy="deadline"),
        topology=TopologySpec(graph=graph, weights=weights),
        schedule=ScheduleSpec(name=schedule, options=options),
    )


SPECS = {
    "ring": spec("ring"),
    "star": spec("star"),
    "exponential": spec("exponential"),
    "one_peer": spec("one_peer_exponential"),
    "base_k": spec("base_k"),
    "matching": spec("random_matching"),
    "hastings": spec("erdos_renyi", "hastings"),
    "sparse": spec("complete", schedule="sparse", pairs_per_node=0.6),
    "pulls": spec("complete", "uniform", "sparse", pairs_per_node=1.5, one_way=True),
    "window": spec("torus", schedule="window", start=2, length=2, pairs_per_node=0.5),
    "every": spec("watts_strogatz", schedule="every", k=2),
}


@dataclass
class Wire:
    """All machines' numbers, what is published, and what does not arrive.

    Attributes:
        lost: of each round, (receiver, sender) of what does not arrive.
    """

    lost: list[set[tuple[NodeId, NodeId]]]
    verdicts_told: bool
    held: dict[NodeId, float]
    published: dict[str, float] = field(default_factory=dict)
    judged: dict[tuple[NodeId, int], Judged] = field(default_factory=dict)


def lost_in(mixing: Mixing, failures: Failures, round: int) -> set[tuple[NodeId, NodeId]]:
    lost = failures.lost(mixing, round)
    return {
        (NAMES[receiver], NAMES[sender])
        for receiver, sender in zip(mixing.receivers[lost], mixing.senders[lost], strict=True)
    }


def name_of(node: NodeId, round: int) -> Digest:
    return Digest(f"{node}/{round}")


def perform(node: NodeId, machine: RoundMachine, step: Step, wire: Wire) -> Entry | None:
    """What a daemon would journal for a step; None: it waits for others."""
    match step:
        case Start(round=round):
            return Started(round=round, model="held")
        case Begin(round=round):
            return TrainingBegun(round=round)
        case Train(round=round, model=model):
            return Trained(round=round, model=model)
        case Publish(round=round, members=members, edges=edges):
            wire.published[name_of(node, round)] = wire.held[node]
            return Published(
                round=round,
                digest=name_of(node, round),
                members_digest=members_digest(members),
                row=dict(edges.row),
                listeners=edges.listeners,
            )
        case Collect():
            return collected(node, step, wire)
        case Agree():
            return agreed(node, machine, step, wire)
        case Merge(round=round, chosen=chosen):
            wire.held[node] = sum(
                weight * wire.published[chosen.parents[parent]]
                for parent, weight in chosen.weights.items()
            )
            return Merged(round=round, model="held")
        case Evaluate(round=round):
            return Evaluated(round=round)
        case _:
            raise AssertionError(step)


def collected(node: NodeId, step: Collect, wire: Wire) -> Entry | None:
    names = {sender: name_of(sender, step.round) for sender in step.neighbours}
    if not wire.published.keys() >= set(names.values()):
        return None
    lost = wire.lost[step.round]
    arrived = {sender: name for sender, name in names.items() if (node, sender) not in lost}
    missed = dict.fromkeys(names.keys() - arrived.keys(), "late")
    judged = Judged(round=step.round, accepted=arrived, missed=missed)
    wire.judged[node, step.round] = judged
    return judged


def agreed(node: NodeId, machine: RoundMachine, step: Agree, wire: Wire) -> Entry | None:
    verdicts = [wire.judged.get((listener, step.round)) for listener in step.neighbours]
    if None in verdicts:
        return None
    declined = {
        listener: "declined: late"
        for listener, verdict in zip(step.neighbours, verdicts, strict=True)
        if wire.verdicts_told and verdict is not None and node in verdict.missed
    }
    return machine.choose(declined)


def lived(run: RunSpec, values: Float64, failures: Failures, *, verdicts_told: bool) -> Float64:
    """What all machines hold at the end of their rounds: (nodes, 1)."""
    schedule = schedule_for(run, PLAN, EPOCH)
    lost = [lost_in(schedule.mixing(round), failures, round) for round in range(ROUNDS)]
    wire = Wire(lost, verdicts_told, dict(zip(NAMES, values[:, 0].tolist(), strict=True)))
    machines = {node: RoundMachine(node, Neighbourhood(node, lambda: run).edges) for node in NAMES}
    for machine in machines.values():
        machine.apply(Joined(spec=run.to_bytes().decode()))
        machine.apply(PlanHeld.of(PLAN))
    busy = True
    while busy:
        busy = False
        for node, machine in machines.items():
            step = machine.step()
            if isinstance(step, RoundsDone):
                continue
            entry = perform(node, machine, step, wire)
            if entry is not None:
                machine.apply(entry)
                busy = True
    assert all(isinstance(machine.step(), RoundsDone) for machine in machines.values())
    return np.array([[wire.held[node]] for node in NAMES])


def in_arrays(run: RunSpec, values: Float64, failures: Failures) -> Float64:
    schedule = schedule_for(run, PLAN, EPOCH)
    *_, (_, last) = GossipStudy(schedule=schedule, values=values, failures=failures).holdings()
    return last.models


def distance(one: Float64, other: Float64) -> float:
    return float(np.abs(one - other).max())


VALUES = drawn_values(NODES, 1, 11)
LOSSES = Failures(loss=0.2, churn=0.05, partitions=(Partition(start=1, stop=3),), seed=2)
ONE_SIDED = Failures(loss=0.2, one_sided=True, seed=2)


@pytest.mark.parametrize("name", SPECS)
def test_machines_equal_arrays(name: str) -> None:
    found = lived(SPECS[name], VALUES, Failures(), verdicts_told=True)
    assert distance(found, VALUES) > 0.1
    assert distance(found, in_arrays(SPECS[name], VALUES, Failures())) < 1e-12


@pytest.mark.parametrize("name", SPECS)
def test_machines_equal_arrays_where_edges_are_lost(name: str) -> None:
    found = lived(SPECS[name], VALUES, LOSSES, verdicts_told=True)
    assert distance(found, in_arrays(SPECS[name], VALUES, Failures())) > 1e-3
    assert distance(found, in_arrays(SPECS[name], VALUES, LOSSES)) < 1e-12


@pytest.mark.parametrize("name", ["ring", "exponential", "matching", "pulls"])
def test_machines_equal_arrays_where_one_end_alone_knows(name: str) -> None:
    """Under a deadline a verdict that does not come counts as acceptance."""
    found = lived(SPECS[name], VALUES, ONE_SIDED, verdicts_told=False)
    assert distance(found, in_arrays(SPECS[name], VALUES, ONE_SIDED)) < 1e-12


def test_verdicts_make_of_one_sided_losses_such_of_both_ends() -> None:
    """So the mean stays over undirected edges, whichever messages are lost."""
    run = SPECS["ring"]
    found = lived(run, VALUES, ONE_SIDED, verdicts_told=True)
    assert abs(found.mean() - VALUES.mean()) < 1e-14
    assert abs(in_arrays(run, VALUES, ONE_SIDED).mean() - VALUES.mean()) > 1e-4
