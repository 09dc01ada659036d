"""Whose contributions a global merge folds: one set a phase, committed once.

Pure. Nodes may agree on the full set among themselves, so it needs no promise
here where all announced under the very list of members that the plan holds. Any
other set needs a promise from each of its nodes, that it will not decide without
the coordinator. The coordinator may replace a proposal, never a commit:

    announced by all, under one list --------------> committed
    announced by all, lists differ -------> proposed -> promised by all -> committed
    announced by some, the others away ---> proposed -> promised by all -> committed

The other phases are over whoever is in the committed set of parameters.
"""

from collections.abc import Collection
from dataclasses import replace

from weft.coordinator.epochs import final_members
from weft.coordinator.errors import RunClosed
from weft.coordinator.records import RunRecord
from weft.protocol.run import Digest, GlobalSet, NodeId, Phase, members_digest


def expected(record: RunRecord, phase: Phase) -> tuple[NodeId, ...]:
    """The nodes whose contributions make the full set; empty: not yet decided."""
    if not record.spec.final.enabled or not record.plan.epochs:
        return ()
    if phase is Phase.PARAMETERS:
        return final_members(record)
    parameters = record.plan.committed_set(Phase.PARAMETERS)
    return () if parameters is None else tuple(node for node, _ in parameters.contributors)


def missing(record: RunRecord, phase: Phase) -> tuple[NodeId, ...]:
    """Those of the expected nodes that have announced nothing for the phase."""
    return tuple(
        node for node in expected(record, phase) if phase not in record.members[node].announced
    )


def is_open(record: RunRecord, phase: Phase) -> bool:
    """Somebody has announced a contribution, and no set is committed."""
    waiting = expected(record, phase)
    return (
        bool(waiting)
        and record.plan.committed_set(phase) is None
        and len(missing(record, phase)) < len(waiting)
    )


def settle(record: RunRecord) -> RunRecord:
    """Commit what is complete; propose where only nodes that left are missing."""
    for phase in Phase:
        record = _settle_phase(record, phase)
    return record


def propose(record: RunRecord, phase: Phase, silent: Collection[NodeId]) -> RunRecord:
    """Ask those that announced for their promise, where the others are away.

    Args:
        record: A run.
        phase: Parameters or statistics.
        silent: Nodes whose leases are over.

    Returns:
        The record as it was where a missing node is still alive, where nobody
        could promise, or where the standing proposal can still be promised. With
        the full set committed where one that was away has announced meanwhile.
    """
    away = {node for node in expected(record, phase) if record.members[node].gone} | set(silent)
    if not is_open(record, phase) or not away.issuperset(missing(record, phase)):
        return record
    standing = proposal(record, phase)
    if standing is not None and away.isdisjoint(_owing(record, standing)):
        return record
    if not missing(record, phase) and _is_under_one_list(record, phase):
        return _with_commit(record, _set_of(record, phase, expected(record, phase)))
    candidates = [node for node in expected(record, phase) if node not in away]
    chosen = _set_of(record, phase, candidates)
    if not chosen.contributors or chosen == standing:
        return record
    return _with_proposal(record, chosen)


def promise(record: RunRecord, node: NodeId, chosen: GlobalSet) -> RunRecord:
    """Write a node's promise down; with the last one, `settle` commits the set.

    Raises:
        RunClosed: another set is committed or proposed, or none is, or the node
            is not in it.
    """
    committed = record.plan.committed_set(chosen.phase)
    if committed == chosen:
        return record
    standing = committed or proposal(record, chosen.phase)
    if standing != chosen:
        raise RunClosed(
            f"run {record.name}: node {node} promises the set {chosen.digest[:12]} of "
            f"{chosen.phase}, but {_described(standing, committed)}; "
            "read the newest plan and promise what it proposes"
        )
    if node not in dict(chosen.contributors):
        raise RunClosed(
            f"run {record.name}: node {node} is not in the set that is proposed for "
            f"{chosen.phase}; it has nothing to promise, and pulls the result"
        )
    member = record.members[node]
    if member.promised.get(chosen.phase) == chosen.digest:
        return record
    promised = {**member.promised, chosen.phase: chosen.digest}
    members = {**record.members, node: replace(member, promised=promised)}
    return replace(record, members=members)


def proposal(record: RunRecord, phase: Phase) -> GlobalSet | None:
    """The set that waits for promises, or None."""
    return next((chosen for chosen in record.plan.proposed if chosen.phase == phase), None)


def _settle_phase(record: RunRecord, phase: Phase) -> RunRecord:
    if not is_open(record, phase):
        return record
    standing = proposal(record, phase)
    if standing is not None and not _owing(record, standing):
        return _with_commit(record, standing)
    absent = missing(record, phase)
    is_full = not absent and _is_under_one_list(record, phase)
    if is_full and not _is_promised_by_some(record, standing):
        return _with_commit(record, _set_of(record, phase, expected(record, phase)))
    if all(record.members[node].left for node in absent):
        return propose(record, phase, ())
    return record


def _owing(record: RunRecord, chosen: GlobalSet) -> set[NodeId]:
    """Who has not promised this set yet."""
    return {
        node
        for node, _ in chosen.contributors
        if record.members[node].promised.get(chosen.phase) != chosen.digest
    }


def _is_promised_by_some(record: RunRecord, standing: GlobalSet | None) -> bool:
    return standing is not None and len(_owing(record, standing)) < len(standing.contributors)


def _is_under_one_list(record: RunRecord, phase: Phase) -> bool:
    """All announced while they held the list of members that we hold.

    The list of the other phases is the committed set of parameters, which everybody
    reads from the plan.
    """
    if phase is not Phase.PARAMETERS:
        return True
    nodes = expected(record, phase)
    wanted = members_digest(nodes)
    return all(record.members[node].members_digest == wanted for node in nodes)


def _set_of(record: RunRecord, phase: Phase, nodes: Collection[NodeId]) -> GlobalSet:
    announced: dict[NodeId, Digest] = {
        node: record.members[node].announced[phase]
        for node in nodes
        if phase in record.members[node].announced
    }
    return GlobalSet(phase=phase, contributors=tuple(sorted(announced.items())))


def _with_proposal(record: RunRecord, chosen: GlobalSet) -> RunRecord:
    others = tuple(standing for standing in record.plan.proposed if standing.phase != chosen.phase)
    return replace(record, plan=replace(record.plan, proposed=(*others, chosen)))


def _with_commit(record: RunRecord, chosen: GlobalSet) -> RunRecord:
    others = tuple(standing for standing in record.plan.proposed if standing.phase != chosen.phase)
    committed = (*record.plan.committed, chosen)
    return replace(record, plan=replace(record.plan, proposed=others, committed=committed))


def _described(standing: GlobalSet | None, committed: GlobalSet | None) -> str:
    if standing is None:
        return "none is proposed"
    verb = "proposed" if committed is None else "committed"
    return f"{standing.digest[:12]} is {verb} (of {len(standing.contributors)} nodes)"
