"""Weft's local engine: workers that train, and the exchange of every round."""

from task import MOMENTUM, RATE, Clock, all_nodes, arguments, report

from weft.simulations.engines.exchange import Here
from weft.simulations.engines.local import local_crew
from weft.simulations.references import TaskOptions
from weft.topology.schedules import ScheduleParams, build_schedule


def main() -> None:
    given = arguments()
    options = TaskOptions(
        data=str(all_nodes(given.data, given.nodes)),
        nodes=given.nodes,
        split="iid",
        steps=given.steps,
        model=given.model,
        lr=RATE,
    )
    crew, exchange, rows = (made := local_crew(options)), Here(), made.fleet.parameters
    schedule = build_schedule(
        ScheduleParams(graph="one_peer_exponential"), nodes=given.nodes, rounds=given.rounds, seed=0
    )
    crew.train(0)
    clock = Clock()
    for round in range(given.rounds):
        crew.train(round)
        rows.copy_(exchange.mixed(rows, schedule.mixing(round)))
    report(given.nodes * given.steps * given.rounds, clock.seconds)
    crew.close()


if __name__ == "__main__":
    assert MOMENTUM == 0.5, "the trainer's own"
    main()
