"""The global merge: its transcript, and that no two sets are ever committed."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.node.entries import Announced, Committed, Finished, Folded, Joined, Promised
from weft.node.global_merge import (
    Announce,
    Announcement,
    Finish,
    Fold,
    GlobalMerge,
    Linger,
    Settle,
)
from weft.protocol.run import (
    Digest,
    Epoch,
    GlobalSet,
    MergeSpec,
    NodeId,
    Phase,
    Plan,
    RunName,
    RunSpec,
    RunState,
    members_digest,
)

MEMBERS = tuple(NodeId(name) for name in "abcd")
P, A, S = Phase.PARAMETERS, Phase.ALIGNED, Phase.STATISTICS


def empty_plan() -> Plan:
    epoch = Epoch(number=0, from_round=0, members=MEMBERS)
    return Plan(run=RunName("r"), version=1, state=RunState.RUNNING, epochs=(epoch,))


def announced(node: NodeId, members: tuple[NodeId, ...] = MEMBERS) -> Announced:
    return Announced(phase=P, digest=Digest(f"d{node}"), members=members)


def heard_from(machine: GlobalMerge, phase: Phase = P) -> Announcement | None:
    """What a peer would read off a node, as the service answers."""
    own = machine.announced.get(phase)
    if own is None:
        return None
    promised = machine.promised.get(phase)
    committed = machine.committed.get(phase)
    return Announcement(
        digest=own.digest,
        members_digest=members_digest(own.members),
        promised=promised.digest if promised else None,
        committed=committed.contributors if committed else None,
    )


def test_transcript_with_a_coordinator() -> None:
    node = GlobalMerge(MEMBERS[0])
    assert node.step("file:m", MEMBERS) == Announce(phase=P, model="file:m")
    node.apply(announced(MEMBERS[0]))
    assert node.step("file:m", MEMBERS) == Settle(phase=P, members=MEMBERS)
    whole = GlobalSet(phase=P, contributors=tuple((n, Digest(f"d{n}")) for n in MEMBERS))
    entry = node.consider(P, replace(empty_plan(), committed=(whole,)), {})
    assert entry == Committed(phase=P, contributors=whole.contributors)
    node.apply(entry)
    assert node.step("file:m", MEMBERS) == Fold(chosen=whole)
    node.apply(Folded(model="object:f", has_statistics=True))
    assert node.step("file:m", MEMBERS) == Announce(phase=S, model="object:f")
    node.apply(Announced(phase=S, digest=Digest("s"), members=MEMBERS))
    moments = GlobalSet(phase=S, contributors=tuple((n, Digest("s")) for n in MEMBERS))
    node.apply(Committed(phase=S, contributors=moments.contributors))
    assert node.step("file:m", MEMBERS) == Finish(model="object:f", statistics=moments)
    node.apply(Finished(model="object:g"))
    assert node.step("file:m", MEMBERS) == Linger(model="object:g")


def test_without_statistics_or_without_a_global_merge() -> None:
    node = GlobalMerge(MEMBERS[0])
    assert node.step("m", MEMBERS, enabled=False) == Finish(model="m", statistics=None)
    node.apply(announced(MEMBERS[0]))
    node.apply(Committed(phase=P, contributors=((MEMBERS[0], Digest("d")),)))
    node.apply(Folded(model="object:f"))
    assert node.step("m", MEMBERS) == Finish(model="object:f", statistics=None)


def aligning(me: NodeId) -> GlobalMerge:
    """A node of a run that aligns."""
    node = GlobalMerge(me)
    merge = MergeSpec(align="weights")
    spec = RunSpec(name="r", nodes=4, rounds=1, schema_digest="0" * 64, merge=merge)
    node.apply(Joined(spec=spec.to_bytes().decode()))
    return node


def test_transcript_of_a_run_that_aligns() -> None:
    """The first set is not folded: its first node is the anchor of what is."""
    me, third = MEMBERS[1], MEMBERS[2]
    node = aligning(me)
    assert node.step("file:m", MEMBERS) == Announce(phase=P, model="file:m")
    node.apply(announced(me))
    part = ((me, Digest("db")), (third, Digest("dc")))
    node.apply(Committed(phase=P, contributors=part))
    assert node.anchor == (me, "db")
    assert node.to_fold is None
    assert str(node.stage) == "aligning"
    assert node.step("file:m", MEMBERS) == Announce(phase=A, model="file:m")
    node.apply(Announced(phase=A, digest=Digest("db"), members=(me, third)))
    assert str(node.stage) == "settling"
    assert node.step("file:m", MEMBERS) == Settle(phase=A, members=(me, third))
    chosen = GlobalSet(phase=A, contributors=((me, Digest("db")), (third, Digest("dc'"))))
    node.apply(Committed(phase=A, contributors=chosen.contributors))
    assert str(node.stage) == "folding"
    assert node.step("file:m", MEMBERS) == Fold(chosen=chosen)
    assert node.to_fold == chosen
    node.apply(Folded(model="object:f", has_statistics=True))
    assert node.step("file:m", MEMBERS) == Announce(phase=S, model="object:f")


def test_who_is_not_in_the_first_set_waits_for_the_second() -> None:
    node = aligning(MEMBERS[3])
    node.apply(announced(MEMBERS[3]))
    node.apply(Committed(phase=P, contributors=((MEMBERS[0], Digest("da")),)))
    assert node.step("file:m", MEMBERS) == Settle(phase=A, members=MEMBERS[:1])


def test_contributors_with_differing_lists_agree_on_what_is_aligned() -> None:
    """Their lists differ; the first set, and so the anchor and the list of the second, do not."""
    nodes = {name: aligning(name) for name in MEMBERS[:2]}
    first = tuple((name, Digest(f"d{name}")) for name in nodes)
    for name, node in nodes.items():
        node.apply(announced(name, MEMBERS if name == "a" else MEMBERS[:3]))
        node.apply(Committed(phase=P, contributors=first))
        node.apply(Announced(phase=A, digest=Digest(f"{name}'"), members=node.members(A, ())))
    assert settle_all(nodes, A) == {}
    assert {node.committed[A].digest for node in nodes.values()} == {
        GlobalSet(phase=A, contributors=tuple((n, Digest(f"{n}'")) for n in nodes)).digest
    }


def settle_all(
    nodes: dict[NodeId, GlobalMerge], phase: Phase = P, rounds: int = 5
) -> dict[NodeId, str]:
    """Everybody hears everybody, again and again; who still waits, and for what."""
    waiting: dict[NodeId, str] = {}
    for _ in range(rounds):
        for me, node in nodes.items():
            heard = {o: a for o, n in nodes.items() if o != me and (a := heard_from(n, phase))}
            if phase in node.committed:
                continue
            entry = node.consider(phase, empty_plan(), heard)
            if isinstance(entry, str):
                waiting[me] = entry
            else:
                waiting.pop(me, None)
                node.apply(entry)
    return waiting


def test_members_commit_the_whole_list_without_a_coordinator() -> None:
    nodes = {name: GlobalMerge(name) for name in MEMBERS}
    for name, node in nodes.items():
        node.apply(announced(name))
    assert settle_all(nodes) == {}
    sets = {node.committed[P].digest for node in nodes.values()}
    assert len(sets) == 1
    assert [n for n, _ in nodes[MEMBERS[0]].committed[P].contributors] == list(MEMBERS)


def test_members_wait_for_the_silent_and_say_so() -> None:
    nodes = {name: GlobalMerge(name) for name in MEMBERS}
    for name in MEMBERS[:3]:
        nodes[name].apply(announced(name))
    waiting = settle_all(nodes)
    assert waiting[MEMBERS[0]] == "waiting for d to announce"


def test_members_with_differing_lists_wait_and_say_so() -> None:
    nodes = {name: GlobalMerge(name) for name in MEMBERS}
    for name in MEMBERS[:3]:
        nodes[name].apply(announced(name))
    nodes[MEMBERS[3]].apply(announced(MEMBERS[3], (*MEMBERS, NodeId("e"))))
    waiting = settle_all(nodes)
    assert waiting[MEMBERS[0]].startswith("d hold another list of members")
    assert all(P not in node.committed for node in nodes.values())


class World:
    """Nodes, a coordinator and a network that delivers in any order, or late, or never."""

    def __init__(self) -> None:
        self.nodes = {name: GlobalMerge(name) for name in MEMBERS}
        self.heard: dict[NodeId, dict[NodeId, Announcement]] = {name: {} for name in MEMBERS}
        self.plans = dict.fromkeys(MEMBERS, empty_plan())
        self.plan = empty_plan()
        self.reported: dict[NodeId, Digest] = {}
        self.promises: set[NodeId] = set()

    def act(self, move: int, one: NodeId, other: NodeId) -> None:
        moves = [
            self.announce,
            self.hear,
            self.report,
            self.propose,
            self.tell,
            self.consider,
            self.replace,
        ]
        moves[move](one, other)

    def announce(self, one: NodeId, _: NodeId) -> None:
        if P not in self.nodes[one].announced:
            self.nodes[one].apply(announced(one))

    def hear(self, one: NodeId, other: NodeId) -> None:
        if one != other and (said := heard_from(self.nodes[other])):
            self.heard[one][other] = said

    def report(self, one: NodeId, _: NodeId) -> None:
        node = self.nodes[one]
        if P in node.announced:
            self.reported[one] = node.announced[P].digest
        proposed = self.plan.proposed[0] if self.plan.proposed else None
        if proposed is not None and node.promised.get(P) == proposed:
            self.promises.add(one)
        self.coordinator_settles()

    def coordinator_settles(self) -> None:
        if self.plan.committed:
            return
        proposed = self.plan.proposed[0] if self.plan.proposed else None
        if proposed is not None:
            if self.promises == set(dict(proposed.contributors)):
                self.plan = replace(self.plan, committed=(proposed,))
        elif set(self.reported) == set(MEMBERS):
            whole = tuple(sorted(self.reported.items()))
            self.plan = replace(self.plan, committed=(GlobalSet(phase=P, contributors=whole),))

    def propose(self, _: NodeId, __: NodeId) -> None:
        if self.plan.proposed or self.plan.committed or not self.reported:
            return
        if set(self.reported) != set(MEMBERS):
            part = GlobalSet(phase=P, contributors=tuple(sorted(self.reported.items())))
            self.plan = replace(self.plan, proposed=(part,))

    def replace(self, one: NodeId, other: NodeId) -> None:
        """The coordinator gives its part up for a smaller one, without two of them."""
        if not self.plan.proposed or self.plan.committed:
            return
        kept = {n: d for n, d in self.reported.items() if n not in (one, other)}
        if kept:
            part = GlobalSet(phase=P, contributors=tuple(sorted(kept.items())))
            self.plan = replace(self.plan, proposed=(part,))
            self.promises = set()

    def tell(self, one: NodeId, _: NodeId) -> None:
        self.plans[one] = self.plan

    def consider(self, one: NodeId, _: NodeId) -> None:
        node = self.nodes[one]
        if P not in node.committed:
            entry = node.consider(P, self.plans[one], self.heard[one])
            if isinstance(entry, Promised | Committed):
                node.apply(entry)

    def committed(self) -> set[Digest]:
        sets = {node.committed[P].digest for node in self.nodes.values() if P in node.committed}
        return sets | {chosen.digest for chosen in self.plan.committed}


moves = st.tuples(st.integers(0, 6), st.sampled_from(MEMBERS), st.sampled_from(MEMBERS))


@settings(max_examples=300, deadline=None)
@given(st.lists(moves, max_size=120))
def test_never_two_sets(script: list[tuple[int, NodeId, NodeId]]) -> None:
    world = World()
    for move, one, other in script:
        world.act(move, one, other)
    assert len(world.committed()) <= 1


def test_never_two_sets_in_long_random_worlds() -> None:
    outcomes: set[str] = set()
    for seed in range(300):
        draw, world = random.Random(seed), World()
        for _ in range(400):
            world.act(draw.randrange(7), draw.choice(MEMBERS), draw.choice(MEMBERS))
        sets = world.committed()
        assert len(sets) <= 1
        outcomes.add("part" if world.plan.proposed and sets else "whole" if sets else "none")
    assert {"part", "whole"} <= outcomes, "the worlds must reach both ways of committing"
