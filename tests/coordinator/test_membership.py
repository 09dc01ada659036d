"""Laws of the run's life that hold whatever happens, in whatever order."""

import dataclasses
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.stories import NODES, POLICIES, ROUNDS, STORIES, Says, spec, told
from weft.coordinator.membership import advance, create, needs_current_rounds
from weft.coordinator.records import Joined, Left, Revoked, RunRecord
from weft.protocol.run import NodeId, Phase, RunState, members_digest


@given(POLICIES, STORIES)
def test_versions_rise_by_one_with_what_others_can_see(policy: str, story: list[Says]) -> None:
    for _, before, after in told(policy, story):
        same = dataclasses.replace(after.plan, version=before.plan.version) == before.plan
        assert after.plan.version == before.plan.version + (0 if same else 1)
        assert after.revision - before.revision in ((0, 1) if same else (1,))


@given(POLICIES, STORIES)
def test_an_event_repeated_says_nothing_new(policy: str, story: list[Says]) -> None:
    for event, _, after in told(policy, story):
        assert advance(after, event) is after


@given(POLICIES, STORIES)
def test_the_same_events_give_the_same_record(policy: str, story: list[Says]) -> None:
    assert told(policy, story) == told(policy, story)


@given(POLICIES, STORIES)
def test_a_set_once_committed_stays_and_holds_what_was_announced(
    policy: str, story: list[Says]
) -> None:
    for _, before, after in told(policy, story):
        assert after.plan.committed[: len(before.plan.committed)] == before.plan.committed
        phases = [chosen.phase for chosen in after.plan.committed]
        assert len(phases) == len(set(phases))
        for chosen in after.plan.committed:
            assert chosen.contributors
            for node, digest in chosen.contributors:
                assert after.members[node].announced[chosen.phase] == digest


@given(POLICIES, STORIES)
def test_a_part_is_committed_only_with_the_promise_of_each(policy: str, story: list[Says]) -> None:
    for _, before, after in told(policy, story):
        for chosen in after.plan.committed[len(before.plan.committed) :]:
            nodes = [node for node, _ in chosen.contributors]
            full = after.plan.epochs[-1].members
            if chosen.phase is Phase.STATISTICS:
                parameters = after.plan.committed_set(Phase.PARAMETERS)
                assert parameters is not None
                full = tuple(node for node, _ in parameters.contributors)
            lists = {after.members[node].members_digest for node in nodes}
            one_list = chosen.phase is Phase.STATISTICS or lists == {members_digest(full)}
            promised = {after.members[node].promised.get(chosen.phase) for node in nodes}
            assert (tuple(nodes) == full and one_list) or promised == {chosen.digest}


@given(POLICIES, STORIES)
def test_epochs_are_only_added_and_only_ahead(policy: str, story: list[Says]) -> None:
    for _, before, after in told(policy, story):
        old, new = before.plan.epochs, after.plan.epochs
        assert new[: len(old)] == old
        for epoch in new[len(old) :]:
            assert epoch.members == tuple(sorted(epoch.members)) != ()
            assert epoch.number == 0 or epoch.from_round >= before.highest_round + 2
            assert epoch.from_round <= ROUNDS
        assert all(one.from_round <= two.from_round for one, two in pairwise(new))


@given(POLICIES, STORIES)
def test_who_is_in_the_global_merge_is_frozen_before_anybody_is_there(
    policy: str, story: list[Says]
) -> None:
    for _, before, after in told(policy, story):
        if before.plan.epochs and before.highest_round >= ROUNDS - 1:
            assert after.plan.epochs == before.plan.epochs


@given(STORIES)
def test_under_wait_nobody_is_dropped(story: list[Says]) -> None:
    for _, _, after in told("wait", story):
        assert not any(member.dropped for member in after.members.values())


@settings(max_examples=30)
@given(st.permutations(NODES[:3]))
def test_the_order_of_joining_gives_one_epoch(order: list[NodeId]) -> None:
    record = create(spec(), at=0.0)
    for node in order:
        record = advance(record, Joined(node=node, address=f"{node}:1"))
    assert record.plan.state is RunState.RUNNING
    assert record.plan.version == 4
    assert record.plan.epochs[0].members == NODES[:3]


def enrolled(**serials: str) -> RunRecord:
    record = create(spec(nodes=len(serials)), at=0.0)
    for node, serial in serials.items():
        record = advance(record, Joined(node=NodeId(node), address=f"{node}:1", serial=serial))
    return record


def test_a_revoked_certificate_takes_its_member_out_from_a_round_ahead() -> None:
    record = enrolled(a="0a", b="0b", c="0c")
    revoked = Revoked(serials=("0b", "ff"))
    assert needs_current_rounds(record, revoked)
    after = advance(record, revoked)
    assert after.plan.revoked == {"0b", "ff"}
    assert after.members[NodeId("b")].left
    assert (after.plan.epochs[-1].from_round, after.plan.epochs[-1].members) == (2, ("a", "c"))
    assert after.plan.version == record.plan.version + 1
    assert advance(after, revoked) is after
    assert not needs_current_rounds(after, revoked)
    back = advance(after, Joined(node=NodeId("b"), address="b:1", serial="1b"))
    assert back.plan.epochs[-1].members == ("a", "b", "c")
    assert advance(back, revoked) is back


def test_a_new_certificate_is_kept_and_changes_no_plan() -> None:
    record = enrolled(a="0a", b="0b")
    renewed = Joined(node=NodeId("a"), address="a:1", serial="1a")
    after = advance(record, renewed)
    assert after.members[NodeId("a")].serial == "1a"
    assert (after.plan, after.revision) == (record.plan, record.revision + 1)
    assert advance(after, renewed) is after
    assert advance(after, Revoked(serials=("0a",))).present == ("a", "b")


def test_a_member_without_a_known_certificate_is_never_revoked() -> None:
    record = enrolled(a="", b="0b")
    assert advance(record, Revoked(serials=("", "0b"))).present == ("a",)


def test_a_revoked_node_is_forgotten_before_the_start() -> None:
    record = create(spec(nodes=2), at=0.0)
    record = advance(record, Joined(node=NodeId("a"), address="a:1", serial="0a"))
    assert advance(record, Revoked(serials=("0a",))).members == {}


def test_what_announces_an_epoch_needs_current_rounds() -> None:
    record = create(spec(nodes=2), at=0.0)
    newcomer = Joined(node=NodeId("c"), address="c:1")
    assert not needs_current_rounds(record, newcomer)
    for node in NODES[:2]:
        record = advance(record, Joined(node=node, address=f"{node}:1"))
    assert needs_current_rounds(record, newcomer)
    assert needs_current_rounds(record, Left(node=NodeId("a")))
    assert not needs_current_rounds(record, Joined(node=NodeId("a"), address="a:2"))
    record = advance(record, Left(node=NodeId("a")))
    assert needs_current_rounds(record, Joined(node=NodeId("a"), address="a:1"))
    assert not needs_current_rounds(record, Left(node=NodeId("a")))
