"""Cells run once, are kept whole, and give the same bytes however often they were stopped."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Never

import pytest
import torch

from tests.simulations.experiments.documents import Document, read, silent, tiny
from weft.checkpoints.errors import BadPath
from weft.simulations.errors import BadExperiment, Diverged, OtherExperiment
from weft.simulations.experiments import runner
from weft.simulations.experiments.checks import check
from weft.simulations.experiments.records import Record, ResultsFolder
from weft.simulations.experiments.results import CELLS_TABLE, ROUNDS, SUMMARY, write_results
from weft.simulations.experiments.runner import pending, perform, run
from weft.simulations.study import Accuracies, Moment

TRAINER = """
import torch
from torch import nn


class Own:
    def __init__(self, node: int, name: str, rate: float = 0.1):
        assert name == f"part-{node}-of-2", name
        self.node, self.rate = node, rate

    def model(self):
        return nn.Linear(2, 1)

    def train(self, model, round):
        with torch.no_grad():
            model.bias += self.rate * (self.node + 1)
        return {"loss": 1.0}

    def evaluate(self, model):
        return {"accuracy": float(model.bias)}
"""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.simulations.experiments.plots.can_draw", lambda: False)


class Stopped(Exception):
    """Stands for whatever ends a process."""


def finished(document: Document, path: Path) -> dict[str, bytes]:
    experiment, folder = read(document), ResultsFolder(path)
    folder.claim(experiment.name)
    run(pending(experiment, folder), folder)
    write_results(experiment, folder)
    return {name: (path / name).read_bytes() for name in (ROUNDS, CELLS_TABLE, SUMMARY)}


def test_the_same_file_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    document = tiny(topology={"graph": ["ring", "complete"]})
    one, other = (finished(document, tmp_path / name) for name in ("one", "other"))
    assert one == other
    assert one[ROUNDS].count(b"\n") == 1 + 2 * 2 * 2
    assert one[CELLS_TABLE].count(b"\n") == 1 + 2 * 2


def test_a_stopped_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    experiment, folder = read(tiny()), ResultsFolder(tmp_path / "stopped")
    folder.claim(experiment.name)

    def stop_in_the_second(cell: object, moment: Moment) -> None:
        if cell is experiment.cells[1]:
            raise Stopped

    with pytest.raises(Stopped):
        run(pending(experiment, folder), folder, stop_in_the_second)
    assert pending(experiment, folder) == [experiment.cells[1]]
    with pytest.raises(BadExperiment, match="was not run"):
        write_results(experiment, folder)
    kept = folder.path / "cells" / f"{experiment.cells[0].id}.json"
    before = kept.stat().st_mtime_ns
    assert finished(tiny(), folder.path) == finished(tiny(), tmp_path / "whole")
    assert kept.stat().st_mtime_ns == before, "a cell that is there does not run again"
    assert [path.name for path in (folder.path / "cells").iterdir() if path.suffix != ".json"] == []


def test_changed_settings_run_anew_and_the_rest_stays(tmp_path: Path) -> None:
    finished(silent(), tmp_path / "out")
    folder = ResultsFolder(tmp_path / "out")
    more = read(silent(task={"nodes": [6, 7]}))
    assert [cell.swept["task.nodes"] for cell in pending(more, folder)] == [7]
    assert len(pending(read(silent(experiment={"rounds": 5})), folder)) == 1


def test_a_folder_belongs_to_one_experiment(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "out").claim("one")
    ResultsFolder(tmp_path / "out").claim("one")
    with pytest.raises(OtherExperiment, match="holds the results of the experiment 'one'"):
        ResultsFolder(tmp_path / "out").claim("other")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(OtherExperiment, match="files that no experiment wrote"):
        ResultsFolder(tmp_path / "precious").claim("one")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OtherExperiment, match="is a file"):
        ResultsFolder(tmp_path / "file").claim("one")
    (tmp_path / "precious" / "experiment.json").write_text("{}")
    with pytest.raises(OtherExperiment, match="not what an experiment wrote"):
        ResultsFolder(tmp_path / "precious").claim("one")


def test_a_claim_that_was_cut_short_can_be_made_again(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "out")
    folder.claim("silent")
    (folder.path / "cells").rmdir()
    folder.claim("silent")
    folder.save(perform(read(silent()).cells[0]))


def test_a_folder_that_cannot_be_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    for name, said in (("link", "File exists"), ("x" * 300, "File name too long")):
        with pytest.raises(BadPath, match=f"{said}; give another folder"):
            ResultsFolder(tmp_path / name).claim("one")


def test_the_record_of_another_cell_is_none(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "out")
    folder.claim("silent")
    record = perform(read(silent()).cells[0])
    (folder.path / "cells" / "0.json").write_text(record.text())
    with pytest.raises(BadExperiment, match=f"it is the cell {record.cell}.; remove it"):
        folder.load("0")
    path = folder.path / "cells" / f"{record.cell}.json"
    path.write_text(record.text().replace('"drift": ', '"drift": "none", "was": '))
    with pytest.raises(BadExperiment, match=r"drift is 'none'.; remove it"):
        folder.load(record.cell)


def test_a_device_that_is_not_here_is_refused_before_the_first_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = read(tiny(experiment={"engine": "stacked"})).cells
    there = read(tiny(experiment={"engine": "stacked", "device": "cuda"})).cells
    folder = ResultsFolder(tmp_path / "out")
    folder.claim("tiny")
    with pytest.raises(BadExperiment, match=r"^cell .*: experiment.device: .* no CUDA device here"):
        run([*here, *there], folder)
    assert not list((folder.path / "cells").iterdir())


def test_an_error_says_which_cell_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Never:
        raise RuntimeError("own")

    monkeypatch.setattr(runner, "build", failing)
    cell = read(silent()).cells[0]
    with pytest.raises(RuntimeError) as caught:
        run([cell], ResultsFolder(tmp_path / "out"))
    assert caught.value.__notes__ == [f"in {cell.title}"]


def test_a_kept_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    trained = perform(read(tiny(experiment={"evaluate_every": 0})).cells[0])
    assert Record.read(trained.text()) == trained
    record = perform(read(silent()).cells[0])
    assert Record.read(record.text()).text() == record.text(), "its losses are no numbers"
    odd = replace(
        trained.moments[-1],
        trained=math.inf,
        accuracies=Accuracies(mean=math.nan, worst=0.0, best=1.0, merged=0.5),
    )
    again = Record.read(replace(trained, moments=[odd]).text()).moments[0]
    assert math.isnan(again.trained)
    assert again.accuracies is not None
    assert math.isnan(again.accuracies.mean)
    assert again.accuracies.merged == 0.5
    folder = ResultsFolder(tmp_path / "out")
    folder.claim("silent")
    folder.save(record)
    path = folder.path / "cells" / f"{record.cell}.json"
    path.write_text(json.dumps({"moments": []}))
    with pytest.raises(BadExperiment, match="remove it to run the cell again"):
        folder.load(record.cell)


def test_accuracies_are_measured_when_asked_for() -> None:
    record = perform(read(tiny(experiment={"seeds": 0, "rounds": 5, "evaluate_every": 2})).cells[0])
    assert [moment.accuracies is not None for moment in record.moments] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_what_diverges_stops_or_is_recorded(tmp_path: Path) -> None:
    wild = {"lr": 1e30, "steps": 3}
    with pytest.raises(Diverged, match=r"cell \w+ \(ring, seed 0\): node 0, round 0"):
        perform(read(tiny(task=wild)).cells[0])
    document = tiny(experiment={"diverged": "record"}, task={**wild, "lr": [1e30, 0.1]})
    tables = finished(document, tmp_path / "out")
    summary = json.loads(tables[SUMMARY])
    assert [line["diverged"] for line in summary["lines"]] == [2, 0]
    assert "accuracy" not in summary["lines"][0]["figures"]
    assert summary["lines"][1]["figures"]["accuracy"]["mean"] > 0


def test_threads_are_given_back() -> None:
    import torch

    before = torch.get_num_threads()
    perform(read(silent(experiment={"threads": before + 1})).cells[0])
    assert torch.get_num_threads() == before


def test_a_trainer_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own_task.py").write_text(TRAINER)
    document = {
        "experiment": {"name": "own", "rounds": 3},
        "task": {
            "nodes": 2,
            "trainer": "own_task:Own",
            "options": {"node": "{node}", "name": "part-{node}-of-{nodes}"},
        },
        "topology": {"graph": "complete"},
    }
    experiment = read(document, tmp_path)
    assert set(check(experiment).values()) == {3}
    moments = perform(experiment.cells[0]).moments
    # Two nodes push by 0.1 and 0.2 a round and meet in the middle.
    first = moments[0].accuracies
    assert first is not None
    for moment in moments:
        assert moment.accuracies is not None
        assert moment.accuracies.mean == pytest.approx(first.mean + 0.15 * moment.round, abs=1e-6)
    assert moments[0].trained == pytest.approx(0.05, abs=1e-6)


def test_a_trainer_that_is_the_same_for_all_nodes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own_task.py").write_text(TRAINER)
    document = {
        "experiment": {"name": "own"},
        "task": {"nodes": 2, "trainer": "own_task:Own", "options": {"node": 0, "name": "x"}},
    }
    with pytest.raises(BadExperiment, match="found none that depends on the node"):
        check(read(document, tmp_path))
