"""Which row of W this node applies: the run's schedule, for the epoch's members."""

from collections.abc import Callable

from weft.protocol.run import Epoch, NodeId, Plan, RunSpec
from weft.protocol.scheduling import schedule_for
from weft.topology.schedules import Schedule


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
