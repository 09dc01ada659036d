"""Cells that gossip only, from their keys to their rows, and what goes wrong in them."""

import pytest

from tests.simulations.experiments.documents import read, silent
from tests.topology.built import built
from weft.protocol.errors import BadConfiguration
from weft.simulations.engines.failures import Failures, Partition
from weft.simulations.engines.gossip import GossipStudy, drawn_values
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.checks import check, traffic
from weft.simulations.experiments.runner import perform

KEYS = {
    "loss": 0.2,
    "one_sided": True,
    "churn": 0.1,
    "absence": 2,
    "partitions": [{"start": 1, "stop": 3, "parts": 3}],
}
FAILURES = Failures(
    loss=0.2,
    one_sided=True,
    churn=0.1,
    absence=2,
    partitions=(Partition(start=1, stop=3, parts=3),),
)


def test_a_cell_s_keys_are_the_failures_of_its_study() -> None:
    (cell,) = read(silent(task={"nodes": 40}, gossip={"vector": 2, **KEYS})).cells
    study = GossipStudy(
        schedule=built("ring", 40, rounds=4),
        values=drawn_values(40, 2, 0),
        message_bytes=4e6,
        failures=FAILURES,
    )
    assert repr(perform(cell).moments) == repr(list(study.moments()))


def test_failures_sweep_and_draw_anew_for_each_seed() -> None:
    document = silent(task={"nodes": 40}, gossip={"loss": [0.0, 0.5]})
    document["experiment"]["seeds"] = [0, 1]
    moved = [perform(cell).moments[0].messages for cell in read(document).cells]
    assert moved[:2] == [80, 80]
    assert moved[2] != moved[3]
    assert max(moved[2:]) < 80


def test_a_push_sum_message_holds_a_weight_as_planned() -> None:
    pushed = {"rule": "push_sum"}
    weights = {"graph": "exponential", "weights": "push_sum"}
    (cell,) = read(silent(learning=pushed, topology=weights, gossip={"model_size": 10})).cells
    moments = perform(cell).moments
    assert moments[0].bytes == moments[0].messages * 48
    assert sum(moment.bytes for moment in moments) == traffic(cell, 10).bytes


def test_a_rule_that_learns_is_refused() -> None:
    experiment = read(silent(learning={"rule": "choco"}))
    with pytest.raises(BadExperiment, match=r"'choco' with the engine gossip, which trains"):
        check(experiment)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"loss": 1.5}, "gossip.loss: expected less than or equal to 1, found 1.5"),
        ({"partitions": [{"start": 3, "stop": 3}]}, "start must be below stop"),
        (
            {"partitions": [{"start": 0, "stop": 3, "part": 3}]},
            "nearest valid key gossip.partitions",
        ),
    ],
)
def test_bad_failures_are_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadConfiguration, match=complaint):
        read(silent(gossip=keys))
