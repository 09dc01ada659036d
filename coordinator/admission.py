"""Who comes and who goes: joins, leaves, and leases that are over.

Pure. Before the first epoch the members are a plain list; afterwards each
change of members is an epoch announced ahead (`weft.coordinator.epochs`).
"""

from dataclasses import replace

from weft.coordinator import epochs
from weft.coordinator.errors import NotAMember, RunClosed, RunHalted, WrongBase
from weft.coordinator.records import Joined, LeasesExpired, Left, MemberRecord, RunRecord
from weft.errors import Exhausted
from weft.protocol.run import Member, NodeId, RunState

MEMBERS_LIMIT = 10_000
OVER = (RunState.STOPPED, RunState.FINISHED)


def joined(record: RunRecord, event: Joined) -> RunRecord:
    """A node comes, comes back, or comes from another address.

    A present member's new address is no new epoch. Whoever holds another base
    than the run, or comes when no round is left to train, is refused; a member
    of the final epoch always may come back, for the result.
    """
    require_serving(record)
    _require_same_model(record, event)
    known = record.members.get(event.node)
    if record.plan.state in OVER and known is None:
        raise RunClosed(
            f"run {record.name} is {record.plan.state}: node {event.node} cannot join it any more"
        )
    if record.plan.state in OVER or (known is not None and not known.gone):
        return _with_address(record, event)
    if not record.plan.epochs:
        return _admitted(record, event)
    if epochs.first_free_round(record) < record.spec.rounds:
        return epochs.renew(_admitted(record, event))
    if event.node in epochs.final_members(record):
        return _admitted(record, event)
    raise RunClosed(
        f"run {record.name} is in round {record.highest_round} of {record.spec.rounds}: "
        f"too late for node {event.node} to join; start a new run from its result"
    )


def left(record: RunRecord, event: Left) -> RunRecord:
    """A node goes of its own will; the run stops with its last member.

    Whoever is not in it has left already: a repeated word says nothing new.
    """
    require_serving(record)
    member = record.members.get(event.node)
    if member is None or member.left:
        return record
    if not record.plan.epochs:
        return _forgotten(record, event.node)
    record = with_member(record, replace(member, left=True))
    if record.plan.state in OVER:
        return record
    if not record.present:
        plan = replace(record.plan, state=RunState.STOPPED)
        return replace(record, plan=plan, message="every member has left the run")
    return epochs.renew(record)


def leases_expired(record: RunRecord, event: LeasesExpired) -> RunRecord:
    """Drop the silent under the policy `deadline`, from a round ahead on.

    Never all of them: where nobody is heard, it is we who cannot be reached.
    """
    silent = set(record.present) & set(event.nodes)
    if record.spec.merge.policy != "deadline" or record.plan.state is not RunState.RUNNING:
        return record
    if not silent or silent == set(record.present):
        return record
    for node in sorted(silent):
        record = with_member(record, replace(record.members[node], dropped=True))
    return epochs.renew(record)


def require_serving(record: RunRecord) -> None:
    """Refuse everything on a run whose record is older than the run itself."""
    if record.halted:
        raise RunHalted(f"run {record.name} is {record.message}")


def require_member(record: RunRecord, node: NodeId) -> MemberRecord:
    """What is known of a node of the run."""
    if node not in record.members:
        raise NotAMember(f"node {node} is not a member of run {record.name}: it has to join first")
    return record.members[node]


def with_member(record: RunRecord, member: MemberRecord) -> RunRecord:
    """The record with one member's entry new or exchanged."""
    return replace(record, members={**record.members, member.node: member})


def _admitted(record: RunRecord, event: Joined) -> RunRecord:
    known = record.members.get(event.node, MemberRecord(node=event.node))
    if len(record.members) >= MEMBERS_LIMIT and event.node not in record.members:
        raise Exhausted(f"run {record.name} has {MEMBERS_LIMIT} members, the most there can be")
    record = with_member(record, replace(known, left=False, dropped=False))
    return _with_address(record, event)


def _with_address(record: RunRecord, event: Joined) -> RunRecord:
    """The address book of the plan: members stay in it when they leave.

    The number of examples is that of the first join once there are epochs:
    mixing weights follow from it, and all nodes must compute the same ones.
    """
    record = _with_serial(record, event)
    known = record.plan.member(event.node)
    size = known.data_size if known is not None and record.plan.epochs else event.data_size
    entry = Member(node=event.node, address=event.address, data_size=size)
    if entry == known:
        return record
    others = [member for member in record.plan.members if member.node != event.node]
    members = tuple(sorted([*others, entry], key=lambda member: member.node))
    return replace(record, plan=replace(record.plan, members=members))


def _with_serial(record: RunRecord, event: Joined) -> RunRecord:
    member = record.members[event.node]
    if event.serial in ("", member.serial):
        return record
    return with_member(record, replace(member, serial=event.serial))


def _forgotten(record: RunRecord, node: NodeId) -> RunRecord:
    """A node that left before the start was never there."""
    members = {name: member for name, member in record.members.items() if name != node}
    listed = tuple(member for member in record.plan.members if member.node != node)
    return replace(record, members=members, plan=replace(record.plan, members=listed))


def _require_same_model(record: RunRecord, event: Joined) -> None:
    spec = record.spec
    for what, ours, theirs in (
        ("base", spec.base, event.base_digest),
        ("schema", spec.schema_digest, event.schema_digest),
    ):
        if ours and theirs and ours != theirs:
            raise WrongBase(
                f"run {record.name} has the {what} {ours}, node {event.node} holds {theirs}: "
                f"give the node the run's {what}, or let it fetch the base"
            )
