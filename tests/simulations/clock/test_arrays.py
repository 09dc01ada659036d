"""The arrays say what the machines say."""

import numpy as np
import pytest

from tests.simulations.clock.runs import schedule_of, timed
from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.outcome import Forecast
from weft.simulations.clock.quantities import LogNormal

DRAWN = Machines(
    slowness=LogNormal(median=1.0, sigma=0.5),
    spread=0.2,
    stragglers=0.1,
    publish_seconds=0.1,
    judge_seconds=0.2,
    merge_seconds=0.3,
    evaluate_seconds=0.4,
    announce_seconds=0.5,
    settle_seconds=0.6,
    fold_seconds=0.7,
    finish_seconds=0.8,
)
UNEVEN = Links(
    bandwidth_mbit=LogNormal(median=50.0, sigma=1.0), latency_ms=LogNormal(median=40.0, sigma=1.0)
)
SHARED = Links(up_mbit=100.0, down_mbit=40.0, latency_ms=10.0)
SPARSE = {"schedule": "sparse", "schedule_options": (("pairs_per_node", 0.3),)}
ONE_WAY = {"schedule": "sparse", "schedule_options": (("one_way", True),), "weights": "uniform"}


def agree(one: Forecast, other: Forecast) -> None:
    for name in ("round_ends", "ends", "busy", "idle", "bytes", "share_bytes", "final_bytes"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-9, err_msg=name
        )
    assert np.array_equal(one.senders, other.senders)
    assert np.array_equal(one.receivers, other.receivers)
    assert np.array_equal(one.missed, other.missed)


@pytest.mark.parametrize("params", [{}, SPARSE, ONE_WAY])
@pytest.mark.parametrize("graph", ["ring", "exponential"])
def test_64_uneven_nodes(graph: str, params: dict[str, object]) -> None:
    schedule = schedule_of(graph, 64, 3, **params)
    agree(
        *(
            timed(schedule=schedule, machines=DRAWN, links=UNEVEN, form=form)
            for form in ("machines", "arrays")
        )
    )


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_the_global_merge_of_uneven_nodes(nodes: int) -> None:
    schedule = schedule_of("complete", nodes, 1)
    agree(
        *(
            timed(schedule=schedule, machines=DRAWN, links=UNEVEN, form=form, final=True)
            for form in ("machines", "arrays")
        )
    )


def test_64_equal_nodes_with_shared_ways() -> None:
    schedule = schedule_of("exponential", 64, 3)
    agree(
        *(
            timed(schedule=schedule, links=SHARED, form=form, final=True)
            for form in ("machines", "arrays")
        )
    )


def test_shared_ways_of_uneven_nodes_are_never_made_faster() -> None:
    schedule = schedule_of("exponential", 32, 3)
    machines, arrays = (
        timed(schedule=schedule, machines=DRAWN, links=SHARED, form=form)
        for form in ("machines", "arrays")
    )
    assert (arrays.round_ends >= machines.round_ends - 1e-9).all()


def test_ten_thousand_nodes() -> None:
    schedule = schedule_of("exponential", 10_000, 10)
    found = timed(schedule=schedule, machines=DRAWN, links=UNEVEN)
    assert found.bytes.sum() == pytest.approx(10 * schedule.mixing(0).messages * 1e6)
    assert (np.diff(found.round_ends, axis=0) > 0).all()
    assert (found.idle >= -1e-9).all()
