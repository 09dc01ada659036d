"""The life of a node: transcripts, and a kill at every journal entry."""

from collections.abc import Callable

import pytest

from weft.node.due import (
    Agree,
    Begin,
    Collect,
    Edges,
    Evaluate,
    Join,
    Merge,
    Publish,
    RoundsDone,
    Start,
    Step,
    Stop,
    Train,
    Wait,
)
from weft.node.entries import (
    Chosen,
    Entry,
    Evaluated,
    Joined,
    Judged,
    Merged,
    PlanHeld,
    Published,
    Started,
    Trained,
    TrainingBegun,
    from_document,
    to_document,
)
from weft.node.rounds import RoundMachine
from weft.protocol.run import (
    Digest,
    Epoch,
    Member,
    MergeSpec,
    NodeId,
    Plan,
    RunName,
    RunSpec,
    RunState,
    members_digest,
)

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
MEMBERS = (A, B, C)


def spec(rounds: int = 2, **merge: object) -> RunSpec:
    return RunSpec(
        name="r", nodes=3, rounds=rounds, base="0" * 64, merge=MergeSpec.model_validate(merge)
    )


def plan(state: RunState = RunState.RUNNING, version: int = 1, from_round: int = 0) -> Plan:
    return Plan(
        run=RunName("r"),
        version=version,
        state=state,
        members=tuple(Member(node=node, address=f"{node}:1") for node in MEMBERS),
        epochs=(Epoch(number=0, from_round=from_round, members=MEMBERS),),
    )


EdgesOf = Callable[[Plan, Epoch, int], Edges]


def thirds(plan: Plan, epoch: Epoch, round: int) -> Edges:
    return Edges(row=dict.fromkeys(epoch.members, 1 / 3), listeners=(B, C))


def alone(plan: Plan, epoch: Epoch, round: int) -> Edges:
    return Edges(row={A: 1.0}, listeners=())


def one_way(plan: Plan, epoch: Epoch, round: int) -> Edges:
    """a hears b, and c hears a."""
    return Edges(row={A: 0.5, B: 0.5}, listeners=(C,))


def only_heard(plan: Plan, epoch: Epoch, round: int) -> Edges:
    return Edges(row={A: 1.0}, listeners=(C,))


def machine(edges_of: EdgesOf = thirds) -> RoundMachine:
    return RoundMachine(A, edges_of)


def digest(text: str) -> Digest:
    return Digest(text)


def perform(node: RoundMachine, step: Step) -> Entry:  # noqa: C901 - one line a step
    """What the shell would journal for a step: names tell what it was made from."""
    match step:
        case Join():
            return Joined(spec=spec().to_bytes().decode())
        case Wait():
            return PlanHeld.of(plan())
        case Start(round=round):
            return Started(round=round, model="object:base")
        case Begin(round=round):
            return TrainingBegun(round=round)
        case Train(round=round, model=model):
            return Trained(round=round, model=f"T({model})", state=f"S{round}")
        case Publish(round=round, model=model, members=members, edges=edges):
            return Published(
                round=round,
                digest=digest(f"P({model})"),
                members_digest=members_digest(members),
                row=dict(edges.row),
                listeners=edges.listeners,
            )
        case Collect(round=round, neighbours=neighbours):
            accepted = {node: digest(f"{node}{round}") for node in neighbours}
            return Judged(round=round, accepted=accepted, missed={})
        case Agree():
            return node.choose({})
        case Merge(round=round, chosen=chosen):
            return Merged(round=round, model=f"M({','.join(chosen.parents.values())})")
        case Evaluate(round=round):
            return Evaluated(round=round)
        case _:
            raise AssertionError(step)


def run(node: RoundMachine, limit: int = 200) -> list[Entry]:
    """Live until the rounds are done; every entry in order."""
    journal: list[Entry] = []
    for _ in range(limit):
        step = node.step()
        if isinstance(step, RoundsDone | Stop):
            return journal
        entry = perform(node, step)
        journal.append(entry)
        node.apply(entry)
    raise AssertionError("never done")


def kinds(journal: list[Entry]) -> str:
    return " ".join(entry.kind for entry in journal)


ROUND = "training trained published judged chosen merged evaluated"


def test_transcript_of_a_run() -> None:
    node = machine()
    journal = run(node)
    assert kinds(journal) == f"joined plan started {ROUND} {ROUND}"
    last = node.step()
    assert isinstance(last, RoundsDone)
    assert last.model == "M(P(T(M(P(T(object:base)),b0,c0))),b1,c1)"


def test_a_round_without_neighbours_publishes_nothing() -> None:
    node = machine(alone)
    lonely = "training trained evaluated"
    assert kinds(run(node)) == f"joined plan started {lonely} {lonely}"


def test_a_kill_at_every_entry_changes_nothing() -> None:
    whole = run(machine())
    kills = 0
    for kept in range(len(whole) + 1):
        node = machine()
        for entry in whole[:kept]:
            node.apply(from_document(entry.kind, to_document(entry)))
        node.resumed()
        rest = run(node)
        begun_again = kept and whole[kept - 1].kind == "training"
        # A kill inside training starts it once more, and that is all it does.
        expected = [TrainingBegun(round=node_round(whole, kept))] if begun_again else []
        assert whole[:kept] + expected + whole[kept:] == whole[:kept] + rest
        assert node.training_starts <= 2 + 1
        kills += 1
    assert kills == len(whole) + 1


def node_round(whole: list[Entry], kept: int) -> int:
    entry = whole[kept - 1]
    assert isinstance(entry, TrainingBegun)
    return entry.round


def test_no_trained_round_is_trained_again() -> None:
    whole = run(machine())
    for kept in range(len(whole) + 1):
        node = machine()
        for entry in whole[:kept]:
            node.apply(entry)
        node.resumed()
        trained_before = {e.round for e in whole[:kept] if isinstance(e, Trained)}
        trained_after = [e.round for e in run(node) if isinstance(e, Trained)]
        assert trained_before.isdisjoint(trained_after)
        assert sorted(trained_before) + trained_after == [0, 1]


def test_missed_edges_give_their_weight_to_self() -> None:
    node = machine()
    for entry in run(machine())[:6]:  # up to and with `published`
        node.apply(entry)
    node.apply(Judged(round=0, accepted={B: digest("b0")}, missed={C: "late"}))
    chosen = node.choose({})
    assert chosen.weights == pytest.approx({A: 2 / 3, B: 1 / 3})
    assert chosen.missed == {C: "late"}
    declined = node.choose({B: "declined: norm"})
    assert declined.weights == pytest.approx({A: 1.0})
    assert set(declined.parents) == {A}
    node.apply(declined)
    assert isinstance(node.step(), Evaluate), "nothing but one's own model: nothing to merge"


def test_in_continual_mode_a_missed_edge_keeps_its_weight_and_nobody_is_merged_alone() -> None:
    """What came over the edge before is in the stream still, with the weight that it had."""
    node = machine()
    for entry in run(machine())[:6]:  # up to and with `published`
        node.apply(entry)
    node.apply(Joined(spec=spec(mode="continual").to_bytes().decode()))
    node.apply(Judged(round=0, accepted={B: digest("b0")}, missed={C: "late"}))
    chosen = node.choose({})
    assert chosen.weights == {A: 1 / 3, B: 1 / 3}
    assert chosen.missed == {C: "late"}
    declined = node.choose({B: "declined: norm"})
    assert declined.weights == {A: 1 / 3}
    node.apply(declined)
    assert node.step() == Merge(round=0, chosen=declined)


def test_the_optimizer_is_reset_only_after_an_adopted_merge() -> None:
    for policy, expected in (("keep", [False, False]), ("reset", [False, True])):
        node = machine()
        node.apply(Joined(spec=spec(optimizer=policy).to_bytes().decode()))
        node.apply(PlanHeld.of(plan()))
        fresh = []
        while not isinstance(step := node.step(), RoundsDone):
            if isinstance(step, Train):
                fresh.append(step.fresh_optimizer)
            node.apply(perform(node, step))
        assert fresh == expected


def test_paused_between_rounds_only() -> None:
    node = machine()
    for entry in run(machine())[:4]:  # up to and with `training`
        node.apply(entry)
    node.apply(PlanHeld.of(plan(RunState.PAUSED, version=2)))
    while not isinstance(node.step(), Wait):
        node.apply(perform(node, node.step()))
    assert node.round == 1
    assert node.step() == Wait(reason="the run is paused")


def test_stopped_at_once() -> None:
    for kept in range(2, 17):
        node = machine()
        for entry in run(machine())[:kept]:
            node.apply(entry)
        node.apply(PlanHeld.of(plan(RunState.STOPPED, version=2)))
        assert isinstance(node.step(), Stop)


def test_waits_until_the_run_is_full() -> None:
    node = machine()
    node.apply(Joined(spec=spec().to_bytes().decode()))
    node.apply(PlanHeld.of(plan(RunState.WAITING)))
    assert node.step() == Wait(reason="3 of 3 nodes have joined")


def test_a_late_node_starts_where_the_plan_says() -> None:
    node = machine()
    node.apply(Joined(spec=spec().to_bytes().decode()))
    node.apply(PlanHeld.of(plan(from_round=1)))
    assert node.step() == Start(round=1)
    rest = run(node)
    assert [entry.round for entry in rest if isinstance(entry, Trained)] == [1]


def test_a_plan_that_changes_within_a_round_does_not_change_its_row() -> None:
    node = machine()
    whole = run(machine())
    for entry in whole[:6]:
        node.apply(entry)
    later = plan(version=2)
    smaller = Epoch(number=1, from_round=0, members=(A,))
    node.apply(
        PlanHeld.of(
            Plan(
                run=later.run,
                version=2,
                state=later.state,
                members=later.members,
                epochs=(smaller,),
            )
        )
    )
    step = node.step()
    assert isinstance(step, Collect)
    assert step.neighbours == (B, C)


def test_on_one_way_edges_listeners_are_waited_for_and_change_nothing() -> None:
    node = machine(one_way)
    while not isinstance(step := node.step(), Agree):
        node.apply(perform(node, step))
    assert step.neighbours == (C,)
    chosen = node.choose({C: "declined: norm"})
    assert chosen.weights == {A: 0.5, B: 0.5}
    assert chosen.missed == {}


def test_who_is_only_heard_publishes_all_the_same() -> None:
    whole = "training trained published judged chosen evaluated"
    assert kinds(run(machine(only_heard))) == f"joined plan started {whole} {whole}"


def test_entries_survive_json() -> None:
    for entry in run(machine()):
        assert from_document(entry.kind, to_document(entry)) == entry


def test_chosen_parents_are_sorted() -> None:
    chosen = next(entry for entry in run(machine()) if isinstance(entry, Chosen))
    assert list(chosen.parents) == [A, B, C]
    assert sum(chosen.weights.values()) == pytest.approx(1.0)


def aligned_machine() -> RoundMachine:
    """After what its neighbours offered was judged, in this node's order of units."""
    node = machine()
    for _ in range(20):
        step = node.step()
        if isinstance(step, Collect):
            node.apply(
                Judged(
                    round=0,
                    accepted={B: digest("b"), C: digest("c")},
                    missed={},
                    aligned={B: digest("b'"), C: digest("c'")},
                    moved={B: 0.25, C: 0.75},
                )
            )
            return node
        node.apply(perform(node, step))
    raise AssertionError("never collects")


def test_what_is_merged_stands_in_for_what_was_published() -> None:
    node = aligned_machine()
    chosen = node.choose({B: "declined: norm"})
    assert set(chosen.parents) == {A, C}
    assert chosen.aligned == {C: "c'"}, "of the parents alone, and one's own stays as it is"
    assert from_document(chosen.kind, to_document(chosen)) == chosen
    node.apply(chosen)
    step = node.step()
    assert isinstance(step, Merge)
    assert step.chosen == chosen


def test_the_share_of_moved_units_is_a_figure_of_the_round() -> None:
    node = aligned_machine()
    assert node.metrics["moved_units"] == 0.5
    node.apply(node.choose({}))
    node.apply(Merged(round=0, model="M"))
    node.apply(Evaluated(round=0, metrics={"accuracy": 0.5}))
    assert dict(node.metrics) == {"moved_units": 0.5, "accuracy": 0.5}
