"""Epochs ahead: how the list of members changes while nodes are training.

Pure. A change of members never touches a round that a node may be in: it holds
from two rounds after the highest one reported, so that every node has read it
before it gets there.
"""

from dataclasses import replace

from weft.coordinator.records import RunRecord
from weft.protocol.run import Epoch, NodeId, RunState

ROUNDS_AHEAD = 2
"""One round for the report that is under way, one for the plan to arrive."""


def first_free_round(record: RunRecord) -> int:
    """The first round for which the members may still change.

    Never before the start of the newest epoch: a later entry of the log holds
    from the same round or a later one, so that the log reads in one direction.
    Rounds of members that are gone count too: once anybody has been in the last
    round, who takes part in the global merge is frozen.
    """
    ahead = record.highest_round + ROUNDS_AHEAD
    return max(ahead, record.plan.epochs[-1].from_round)


def final_members(record: RunRecord) -> tuple[NodeId, ...]:
    """Who takes part in the global merge: the epoch of the round after the last."""
    return record.plan.epoch_of(record.spec.rounds).members


def begin(record: RunRecord) -> RunRecord:
    """The first epoch, from round 0, of all members that are present."""
    epoch = Epoch(number=0, from_round=0, members=record.present)
    plan = replace(record.plan, state=RunState.RUNNING, epochs=(epoch,))
    return replace(record, plan=plan)


def renew(record: RunRecord) -> RunRecord:
    """Announce the members that are present now, from the first free round on.

    Where that round lies behind the global merge the list could never hold, and
    the record comes back as it was; so it does where the list is the same.
    """
    newest = record.plan.epochs[-1]
    from_round = first_free_round(record)
    if from_round > record.spec.rounds or record.present == newest.members:
        return record
    epoch = Epoch(number=newest.number + 1, from_round=from_round, members=record.present)
    return replace(record, plan=replace(record.plan, epochs=(*record.plan.epochs, epoch)))
