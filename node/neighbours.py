"""Whom this node hears and who hears it: the run's schedule, for the epoch's members."""

from collections.abc import Callable

from weft.node.due import Edges
from weft.protocol.run import Epoch, NodeId, Plan, RunSpec
from weft.protocol.scheduling import schedule_for
from weft.topology.schedules import Schedule


class Neighbourhood:
    """The edges of one node; schedules are kept an epoch."""

    def __init__(self, me: NodeId, spec_of: Callable[[], RunSpec]) -> None:
        self._me = me
        self._spec_of = spec_of
        self._schedules: dict[Epoch, Schedule] = {}

    def edges(self, plan: Plan, epoch: Epoch, round: int) -> Edges:
        """This node's edges of a round, in both directions."""
        schedule = self._schedules.get(epoch)
        if schedule is None:
            schedule = self._schedules[epoch] = schedule_for(self._spec_of(), plan, epoch)
        mixing, me = schedule.mixing(round), epoch.members.index(self._me)
        row = {epoch.members[sender]: weight for sender, weight in mixing.row(me)}
        heard_by = mixing.receivers[(mixing.senders == me) & (mixing.receivers != me)]
        return Edges(row=row, listeners=tuple(sorted(epoch.members[i] for i in heard_by)))
