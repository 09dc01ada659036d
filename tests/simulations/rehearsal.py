"""What a demo will show, by a study in this process: no daemon, no wire."""

from dataclasses import dataclass

from weft.simulations.engines.crew import Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet
from weft.simulations.learning.rule import Gossip
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.study import Study
from weft.topology.schedules import ScheduleParams, build_schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came out; accuracies are fractions.

    Attributes:
        merged: for each round, each node's accuracy after its merge.
        distances: for each round, the consensus distance before and after it.
        final: the accuracy of the global merge.
    """

    merged: list[list[float]]
    distances: list[tuple[float, float]]
    final: float


def rehearse(options: TaskOptions, params: ScheduleParams, *, rounds: int) -> Rehearsal:
    """Train and merge all nodes in turn, then merge once globally."""
    trainers = [options.trainer(node) for node in range(options.nodes)]
    fleet = Fleet.alike(initial_model(trainers[0], options.seed), range(options.nodes))
    crew, here = Looped(fleet, trainers, options.seed), Here()
    schedule = build_schedule(params, nodes=options.nodes, rounds=rounds, seed=options.seed)
    study = Study(crew=crew, exchange=here, rule=Gossip(), schedule=schedule)
    merged, distances = [], []
    for moment in study.moments(lambda _: False):
        distances.append((moment.trained, moment.mixed))
        merged.append(crew.evaluate().tolist())
    final = crew.score(here.mean(fleet.parameters).float())
    return Rehearsal(merged=merged, distances=distances, final=final)
