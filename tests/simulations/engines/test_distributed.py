"""Ranks over gloo, each a process: the same as one process, no more bytes, one end for all."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.simulations.engines import rank_programs as programs
from tests.simulations.engines.rank_programs import start
from tests.simulations.engines.small import digits_study
from weft.simulations.engines.blocks import Blocks, Crossings
from weft.simulations.engines.meeting import joined
from weft.simulations.errors import BadOption, Diverged, RankLost
from weft.topology.agreement import messages_per_round

RANKS = 4
ROW_BYTES = 4 * programs.COLUMNS


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return start(programs.exchanges, RANKS, tmp_path_factory.mktemp("exchanges"))


@pytest.mark.parametrize("nodes", [RANKS, 10])
@pytest.mark.parametrize("topology", ["ring", "exponential", "random_matching"])
def test_an_exchange_over_ranks_is_that_of_one_process(
    exchanged: list[Any], topology: str, nodes: int
) -> None:
    for seen in (rank[topology, nodes] for rank in exchanged):
        assert seen["same"], "weighted means are equal to the bit"
        assert seen["total"], "and sums of small values"
        assert seen["every"]
        assert seen["mean"] < 1e-15, "means over all nodes: to rounding in float64"


@pytest.mark.parametrize("topology", ["ring", "exponential", "random_matching"])
def test_one_node_a_rank_sends_what_weft_topology_counts(
    exchanged: list[Any], topology: str
) -> None:
    schedule = programs.schedules(RANKS)[topology]
    sent = np.stack([rank[topology, RANKS]["sent"] for rank in exchanged])
    messages = np.zeros((RANKS, RANKS))
    for round in range(schedule.rounds):
        messages += schedule.mixing(round).dense().T > 0
    np.fill_diagonal(messages, 0)
    assert np.array_equal(sent, messages * ROW_BYTES)
    if schedule.period == 1:
        assert sent.sum() == schedule.rounds * messages_per_round(schedule) * ROW_BYTES


@pytest.mark.parametrize("topology", ["ring", "exponential", "random_matching"])
def test_bytes_are_those_of_the_matrices(exchanged: list[Any], topology: str) -> None:
    """With more nodes: by edge that crosses ranks, and less where one row serves several."""
    schedule, blocks = programs.schedules(10)[topology], Blocks(nodes=10, ranks=RANKS)
    edges, rows = np.zeros((RANKS, RANKS)), np.zeros((RANKS, RANKS))
    for round in range(schedule.rounds):
        mixing = schedule.mixing(round)
        for receiver, sender in np.argwhere(mixing.dense()):
            edges[tuple(blocks.ranks_of(np.array([sender, receiver])))] += 1
        for pair, found in Crossings.of(mixing, blocks).rows.items():
            rows[pair] += len(set(found.tolist()))
    np.fill_diagonal(edges, 0)
    seen = [rank[topology, 10] for rank in exchanged]
    assert np.array_equal(np.stack([one["edges"] for one in seen]), edges * ROW_BYTES)
    assert np.array_equal(np.stack([one["sent"] for one in seen]), rows * ROW_BYTES)
    assert (rows <= edges).all()


def test_nothing_is_gathered_and_a_block_is_small(exchanged: list[Any]) -> None:
    for seen in (figures for rank in exchanged for figures in rank.values()):
        assert seen["gathers"] == 0
        assert 0 < seen["most"] <= programs.BLOCK < programs.COLUMNS


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return start(programs.studies, 2, tmp_path_factory.mktemp("studies"))


@pytest.mark.parametrize("name", list(programs.STUDIES))
def test_two_ranks_are_one_process(studied: list[Any], name: str) -> None:
    """Models and what is made of them: to the bit; distances: to rounding in float64."""
    params, options = programs.STUDIES[name]
    alone = digits_study(params, options=options)
    moments = list(alone.moments())
    first, second = (rank[name] for rank in studied)
    for place, own in ((1, alone.crew.fleet.parameters), (2, alone.crew.fleet.statistics)):
        both = torch.cat([programs.plain(first[place]), programs.plain(second[place])])
        assert torch.equal(both, own)
    assert first[0] == second[0], "every rank sees the same"
    for one, other in zip(moments, first[0], strict=True):
        assert one.accuracies == other.accuracies
        assert (one.loss, one.messages, one.bytes) == (other.loss, other.messages, other.bytes)
        assert other.trained == pytest.approx(one.trained, rel=1e-12)
        assert other.mixed == pytest.approx(one.mixed, rel=1e-12)


def test_a_failure_ends_all_ranks(tmp_path: Path) -> None:
    (diverged, failed), (own_diverged, own_failed) = start(programs.failures, 2, tmp_path)
    assert type(diverged) is type(own_diverged) is Diverged
    assert str(diverged) == str(own_diverged)
    assert str(diverged).startswith("node 2, round 1")
    assert isinstance(failed, RankLost)
    assert str(failed) == "rank 1 failed: ValueError: the user's own"
    assert isinstance(own_failed, ValueError)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (programs.dying, "fell silent 3 s ago"),
        (programs.cut, "ended or hangs; its own output says why"),
    ],
)
def test_a_killed_rank_ends_the_others_with_its_name(
    tmp_path: Path, program: programs.Program, said: str
) -> None:
    *others, killed = start(program, 3, tmp_path)
    assert killed == -signal.SIGKILL
    for end in others:
        assert isinstance(end, RankLost)
        assert str(end).startswith("rank 2 (")
        assert str(end).endswith(said)


@pytest.mark.faults
def test_a_rank_that_hangs_is_waited_for_only_so_long(tmp_path: Path) -> None:
    *others, hung = start(programs.hanging, 3, tmp_path, hangs=2)
    assert hung is None
    for end in others:
        assert isinstance(end, RankLost)
        assert str(end).startswith("rank 2 (")
        assert str(end).endswith("fell silent 3 s ago")


def test_a_rank_that_fails_by_itself_leaves_word(tmp_path: Path) -> None:
    ends = start(programs.leaving, 3, tmp_path)
    assert isinstance(ends[1], OSError)
    for end in (ends[0], ends[2]):
        assert isinstance(end, RankLost)
        assert str(end).endswith("failed: OSError: no space left on device")
        assert str(end).startswith("rank 1 (")


def test_a_rank_that_leaves_before_all_are_connected_is_told_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(torch.distributed, "init_process_group", refused)
    monkeypatch.setattr("weft.simulations.engines.hearts.LOOKS_AFTER_FAILURE", 1)
    with (
        pytest.raises(RankLost, match="connection closed by peer"),
        joined(url=f"file://{tmp_path}/store", rank=0, size=1),
    ):
        pass


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    (end,) = start(programs.nothing, 2, tmp_path, ranks=range(1))
    assert isinstance(end, RankLost)
    assert str(end) == "rank 1 of 2 did not come within 2 s; see its output"


def test_without_torchrun_there_is_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadOption, match="start the distributed engine with torchrun"), joined():
        pass


def test_a_rank_without_a_device_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(BadOption, match="found 1 CUDA devices"), joined("cuda"):
        pass
