"""Which row of W this node applies: the run's schedule, for the epoch's members."""

from collections.abc import Callable

from weft.protocol.run import Epoch, NodeId, Plan, RunSpec
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule


def schedule_params(spec: RunSpec) -> ScheduleParams:
    """The pure description of who meets whom, from the run's two sections."""
    return ScheduleParams(
        graph=spec.topology.graph,
        graph_options=tuple(sorted(spec.topology.options.items())),
        weights=spec.topology.weights,
        schedule=spec.schedule.name,
        schedule_options=tuple(sorted(spec.schedule.options.items())),
    )


def schedule_for(spec: RunSpec, plan: Plan, epoch: Epoch) -> Schedule:
    """The schedule of an epoch; node i is the i-th of its sorted members."""
    sizes = {member.node: member.data_size for member in plan.members}
    return build_schedule(
        schedule_params(spec),
        nodes=len(epoch.members),
        rounds=spec.rounds,
        seed=spec.seed,
        data_sizes=[max(1, sizes.get(node, 1)) for node in epoch.members],
    )


class Neighbourhood:
    """Rows of W for one node; schedules are kept an epoch."""

    def __init__(self, me: NodeId, spec_of: Callable[[], RunSpec]) -> None:
        self._me = me
        self._spec_of = spec_of
        self._schedules: dict[Epoch, Schedule] = {}

    def row(self, plan: Plan, epoch: Epoch, round: int) -> dict[NodeId, float]:
        """Weights by node for a round, this node's own included."""
        schedule = self._schedules.get(epoch)
        if schedule is None:
            schedule = self._schedules[epoch] = schedule_for(self._spec_of(), plan, epoch)
        row = schedule.mixing(round).row(epoch.members.index(self._me))
        return {epoch.members[sender]: weight for sender, weight in row}
