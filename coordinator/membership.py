"""Who is in a run and what its plan says: event in, new record out.

The whole life of a run, without clock, disk or network. `advance` is a pure
function; the same events in the same order give the same history, and an event
that says nothing new gives back the very same object, so that a node or an
operator may repeat whatever was not answered. Names, addresses and digests are
trusted in form: `weft.protocol.convert` has read them.

    waiting --(spec.nodes have joined)--> running --(all are done)--> finished
       |                                   |   ^
       +---------> paused <----------------+   |      any of them --> stopped
                     +-------------------------+

    >>> spec = RunSpec(name="digits", nodes=1, rounds=3, base="00" * 32)
    >>> record = create(spec, at=0.0)
    >>> record = advance(record, Joined(node=NodeId("a"), address="a:9300"))
    >>> record.plan.state, record.plan.version, record.plan.epochs[0].members
    (<RunState.RUNNING: 'running'>, 2, ('a',))

Stable: node and simulations build on it.
"""

from dataclasses import replace

from weft.coordinator import admission, epochs, global_sets
from weft.coordinator.admission import OVER, require_member, require_serving, with_member
from weft.coordinator.errors import Contradiction, RunClosed
from weft.coordinator.records import (
    DONE,
    Event,
    Joined,
    LeasesExpired,
    Left,
    MemberRecord,
    Promised,
    Reported,
    Revoked,
    RunRecord,
    SetOverdue,
    StateRequested,
    VersionPresented,
)
from weft.errors import InvalidInput
from weft.protocol.run import Digest, NodeId, Phase, Plan, RunName, RunSpec, RunState


def create(spec: RunSpec, *, at: float) -> RunRecord:
    """A new run without members; `at` is wall-clock time, for people only."""
    plan = Plan(run=RunName(spec.name), version=1, state=RunState.WAITING)
    return RunRecord(spec=spec, plan=plan, created_at=at)


def advance(record: RunRecord, event: Event) -> RunRecord:
    """What a run is after an event.

    Args:
        record: The run before; not modified.
        event: What a node or an operator says, or what time has brought.

    Returns:
        The same object where the event says nothing new. Otherwise a record
        with revision + 1, and plan.version + 1 where others can see the change;
        a mere advance of a member's round leaves both as they are.

    Raises:
        NotAMember, WrongBase, RunClosed, RunHalted, Contradiction: see their
            messages; nothing has changed.
        InvalidInput: a round that the run does not have.
    """
    after = _handled(record, event)
    if not _differs_durably(record, after):
        return after
    if after.ahead != record.ahead and after.plan.state is RunState.PAUSED:
        return replace(after, revision=record.revision + 1)
    after = _settled(after)
    plan = after.plan
    if plan != record.plan:
        plan = replace(plan, version=max(record.plan.version, record.ahead) + 1)
    return replace(after, plan=plan, revision=record.revision + 1)


def needs_current_rounds(record: RunRecord, event: Event) -> bool:
    """Would the event announce an epoch, ahead of rounds that must be known?

    A coordinator that has just started knows the rounds of last time only; it
    waits for the members' reports before it lets such an event through.
    """
    if not record.plan.epochs or record.plan.state in OVER:
        return False
    if isinstance(event, Joined):
        known = record.members.get(event.node)
        return known is None or known.gone
    if isinstance(event, Revoked):
        return bool(record.holders_of(event.serials))
    return isinstance(event, Left) and event.node in record.present


def _handled(record: RunRecord, event: Event) -> RunRecord:
    match event:
        case Joined():
            return admission.joined(record, event)
        case Reported():
            return _reported(record, event)
        case VersionPresented():
            return _presented(record, event.node, event.version)
        case Left():
            return admission.left(record, event)
        case LeasesExpired():
            return admission.leases_expired(record, event)
        case SetOverdue():
            return _set_overdue(record, event)
        case Promised():
            return _promised(record, event)
        case StateRequested():
            return _state_requested(record, event)
        case Revoked():
            return _revoked(record, event)


def _reported(record: RunRecord, event: Reported) -> RunRecord:
    record = _presented(record, event.node, event.plan_version)
    if record.halted:
        return record
    member = record.members[event.node]
    if not 0 <= event.round <= record.spec.rounds:
        raise InvalidInput(
            f"run {record.name}: node {event.node} reports round {event.round}; "
            f"the run has rounds 0 to {record.spec.rounds}"
        )
    told = replace(
        member,
        round=max(member.round, event.round),
        dropped=member.dropped and event.node not in record.plan.epochs[-1].members,
        done=member.done or event.state == DONE,
        result=_first_word(event.node, "result", member.result, event.result),
        announced=_announced(member, event),
        members_digest=event.members_digest if event.announced else member.members_digest,
    )
    return record if told == member else with_member(record, told)


def _presented(record: RunRecord, node: NodeId, version: int) -> RunRecord:
    """A plan that we never issued: our database is an old copy. Touch nothing."""
    require_member(record, node)
    if version <= max(record.plan.version, record.ahead):
        return record
    message = (
        f"halted: node {node} holds version {version} of the plan, this coordinator's database "
        f"only {record.plan.version}; it is older than the run (a restored backup?): "
        "put the newer database back, or stop the run"
    )
    plan = replace(record.plan, state=RunState.PAUSED)
    return replace(record, plan=plan, ahead=version, message=message)


def _set_overdue(record: RunRecord, event: SetOverdue) -> RunRecord:
    if record.spec.merge.policy != "deadline" or record.plan.state is not RunState.RUNNING:
        return record
    return global_sets.propose(record, event.phase, event.silent)


def _promised(record: RunRecord, event: Promised) -> RunRecord:
    require_serving(record)
    require_member(record, event.node)
    return global_sets.promise(record, event.node, event.chosen)


def _state_requested(record: RunRecord, event: StateRequested) -> RunRecord:
    current = record.plan.state
    starts_by_itself = event.state is RunState.RUNNING and current is RunState.WAITING
    if (event.state is current or starts_by_itself) and not record.halted:
        return record
    if event.state is RunState.STOPPED and current is not RunState.FINISHED:
        message = f"stopped by {event.operator}"
        plan = replace(record.plan, state=event.state)
        return replace(record, plan=plan, message=message, ahead=0)
    if record.halted:
        raise RunClosed(f"run {record.name} is {record.message}")
    if event.state is RunState.PAUSED and current in (RunState.WAITING, RunState.RUNNING):
        message = f"paused by {event.operator}"
        return replace(record, plan=replace(record.plan, state=event.state), message=message)
    if event.state is RunState.RUNNING and current is RunState.PAUSED:
        state = RunState.RUNNING if record.plan.epochs else RunState.WAITING
        return replace(record, plan=replace(record.plan, state=state), message="")
    raise RunClosed(
        f"run {record.name} is {current}: it cannot become {event.state}; "
        "paused, running and stopped can be asked for while it is not over"
    )


def _revoked(record: RunRecord, event: Revoked) -> RunRecord:
    """Every plan tells the serials; a member that joined with one of them has left."""
    serials = frozenset(event.serials)
    if record.halted or record.plan.state in OVER:
        return record
    if serials != record.plan.revoked:
        record = replace(record, plan=replace(record.plan, revoked=serials))
    for node in record.holders_of(serials):
        record = admission.left(record, Left(node=node))
    return record


def _settled(record: RunRecord) -> RunRecord:
    """What follows from the members' words by itself: start, sets, end."""
    if record.plan.state is RunState.WAITING and len(record.present) >= record.spec.nodes:
        record = epochs.begin(record)
    if record.plan.state is RunState.RUNNING:
        record = _finished(global_sets.settle(record))
    return record


def _finished(record: RunRecord) -> RunRecord:
    last = [record.members[node] for node in epochs.final_members(record)]
    waited_for = [member for member in last if not member.gone]
    if not waited_for or not all(member.done and member.result for member in waited_for):
        return record
    plan = replace(record.plan, state=RunState.FINISHED)
    return replace(record, plan=plan, message=_disagreement(record, waited_for))


def _disagreement(record: RunRecord, members: list[MemberRecord]) -> str:
    results = {member.node: member.result or "" for member in members}
    if not record.spec.final.enabled or len(set(results.values())) == 1:
        return ""
    listed = ", ".join(f"{node} {result[:12]}" for node, result in sorted(results.items())[:10])
    return f"the results of the global merge differ, they should be one digest: {listed}"


def _differs_durably(before: RunRecord, after: RunRecord) -> bool:
    """Anything but the rounds of members, which the next reports bring again."""
    if before is after:
        return False
    if replace(before, members={}) != replace(after, members={}):
        return True
    if before.members.keys() != after.members.keys():
        return True
    changed = [
        (before.members[node], member)
        for node, member in after.members.items()
        if before.members[node] is not member
    ]
    return any(replace(old, round=0) != replace(new, round=0) for old, new in changed)


def _announced(member: MemberRecord, event: Reported) -> dict[Phase, Digest]:
    for phase, digest in event.announced.items():
        _first_word(event.node, f"{phase} of the global merge", member.announced.get(phase), digest)
    return {**member.announced, **event.announced}


def _first_word(
    node: NodeId, what: str, before: Digest | None, now: Digest | None
) -> Digest | None:
    """Others may have acted on what a node said first, so it holds."""
    if now is None:
        return before
    if before is not None and before != now:
        raise Contradiction(
            f"node {node} announced {before} as its {what} before, now {now}; the first one "
            "holds: restore the node's data folder, or let it leave"
        )
    return now
