"""Rows and means, from moments written down by hand."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulations.experiments.documents import read, tiny
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.curves import drawn, panel_key
from weft.simulations.experiments.records import Record
from weft.simulations.experiments.tables import (
    Outcome,
    Spread,
    as_csv,
    cell_row,
    round_rows,
    summary,
)
from weft.simulations.experiments.tuning import chosen
from weft.simulations.study import Accuracies, Moment


def moment(round: int, merged: float, left: float = 0.5) -> Moment:
    return Moment(
        round=round,
        loss=1.0 / (round + 1),
        messages=6,
        bytes=100.0,
        trained=2.0,
        mixed=2.0 * left,
        accuracies=Accuracies(mean=merged / 2, worst=0.1, best=0.9, merged=merged),
    )


def outcomes(document: dict[str, Any], merged: Sequence[float]) -> list[Outcome]:
    """One cell each, that ends with these accuracies."""
    cells = read(document).cells
    return [
        Outcome(
            cell=cell,
            record=Record(
                cell=cell.id,
                settings={},
                parameters=10,
                moments=[moment(0, 0.2), moment(1, final)],
            ),
        )
        for cell, final in zip(cells, merged, strict=True)
    ]


def test_rows_of_rounds() -> None:
    document = tiny(topology={"graph": ["ring", "complete"]})
    rows = list(round_rows(read(document), outcomes(document, [0.4, 0.6, 0.8, 1.0])))
    assert [row["bytes"] for row in rows] == [100.0, 200.0] * 4, "bytes are those so far"
    assert [row["topology.graph"] for row in rows] == ["ring"] * 4 + ["complete"] * 4
    assert [row["seed"] for row in rows] == [0, 0, 1, 1] * 2
    assert [row["round"] for row in rows] == [0, 1] * 4
    assert [row["accuracy_merged"] for row in rows[1::2]] == [0.4, 0.6, 0.8, 1.0]
    assert [row["accuracy_mean"] for row in rows[1::2]] == [0.2, 0.3, 0.4, 0.5]


def test_rows_of_cells_with_and_without_the_final_merge() -> None:
    merged, apart = (
        cell_row(read(document), outcomes(document, [0.4])[0])
        for merges in (True, False)
        for document in [tiny(experiment={"seeds": 0, "final_merge": merges})]
    )
    assert (merged["accuracy"], apart["accuracy"]) == (0.4, 0.2)
    # Twelve messages in two rounds; the merge of three nodes moves 2 * 2 models of ten floats.
    assert (merged["messages"], apart["messages"]) == (12 + 4, 12)
    assert (merged["bytes"], apart["bytes"]) == (200.0 + 4 * 40, 200.0)
    assert merged["contraction_measured"] == pytest.approx(0.5)
    # Three nodes on a ring are all neighbours: one exchange is exact.
    assert merged["contraction_predicted"] == pytest.approx(0, abs=1e-12)
    assert merged["spectral_gap"] == pytest.approx(1)


def test_means_and_deviations_over_seeds() -> None:
    document = tiny(topology={"graph": ["ring", "complete"]})
    experiment = read(document)
    ring, complete = summary(experiment, outcomes(document, [0.4, 0.6, 0.8, 0.8]))
    assert (ring.name, ring.seeds, dict(ring.swept)) == (
        "graph ring",
        2,
        {"topology.graph": "ring"},
    )
    assert ring.figures["accuracy"].mean == pytest.approx(0.5)
    assert ring.figures["accuracy"].deviation == pytest.approx(math.sqrt(0.02))
    assert complete.figures["accuracy"].deviation == 0


def test_a_line_counts_what_diverged_and_averages_the_rest() -> None:
    found = outcomes(tiny(), [0.4, 0.8])
    cut = replace(found[1].record, moments=found[1].record.moments[:1], diverged="node 0")
    (line,) = summary(read(tiny()), [found[0], replace(found[1], record=cut)])
    assert (line.seeds, line.diverged) == (2, 1)
    assert line.figures["accuracy_merged"] == Spread(0.4, None)
    assert line.figures["messages"] == Spread(12 + 4, None)


def test_the_spectrum_says_nothing_of_rules_that_do_more_than_to_mix() -> None:
    document = tiny(
        experiment={"seeds": 0},
        task={"nodes": 6},
        learning={"rule": ["gossip", "gradient_tracking", "exact_diffusion", "choco", "noloco"]},
    )
    experiment = read(document)
    mixing, *others = (
        cell_row(experiment, outcome)["contraction_predicted"]
        for outcome in outcomes(document, [0.4] * 5)
    )
    assert mixing == pytest.approx(2 / 3)
    assert all(isinstance(other, float) and math.isnan(other) for other in others)
    assert [
        line.bound is not None for line in drawn(experiment, outcomes(document, [0.4] * 5))
    ] == [
        True,
        *[False] * 4,
    ]


def test_of_a_tuned_key_each_line_shows_the_best_value() -> None:
    document = tiny(
        experiment={"tune": "task.lr"},
        topology={"graph": ["ring", "complete"]},
        task={"lr": [0.1, 0.2, 0.3]},
    )
    document = {"topology": document["topology"], **document}
    found = outcomes(document, [0.3, 0.3, 0.9, 0.1, 0.2, 0.2, 0.5, 0.5, 0.6, 0.6, 0.9, 0.9])
    # Complete at 0.3 would be best, had one of its seeds not diverged.
    found[-1] = replace(found[-1], record=replace(found[-1].record, diverged="node 0"))
    shown = chosen(found)
    assert [outcome.cell.line for outcome in shown] == [
        *["graph ring, lr 0.2"] * 2,
        *["graph complete, lr 0.2"] * 2,
    ]
    assert chosen(found[:1]) == found[:1]
    other = outcomes(tiny(task={"lr": [0.1, 0.2]}), [0.3, 0.3, 0.9, 0.9])
    assert chosen(other) == other, "what is swept and not tuned is shown"


def test_a_change_may_fix_a_tuned_key() -> None:
    document = tiny(experiment={"tune": "task.lr"}, task={"lr": [0.1, 0.2]})
    fixed = read(document, Path(), "task.lr=0.1")
    assert {cell.settings.task.lr for cell in fixed.cells} == {0.1}


def test_a_tuned_key_is_swept() -> None:
    with pytest.raises(BadExperiment, match=r"experiment.tune: found 'task.lr', expected a key"):
        read(tiny(experiment={"tune": "task.lr"}))


def test_what_is_not_known_does_not_count() -> None:
    assert Spread.of([None, math.nan, 3.0]) == Spread(3.0, None)
    assert Spread.of([None, math.inf]) is None


def test_csv_has_names_and_every_digit() -> None:
    text = as_csv([{"a": 0.1 + 0.2, "b": None, "c": "x,y"}, {"a": 1e-300, "b": 2, "c": ""}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert float(rows[0]["a"]) == 0.1 + 0.2
    assert rows[0]["b"] == ""
    assert rows[0]["c"] == "x,y"
    assert float(rows[1]["a"]) == 1e-300
    assert as_csv([]) == ""


def test_curves_are_means_over_seeds() -> None:
    document = tiny()
    (line,) = drawn(read(document), outcomes(document, [0.4, 0.6]))
    assert line.label == "ring"
    assert line.merged.x == [1, 2]
    assert line.merged.mean == pytest.approx([0.2, 0.5])
    assert line.merged.high[1] - line.merged.mean[1] == pytest.approx(math.sqrt(0.02))
    assert line.own_by_bytes.x == [100, 200]
    assert line.end is not None
    assert line.end == pytest.approx((360.0, 0.5))
    assert line.bound is not None
    assert line.bound.mean == pytest.approx([0, 0], abs=1e-12)


def test_many_lines_go_to_panels() -> None:
    document = tiny(
        experiment={"seeds": 0},
        topology={"graph": ["ring", "complete", "star", "path", "torus", "exponential"]},
        task={"nodes": [4, 8]},
    )
    experiment = read(document)
    assert panel_key(experiment, 10) is None
    assert panel_key(experiment, 12) == "task.nodes"
    lines = drawn(experiment, outcomes(document, [0.5] * 12))
    assert [line.panel for line in lines] == ["nodes 4"] * 6 + ["nodes 8"] * 6
    assert {line.label for line in lines if line.panel == "nodes 8"} == {
        f"graph {graph}" for graph in document["topology"]["graph"]
    }
