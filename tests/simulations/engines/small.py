"""Studies of a second: the digits, four nodes, three rounds."""

from weft.simulations.engines.crew import Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet
from weft.simulations.learning.rule import Gossip, Rule
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.study import Study
from weft.topology.schedules import ScheduleParams, build_schedule

QUICK = TaskOptions(nodes=4, steps=4)


def digits_study(
    params: ScheduleParams,
    rule: Rule | None = None,
    *,
    options: TaskOptions = QUICK,
    rounds: int = 3,
) -> Study:
    """A study in this process."""
    trainers = [options.trainer(node) for node in range(options.nodes)]
    fleet = Fleet.alike(initial_model(trainers[0], options.seed), range(options.nodes))
    return Study(
        crew=Looped(fleet, trainers, options.seed),
        exchange=Here(),
        rule=rule or Gossip(),
        schedule=build_schedule(params, nodes=options.nodes, rounds=rounds, seed=options.seed),
    )
