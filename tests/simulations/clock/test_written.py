"""Options as files write them: TOML tables, and matrices of links."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.simulations.clock.runs import timed
from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.clock.presence import Absence, Churn, Partition
from weft.simulations.clock.quantities import Draw, LogNormal, byte_count, per_node
from weft.simulations.clock.written import machines_and_links
from weft.simulations.errors import BadData, BadOption

TABLE = """
slowness = { median = 1.0, sigma = 0.3 }
stragglers = 0.1
merge_seconds = 2
up_mbit = [200, 100]
latency_ms = 30
matrix = "links.csv"
churn = { mean_there_s = 600.0, mean_away_s = 30.0 }
partitions = [{ groups = [[0], [1]], from_s = 100, to_s = 160 }]
"""


def test_a_table_is_read_into_both() -> None:
    machines, links = machines_and_links(tomllib.loads(TABLE), Path("here"))
    assert machines == Machines(
        slowness=LogNormal(median=1.0, sigma=0.3),
        stragglers=0.1,
        merge_seconds=2.0,
        churn=Churn(mean_there_s=600.0, mean_away_s=30.0),
    )
    assert links == Links(
        up_mbit=(200.0, 100.0),
        latency_ms=30.0,
        matrix=Path("here/links.csv"),
        partitions=(Partition(groups=((0,), (1,)), from_s=100, to_s=160),),
    )
    away, _ = machines_and_links({"absences": [{"node": 1, "from_s": 1.0, "to_s": 2.0}]})
    assert away.absences == (Absence(node=1, from_s=1.0, to_s=2.0),)
    assert machines_and_links({}) == (Machines(), Links())


BOTH = """
absences = [{ node = 0, from_s = 3, to_s = 4 }]
churn = { mean_there_s = 1, mean_away_s = 1 }
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upmbit = 3", "did you mean 'up_mbit'"),
        ("up_mbit = true", "expected a number"),
        ("up_mbit = 0", "up_mbit: found 0.0, expected above 0"),
        ("up_mbit = nan", "up_mbit: found nan"),
        ("latency_ms = [1, 2]", "latency_ms: found"),
        ("slowness = { mean = 1 }", "median"),
        ("slowness = { median = 0.0, sigma = 1.0 }", "median above 0"),
        ("loss = 1.0", "loss"),
        ("loss = [0.5]", "expected a number"),
        ("spread = -1", "spread"),
        ("stragglers = 2", "share of 0 to 1"),
        ("straggler_factor = 0.5", "1 or more"),
        ("codec_ratio = 0", "codec_ratio"),
        ("absences = 3", "list of tables"),
        ("absences = [3]", "expected a table"),
        ("absences = [{ node = 0, from_s = 3 }]", "to_s"),
        ("absences = [{ node = 0, start = 3 }]", "with node, start, expected node, from_s, to_s"),
        ('absences = [{ node = 0, from_s = "x", to_s = 1 }]', "expected numbers$"),
        ("partitions = [{ groups = 3, from_s = 0, to_s = 1 }]", "groups as lists of nodes"),
        ("churn = {}", "a table with nothing, expected mean_there_s, mean_away_s"),
        ("slowness = inf", "slowness: found inf, expected a finite number"),
        ("slowness = { median = 1, sigma = 1000 }", "a sigma of 0 to 10"),
        ("matrix = 3", "expected a path"),
        (BOTH, "one of them"),
    ],
)
def test_what_cannot_be_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        machines_and_links(tomllib.loads(text))


BANDWIDTHS = np.array([[0.0, 8.0, 4.0], [8.0, 0.0, 8.0], [2.0, 8.0, 0.0]])


def test_a_matrix_gives_each_direction_its_figure(tmp_path: Path) -> None:
    np.savez(tmp_path / "links.npz", bandwidth_mbit=BANDWIDTHS, latency_ms=100 * (BANDWIDTHS > 4))
    np.savetxt(tmp_path / "links.csv", BANDWIDTHS, delimiter=",")
    alone = timed("complete", 3, rounds=1, links=Links(matrix=tmp_path / "links.csv"))
    # From 2 to 0 a megabyte takes 4 s; 0 is waited for by all that want its verdict.
    assert alone.round_ends[0].tolist() == [1 + 4.0] * 3
    both = timed("complete", 3, rounds=1, links=Links(matrix=tmp_path / "links.npz"))
    # No latency between 0 and 2. Node 0 has all at 5 and then asks node 1 for its verdict, there
    # and back; nodes 1 and 2 have asked for node 0's before, and wait for the answer only.
    assert both.round_ends[0] == pytest.approx([5.2, 5.1, 5.0])


def test_a_matrix_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "links.csv"
    for text, said in (
        ("1,2\n3,4\n", "expected \\(3, 3\\)"),
        ("0,1,1\n1,0,-1\n1,1,0\n", "too small"),
        ("0,1,1\n1,0,nan\n1,1,0\n", "no number"),
        ("0,1,x\n", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(BadData, match=said):
            Links(matrix=path).laid(3, 0)
    with pytest.raises(BadData, match="cannot be read"):
        Links(matrix=tmp_path / "none.npz").laid(3, 0)
    np.savez(tmp_path / "other.npz", speeds=BANDWIDTHS)
    with pytest.raises(BadData, match="expected bandwidth_mbit"):
        Links(matrix=tmp_path / "other.npz").laid(3, 0)


def test_a_lognormal_has_its_median_and_its_spread() -> None:
    drawn = per_node(LogNormal(median=3.0, sigma=0.5), 20_000, Draw.UP, seed=0)
    assert np.median(drawn) == pytest.approx(3.0, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.02)
    other = per_node(LogNormal(median=3.0, sigma=0.5), 20_000, Draw.DOWN, seed=0)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03, "no two purposes share a draw"


def test_what_a_link_draws_does_not_hang_on_how_many_there_are() -> None:
    links = Links(bandwidth_mbit=LogNormal(median=10.0, sigma=1.0))
    ends = np.array([[0, 3], [2, 1]], dtype=np.int32)
    few, many = links.laid(4, 7).rates(*ends), links.laid(400, 7).rates(*ends)
    assert few.tolist() == many.tolist() != replace(links).laid(4, 8).rates(*ends).tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [("140 GB", 140e9), ("1.5GiB", 1.5 * 2**30), ("12", 12.0), (7, 7.0), (0.0, 0.0)],
)
def test_sizes_are_read(text: str | float, count: float) -> None:
    assert byte_count(text) == count
