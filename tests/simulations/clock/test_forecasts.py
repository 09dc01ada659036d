"""Laws of virtual time, and small runs by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.simulations.clock.runs import EIGHT_MBIT, MEGABYTE, schedule_of, timed
from weft.cli.run_forecast import forecast as counted
from weft.protocol.run import RunSpec
from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.outcome import Forecast
from weft.simulations.clock.presence import Absence, Churn, Partition
from weft.simulations.clock.quantities import LogNormal
from weft.simulations.errors import BadOption

SLOW_STEPS = Machines(
    publish_seconds=0.1, judge_seconds=0.2, merge_seconds=0.4, evaluate_seconds=0.8
)
DRAWN = Machines(slowness=LogNormal(median=1.0, sigma=0.5), spread=0.2)
UNEVEN = Links(bandwidth_mbit=LogNormal(median=8.0, sigma=0.5), latency_ms=20.0)


def test_a_round_is_the_sum_of_its_steps() -> None:
    links = Links(bandwidth_mbit=EIGHT_MBIT, latency_ms=100.0)
    found = timed(rounds=2, machines=SLOW_STEPS, links=links)
    # A contribution: asked, answered, manifest both ways, asked for, last byte: six
    # latencies and a second. A verdict: asked and answered.
    each = 1.0 + 0.1 + (6 * 0.1 + 1.0) + 0.2 + 2 * 0.1 + 0.4 + 0.8
    assert found.round_ends == pytest.approx(np.outer([1, 2], [each] * 4))
    assert found.busy == pytest.approx([2 * 2.5] * 4)
    assert found.idle == pytest.approx([2 * 1.8] * 4)


def test_who_waits_for_a_late_neighbour_needs_five_latencies() -> None:
    machines = Machines(slowness=(1.0, 9.0))
    found = timed("complete", 2, rounds=1, machines=machines, links=Links(latency_ms=100.0))
    # Node 0 has it at 9.5. Node 1 asks at 9 for what was long published: six latencies. Node 0
    # has asked for its verdict before it was there, node 1 asks when node 0's has long been.
    assert found.round_ends[0] == pytest.approx([9.6 + 0.1, 9.6 + 0.2])


@pytest.mark.parametrize("leaves", [2, 5])
def test_equal_transfers_over_one_way_take_as_many_times_as_long(leaves: int) -> None:
    found = timed("star", leaves + 1, rounds=1, links=Links(up_mbit=EIGHT_MBIT))
    assert found.seconds == pytest.approx(1.0 + leaves)
    alone = timed("star", leaves + 1, rounds=1, links=Links(bandwidth_mbit=EIGHT_MBIT))
    assert alone.seconds == pytest.approx(1.0 + 1.0)


def test_one_node_is_never_idle() -> None:
    found = timed(nodes=1, machines=SLOW_STEPS, links=UNEVEN, final=True)
    assert found.idle == pytest.approx([0.0], abs=1e-12)
    assert found.seconds == pytest.approx(3 * 1.8), "nobody to publish for, nothing to merge"
    assert found.total_bytes == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_faster_machine_makes_nobody_later(seed: int) -> None:
    """Under `wait` and without shared ways; where ways are shared a transfer may come between."""
    chance = np.random.default_rng(seed)
    slowness = 0.5 + chance.random(8)
    faster = slowness.copy()
    faster[chance.integers(8)] *= chance.random()
    ends = [
        timed("exponential", 8, machines=Machines(slowness=tuple(one.tolist())), links=UNEVEN)
        for one in (slowness, faster)
    ]
    assert (ends[1].round_ends <= ends[0].round_ends + 1e-9).all()


@pytest.mark.parametrize(
    "params", [{}, {"schedule": "sparse", "schedule_options": (("pairs_per_node", 0.6),)}]
)
@pytest.mark.parametrize("graph", ["star", "exponential"])
def test_bytes_are_those_of_the_schedule(graph: str, params: dict[str, object]) -> None:
    schedule = schedule_of(graph, 9, 6, **params)
    found = timed(schedule=schedule, links=replace(UNEVEN, codec_ratio=0.5), final=True)
    expected: dict[tuple[int, int], float] = {}
    for number in range(6):
        mixing = schedule.mixing(number)
        for sender, receiver in zip(
            mixing.senders[mixing.between].tolist(),
            mixing.receivers[mixing.between].tolist(),
            strict=True,
        ):
            expected[sender, receiver] = expected.get((sender, receiver), 0.0) + MEGABYTE / 2
    assert found.bytes_by_edge() == expected
    assert found.final_bytes == pytest.approx(2 * 8 * MEGABYTE / 2)


def same(one: Forecast, other: Forecast) -> bool:
    return np.array_equal(one.round_ends, other.round_ends) and np.array_equal(
        one.bytes, other.bytes
    )


def test_the_seed_decides_everything() -> None:
    links = replace(UNEVEN, loss=0.2)
    machines = replace(DRAWN, churn=Churn(mean_there_s=20.0, mean_away_s=2.0))
    first, again, other = (
        timed("exponential", 8, machines=machines, links=links, seed=seed) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not same(first, other)


def test_a_partition_delays_by_its_length() -> None:
    links = Links(bandwidth_mbit=EIGHT_MBIT)
    apart = Partition(groups=((0, 1), (2, 3)), from_s=1.25, to_s=6.25)
    assert timed(links=links).seconds == pytest.approx(6.0)
    assert timed(links=replace(links, partitions=(apart,))).seconds == pytest.approx(11.0)
    unnoticed = replace(apart, from_s=2.25, to_s=2.75)
    assert timed(links=replace(links, partitions=(unnoticed,))).seconds == pytest.approx(6.0)


def by_hand(trainings: list[float], rounds: int) -> list[list[float]]:
    """Ring, nothing but training takes time: collect from both neighbours, then their verdicts."""
    nodes, starts, ends = len(trainings), [0.0] * len(trainings), []
    for _ in range(rounds):
        published = [start + seconds for start, seconds in zip(starts, trainings, strict=True)]
        judged = [max(published[(i + step) % nodes] for step in (-1, 0, 1)) for i in range(nodes)]
        starts = [max(judged[(i + step) % nodes] for step in (-1, 0, 1)) for i in range(nodes)]
        ends.append(starts)
    return ends


def test_a_straggler_holds_up_its_neighbours_two_hops_a_round() -> None:
    found = timed(nodes=9, rounds=3, machines=Machines(slowness=(4.0, *[1.0] * 8)))
    # One hop for its contribution, one for the verdicts of those that wait for it.
    assert found.round_ends[0].tolist() == [4, 4, 4, 1, 1, 1, 1, 4, 4]
    assert found.round_ends[1].tolist() == [8, 8, 8, 5, 5, 5, 5, 8, 8]
    assert found.round_ends.tolist() == by_hand([4.0, *[1.0] * 8], 3)


def test_stragglers_are_as_many_as_asked_for() -> None:
    machines = Machines(stragglers=0.25, straggler_factor=3.0)
    assert sorted(machines.factors(8, seed=0).tolist()) == [1.0] * 6 + [3.0] * 2
    assert machines.factors(8, 0).tolist() != machines.factors(8, 1).tolist()


def test_at_a_deadline_the_late_are_missed_at_both_ends() -> None:
    machines = Machines(slowness=(10.0, 1.0, 1.0, 1.0))
    found = timed(rounds=1, machines=machines, policy="deadline", deadline_s=2.0)
    # Nodes 1 and 3 go on at 1 + 2; node 0 takes what they have published, is told that it was
    # late, and books the same two edges as missed.
    assert found.round_ends[0].tolist() == [10.0, 3.0, 3.0, 3.0]
    assert found.missed.tolist() == [4]
    waiting = timed(rounds=1, machines=machines)
    assert waiting.round_ends[0].tolist() == [10.0] * 4
    assert waiting.missed.tolist() == [0]


def test_a_transfer_that_a_deadline_cuts_counts_what_it_moved() -> None:
    found = timed(
        nodes=2, rounds=1, links=Links(bandwidth_mbit=EIGHT_MBIT), policy="deadline",
        deadline_s=0.25, graph="complete",
    )  # fmt: skip
    assert found.bytes.tolist() == pytest.approx([MEGABYTE / 4] * 2)
    assert found.missed.tolist() == [2]


def test_what_is_lost_is_sent_again_or_missed() -> None:
    links = Links(bandwidth_mbit=EIGHT_MBIT, loss=0.3)
    waiting = timed("exponential", 8, rounds=10, links=links)
    messages = 10 * schedule_of("exponential", 8).mixing(0).messages
    assert waiting.missed.sum() == 0
    sent = waiting.bytes.sum() / MEGABYTE
    assert sent == pytest.approx(messages / 0.7, rel=0.1), "a geometric number of attempts each"
    late = timed("exponential", 8, rounds=10, links=links, policy="deadline", deadline_s=5.0)
    assert late.bytes.sum() == pytest.approx(messages * MEGABYTE)
    assert late.missed.sum() > 0.2 * messages
    # Whoever misses an edge waits for it as long as the deadline is.
    assert late.round_seconds[0] == pytest.approx(1.0 + 5.0)


def test_an_absence_costs_what_was_not_yet_done() -> None:
    away = Machines(absences=(Absence(node=0, from_s=0.75, to_s=5.0),))
    found = timed(rounds=1, machines=away)
    assert found.round_ends[0].tolist() == [6.0, 6.0, 6.0, 6.0], "trained again from 5 on"
    assert found.busy.tolist() == [1.75, 1.0, 1.0, 1.0]
    assert found.away.tolist() == [4.25, 0.0, 0.0, 0.0]
    assert found.idle.tolist() == [0.0, 5.0, 5.0, 5.0]


def test_a_transfer_goes_on_where_an_absence_left_it() -> None:
    machines = Machines(absences=(Absence(node=0, from_s=1.25, to_s=3.0),))
    found = timed(rounds=1, machines=machines, links=Links(bandwidth_mbit=EIGHT_MBIT))
    assert found.seconds == pytest.approx(3.0 + 0.75)
    assert found.bytes.tolist() == pytest.approx([MEGABYTE] * 8)


def test_the_global_merge_moves_two_models_a_node() -> None:
    seconds = Machines(
        announce_seconds=1.0, settle_seconds=2.0, fold_seconds=4.0, finish_seconds=8.0
    )
    links = Links(up_mbit=EIGHT_MBIT, down_mbit=EIGHT_MBIT)
    found = timed(rounds=0, machines=seconds, links=links, final=True)
    # Slices of a quarter to three owners, a quarter of the folding, the share to three others.
    assert found.seconds == pytest.approx(1.0 + 2.0 + 0.75 + 1.0 + 0.75 + 8.0)
    assert found.final_bytes == pytest.approx(2 * 3 * MEGABYTE)


def test_a_tensor_that_is_nearly_all_of_the_model_is_nobody_elses_work() -> None:
    links = Links(up_mbit=EIGHT_MBIT, down_mbit=EIGHT_MBIT)
    found = timed(rounds=0, links=links, final=True, model_bytes={"large": 10**6, "small": 0})
    assert found.share_bytes.tolist() == [1e6, 0.0, 0.0, 0.0]
    assert found.seconds == pytest.approx(3.0 + 3.0), "three slices in, three shares out, one way"


@pytest.mark.parametrize("graph", ["ring", "exponential", "complete"])
def test_without_computing_it_is_what_the_dry_run_says(graph: str) -> None:
    run = RunSpec.model_validate(
        {"name": "f", "nodes": 8, "rounds": 4, "base": "0" * 64, "topology": {"graph": graph}}
    )
    dry = counted(run, 10**6, 8e6)
    links = Links(up_mbit=EIGHT_MBIT, down_mbit=EIGHT_MBIT)
    found = timed(graph, 8, rounds=4, links=links, steps_seconds=0.0, final=True)
    assert found.seconds == pytest.approx(dry.seconds(dry.total))
    assert found.total_bytes == pytest.approx(dry.total.bytes)


def test_a_size_is_scaled_as_it_is_written() -> None:
    links = Links(up_mbit=200.0)
    found = timed(rounds=1, links=links, steps_seconds=600.0, model_bytes="140 GB")
    assert found.seconds == pytest.approx(600.0 + 2 * 140e9 * 8 / 200e6)


def test_who_is_away_for_ever_is_not_waited_for() -> None:
    machines = Machines(absences=(Absence(node=2, from_s=0.5, to_s=math.inf),))
    with pytest.raises(BadOption, match="away or cut off for ever"):
        timed(machines=machines)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps_seconds": -1.0}, "steps_seconds"),
        ({"policy": "hope"}, "wait or deadline"),
        ({"policy": "deadline", "deadline_s": 0.0}, "deadline_s"),
        ({"model_bytes": "much"}, "such as 140 GB"),
        ({"model_bytes": -1.0}, "number of bytes"),
        ({"machines": Machines(slowness=(1.0, 2.0))}, "2 figures for 4 nodes"),
        ({"form": "arrays", "policy": "deadline"}, "machines"),
        ({"form": "arrays", "links": Links(loss=0.1)}, "machines"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        timed(**more)  # type: ignore[arg-type]
