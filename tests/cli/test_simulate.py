"""`weft simulate`: what it prints, how it ends, how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from weft.cli.__main__ import main
from weft.simulations.experiments import runner
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.host import Host
from weft.simulations.experiments.records import Record

FILE = """
[experiment]
name = "small"
engine = "gossip"
rounds = 3
seeds = [0, 1]
[task]
nodes = 8
[topology]
graph = ["ring", "complete"]
"""


class Desk:
    """Types commands beside an experiment's file."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def types(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main(["simulate", *words])
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def reads(self, *words: str) -> Any:
        """The document."""
        code, out, err = self.types(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def mistakes(self, *words: str) -> str:
        """The one line of a command that is refused."""
        code, out, err = self.types(*words)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1, err
        return err


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(FILE)
    return Desk(capsys)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.simulations.experiments.plots.can_draw", lambda: False)


def test_a_person_gets_a_table_and_a_report(desk: Desk) -> None:
    code, out, _ = desk.types("small.toml")
    assert code == 0
    for wanted in ("graph ring", "graph complete", "weft-simulations/small/report.html", "0.8"):
        assert wanted in out
    folder = Path("weft-simulations/small")
    for name in ("rounds.csv", "cells.csv", "summary.json", "report.html", "distance.png"):
        assert (folder / name).is_file()


@pytest.mark.usefixtures("no_pictures")
def test_the_document_is_the_summary(desk: Desk) -> None:
    document = desk.reads("small.toml", "--out", "there")
    assert document == json.loads(Path("there/summary.json").read_text())
    ring, complete = document["lines"]
    # 8 nodes hear two of them in each of three rounds; the final merge moves 14 models.
    assert ring["figures"]["messages"]["mean"] == 8 * 2 * 3 + 14
    assert complete["figures"]["messages"]["mean"] == 8 * 7 * 3 + 14


@pytest.mark.usefixtures("no_pictures")
def test_it_says_that_there_are_no_pictures(desk: Desk) -> None:
    code, _, err = desk.types("small.toml")
    assert code == 0
    assert err.splitlines() == [
        "weft: no pictures: matplotlib is not installed; its extra is 'plots'"
    ]


def test_a_plan_runs_nothing(desk: Desk) -> None:
    document = desk.reads("small.toml", "--plan", "--set", "experiment.final_merge=false")
    assert [(cell["swept"], cell["messages"]) for cell in document["cells"]] == [
        ({"topology.graph": graph, "experiment.seeds": seed}, messages)
        for graph, messages in (("ring", 48), ("complete", 168))
        for seed in (0, 1)
    ]
    assert document["cells"][0]["bytes"] == 48 * 4_000_000
    _, out, _ = desk.types("small.toml", "--plan")
    assert "4 cells, 4 studies to run" in out
    assert not Path("weft-simulations").exists()


@pytest.mark.usefixtures("no_pictures")
def test_set_changes_the_file(desk: Desk) -> None:
    words = ("--set", "experiment.seeds=3", "--set", "topology.graph=star")
    (line,) = desk.reads("small.toml", *words)["lines"]
    assert (line["name"], line["seeds"]) == ("star", 1)


@pytest.mark.usefixtures("no_pictures")
def test_without_a_file(desk: Desk) -> None:
    words = ("--topology", "ring", "--nodes", "16", "--engine", "gossip", "--rounds", "2")
    (line,) = desk.reads(*words)["lines"]
    assert line["name"] == "ring"
    assert line["figures"]["spectral_gap"]["mean"] == pytest.approx(0.0507, abs=5e-5)
    several = desk.reads(*words, "--set", "task.nodes=[4, 5]", "--plan")
    assert [cell["swept"]["task.nodes"] for cell in several["cells"]] == [4, 5]
    trained = desk.reads("--task", "digits", "--nodes", "2", "--rounds", "1")
    assert trained["lines"][0]["figures"]["accuracy"]["mean"] > 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found neither a file nor options"),
        (["none.toml"], "none.toml: no such file"),
        (["small.toml", "--nodes", "4"], "with a file say --set task.nodes=4"),
        (["small.toml", "--set", "task.noes=4"], "task.noes: unknown key, nearest valid key"),
        (["small.toml", "--set", "nodes=4"], "--set: found 'nodes=4'"),
        (["--topology", "rign"], "did you mean 'ring'"),
        (["--topology", "random_regular", "--nodes", "5"], "no 3-regular graph of 5 nodes"),
        (["--engine", "locla"], "experiment.engine: expected 'local'"),
        (["small.toml", "--set", "experiment.device=cuda"], "with the engine gossip"),
        (["small.toml", "--set", "time.up_mbt=3"], "did you mean 'up_mbit'"),
        (["small.toml", "--set", "time.model_bytes=heavy"], "heavy"),
        (
            ["small.toml", "--set", "experiment.engine=['local', 'distributed']"],
            "expected distributed for all cells or for none",
        ),
        (["small.toml", "--out", "small.toml"], "small.toml: is a file"),
        (["small.toml", "--out", "."], "holds files that no experiment wrote"),
    ],
)
def test_mistakes_are_one_line(desk: Desk, words: list[str], said: str) -> None:
    assert said in desk.mistakes(*words)


@pytest.mark.usefixtures("no_pictures")
def test_what_is_there_is_not_run_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = desk.reads("small.toml", "--out", "whole")
    perform = runner.perform
    done: list[str] = []

    def interrupted(cell: Cell, watch: runner.Watch, host: Host) -> Record:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell.id)
        return perform(cell, watch, host)

    monkeypatch.setattr(runner, "perform", interrupted)
    code, out, err = desk.types("small.toml", "--out", "stopped")
    assert (code, out) == (130, "")
    assert "stopped; 2 of 4 are in stopped: the same command goes on from there" in err
    assert not Path("stopped/cells.csv").exists()
    monkeypatch.setattr(runner, "perform", perform)
    code, _, err = desk.types("small.toml", "--out", "stopped")
    assert code == 0
    assert "2 of 4 are in stopped" in err
    assert json.loads(Path("stopped/summary.json").read_text()) == whole


@pytest.mark.usefixtures("no_pictures")
def test_predicted_time_stands_beside_the_bytes(desk: Desk) -> None:
    words = ["--set", "time.round_seconds=10", "--set", "time.model_bytes=140 GB"]
    words += ["--set", "time.up_mbit=[200, 400]", "--set", "topology.graph=ring"]
    words += ["--set", "experiment.seeds=0", "--set", "experiment.final_merge=false"]
    slow, fast = desk.reads("small.toml", *words, "--plan")["cells"]
    # Three rounds: 10 s, and 2 models of 140 GB up, over 200 or 400 Mbit/s.
    assert slow["seconds"] == pytest.approx(3 * (10 + 2 * 140e9 * 8 / 200e6), rel=1e-6)
    assert fast["seconds"] == pytest.approx(3 * (10 + 2 * 140e9 * 8 / 400e6), rel=1e-6)
    assert slow["cell"] == fast["cell"], "links change nothing that is run"
    code, out, _ = desk.types("small.toml", *words, "--out", "there")
    assert code == 0
    assert "9.34 h" in out
    assert len(list(Path("there/cells").iterdir())) == 1


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_two_ranks_give_what_one_process_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under torchrun the first rank alone prints and writes."""
    words = ["simulate", "--task", "digits", "--nodes", "4", "--rounds", "2", "--json"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", "-m", "weft.cli", *words, "--engine", "distributed"]
    done = subprocess.run(
        [*torchrun, "--out", str(tmp_path / "ranks")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ranks = json.loads(done.stdout)["lines"][0]["figures"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)["lines"][0]["figures"]
    assert ranks.keys() == one.keys()
    for key, found in one.items():
        assert ranks[key]["mean"] == pytest.approx(found["mean"], rel=1e-4), key


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_can_go_on(tmp_path: Path, number: signal.Signals) -> None:
    """A real interrupt and a real kill, in the middle of a long third cell."""
    file, out = tmp_path / "long.toml", tmp_path / "out"
    long = FILE.replace("rounds = 3", "rounds = [3, 200000]").replace('"small"', '"long"')
    file.write_text(long.replace("[0, 1]", "0").replace('"complete"', '"star"'))
    command = [sys.executable, "-m", "weft.cli", "simulate", str(file), "--out", str(out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 100
    while len(list(out.glob("cells/*.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    assert "Traceback" not in err
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert len(before) == 2
    assert main(["simulate", str(file), "--out", str(out), "--set", "experiment.rounds=3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")} == before


LOUD = """
import os
import torch
print("imported")
class Loud:
    def __init__(self, node): print("made", node)
    def model(self): return torch.nn.Linear(2, 2)
    def train(self, model, round):
        print("trains", flush=True)
        os.write(1, b"below python")
        return {"loss": 1.0}
    def evaluate(self, model): return {"accuracy": 0.5}
"""


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_what_a_trainer_prints_is_not_in_the_document(tmp_path: Path) -> None:
    """Neither what it prints here, nor what it prints in a worker."""
    (tmp_path / "loud.py").write_text(LOUD)
    command = [sys.executable, "-m", "weft.cli", "simulate", "-n", "2", "--rounds", "1", "--json"]
    command += ["--set", "task.trainer=loud:Loud", "--set", 'task.options.node="{node}"']
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "simulation"
    for said in ("imported", "made 1", "trains", "below python"):
        assert said in done.stderr
