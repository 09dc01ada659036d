"""`weft topology`: the figures, the refusals, the options, the picture."""

import json
import sys
from pathlib import Path

import pytest

from weft.cli.__main__ import main

TABLE = {
    # nodes: ring, two hubs, static exponential, star, path: the published gaps.
    4: (0.6667, 0.6600, 0.6667, 0.2500, 0.1953),
    5: (0.4607, 0.5000, 0.7500, 0.2000, 0.1273),
    8: (0.1953, 0.2800, 0.5000, 0.1250, 0.0507),
    10: (0.1273, 0.2200, 0.4000, 0.1000, 0.0326),
    16: (0.0507, 0.1200, 0.4000, 0.0625, 0.0128),
    20: (0.0326, 0.1000, 0.3333, 0.0500, 0.0082),
    32: (0.0128, 0.0600, 0.3333, 0.0312, 0.0032),
}
GRAPHS = ("ring", "two_hub", "exponential", "star", "path")


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def document(self, *arguments: str) -> dict[str, object]:
        assert main(["topology", *arguments, "--json"]) == 0
        found = json.loads(self.capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    def refusal(self, *arguments: str) -> str:
        assert main(["topology", *arguments, "--json"]) == 2
        shown = self.capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        return shown.err


@pytest.fixture
def weft(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.mark.parametrize("nodes", TABLE)
def test_the_whole_table(weft: Command, nodes: int) -> None:
    for name, gap in zip(GRAPHS, TABLE[nodes], strict=True):
        found = weft.document(name, "--nodes", str(nodes))["spectral_gap"]
        assert isinstance(found, float)
        assert abs(found - gap) <= 5.1e-5, (name, found)


@pytest.mark.parametrize(
    ("name", "nodes", "gap"), [("torus", 16, 0.4), ("torus", 32, 0.1172), ("complete", 9, 1.0)]
)
def test_the_rest_of_the_table(weft: Command, name: str, nodes: int, gap: float) -> None:
    assert weft.document(name, "-n", str(nodes))["spectral_gap"] == pytest.approx(gap, abs=5.1e-5)


def test_the_document_of_a_ring(weft: Command) -> None:
    assert weft.document("ring", "--nodes", "16", "--model-bytes", "500MB") == {
        "name": "ring",
        "nodes": 16,
        "weights": "own",
        "schedule": "every",
        "seed": 0,
        "period": 1,
        "directed": False,
        "push_sum": False,
        "spectral_gap": pytest.approx(0.0507, abs=5e-5),
        "degrees": [2] * 16,
        "rounds_to_agreement": 133,
        "tolerance": 0.001,
        "messages_per_round": 32,
        "model_bytes": 500_000_000,
        "bytes_per_round": 16_000_000_000,
    }


@pytest.mark.parametrize("name", [*GRAPHS, "complete", "torus", "base_k", "random_matching"])
def test_one_and_two_nodes(weft: Command, name: str) -> None:
    one = weft.document(name, "-n", "1")
    assert (one["spectral_gap"], one["rounds_to_agreement"], one["messages_per_round"]) == (1, 0, 0)
    two = weft.document(name, "-n", "2")
    assert two["spectral_gap"] == pytest.approx(1)
    assert (two["degrees"], two["rounds_to_agreement"]) == ([1, 1], 1)


def test_a_person_gets_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "star", "--nodes", "8", "--model-bytes", "1GiB"]) == 0
    shown = capsys.readouterr().out
    for part in ("star, 8 nodes", "0.1250", "1 to 7", "rounds to agreement", "14", "14.0 GiB"):
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["path", "-n", "300"], "3.66e-05"),
        (["ring", "-n", "500", "--schedule", "sparse"], "not known"),
        (["path", "-n", "30", "--schedule", "late"], "not reached"),
        (["ring", "-n", "2000"], "4,000"),
    ],
)
def test_figures_for_a_person(
    capsys: pytest.CaptureFixture[str], arguments: list[str], shown: str
) -> None:
    assert main(["topology", *arguments]) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rign", "-n", "4"], "graph 'rign' is not known; did you mean 'ring'?"),
        (["ring"], "--nodes: found none"),
        (["ring", "-n", "0"], "--nodes: found 0"),
        (["ring", "-n", "4", "--weights", "metro"], "weights 'metro' is not known"),
        (["ring", "-n", "4", "--schedule", "evry"], "schedule 'evry' is not known"),
        (["hypercube", "-n", "6"], "graph hypercube: found 6 nodes, expected a power of two"),
        (["random_regular", "-n", "5"], "there is no 3-regular graph of 5 nodes"),
        (["star", "-n", "5", "--weights", "uniform"], "graph star, weights uniform"),
        (["base_k", "-n", "5", "--weights", "metropolis"], "base_k: found weights metropolis"),
        (["ring", "-n", "4", "-o", "k"], "--option: found 'k', expected KEY=VALUE"),
        (["ring", "-n", "4", "-o", "q=1"], "--option: option 'q' is not known"),
        (["ring", "-n", "4", "-o", "k=x"], "schedule every: option k: found 'x', expected int"),
        (["ring", "-n", "4", "-o", "graph.k=1"], "graph ring: option 'k' is not known"),
        (["ring", "-n", "4", "--model-bytes", "many"], "--model-bytes: found 'many'"),
        (["ring", "-n", "4", "--model-bytes", "1XB"], "--model-bytes: found '1XB'"),
        (["ring", "-n", "4", "--model-bytes", "infMB"], "--model-bytes: found 'infMB'"),
        (["ring", "-n", "4", "--weights", "hastings"], "hastings: found none data sizes"),
        (["ring", "-n", "2", "--weights", "hastings", "--data-sizes", "1;2"], "found '1;2'"),
        (["file", "-n", "4"], "graph 'file': found no --file"),
        (["ring", "-n", "4", "--file", "x.gml"], "--file: found the graph 'ring'"),
        (["complete", "-n", "100000"], "graph complete: found 10000000000 weights"),
    ],
)
def test_mistakes_are_one_line(weft: Command, arguments: list[str], message: str) -> None:
    assert message in weft.refusal(*arguments)


def test_options_go_to_whom_they_belong(weft: Command) -> None:
    third = weft.document("ring", "-n", "9", "-o", "k=3")
    assert (third["period"], third["messages_per_round"]) == (3, 6)
    wide = weft.document("base_k", "-n", "9", "-o", "k=2")
    assert (wide["period"], wide["rounds_to_agreement"]) == (2, 2)
    both = weft.document("base_k", "-n", "9", "-o", "graph.k=2", "-o", "schedule.k=5")
    assert both["period"] == 10
    drifting = weft.document("star", "-n", "5", "--weights", "uniform", "-o", "drift=true")
    assert drifting["messages_per_round"] == 8
    sparse = weft.document(
        *("complete", "-n", "20", "--schedule", "sparse", "--weights", "push_sum"),
        *("-o", "pairs_per_node=0.5", "-o", "one_way=true", "--seed", "3"),
    )
    assert (sparse["messages_per_round"], sparse["directed"], sparse["push_sum"]) == (
        10,
        True,
        True,
    )
    sized = weft.document("star", "-n", "3", "--weights", "hastings", "--data-sizes", "1,2,3")
    assert sized["weights"] == "hastings"


def test_silence_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "ring", "-n", "4", "--schedule", "final_only", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["rounds_to_agreement"] is None
    assert "all rests on the final merge" in shown.err


def test_a_hundred_thousand_nodes(weft: Command) -> None:
    found = weft.document("one_peer_exponential", "-n", "100000", "--model-bytes", "1GB")
    assert found["period"] == 17
    assert found["messages_per_round"] == 100_000
    assert found["bytes_per_round"] == 10**14


def test_a_file(weft: Command, tmp_path: Path) -> None:
    path = tmp_path / "square.edgelist"
    path.write_text("d a\na b\nb c\nc d\n")
    found = weft.document("file", "--file", str(path))
    assert (found["nodes"], found["degrees"]) == (4, [2, 2, 2, 2])
    assert found["spectral_gap"] == pytest.approx(2 / 3)
    assert "found node 3 in an edge" in weft.refusal("file", "--file", str(path), "-n", "3")
    assert "found 2 parts" in weft.refusal("file", "--file", str(path), "-n", "5")


@pytest.mark.parametrize(
    "arguments",
    [
        ["base_k", "-n", "25", "-o", "k=2"],
        ["exponential", "-n", "12"],
        ["complete", "-n", "40", "--schedule", "sparse"],
        ["ring", "-n", "400"],
        ["ring", "-n", "1"],
        ["ring", "-n", "5", "--schedule", "final_only"],
    ],
)
def test_a_picture(weft: Command, tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "picture.png"
    weft.document(*arguments, "--plot", str(path))
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_a_picture_that_cannot_be_written(weft: Command, tmp_path: Path) -> None:
    where = str(tmp_path / "picture.docx")
    assert f"--plot {where}: cannot be written" in weft.refusal("ring", "-n", "4", "--plot", where)
    nowhere = str(tmp_path / "no" / "picture.png")
    assert "cannot be written" in weft.refusal("ring", "-n", "4", "--plot", nowhere)


def test_a_picture_without_matplotlib(
    weft: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refusal = weft.refusal("ring", "-n", "4", "--plot", str(tmp_path / "picture.png"))
    assert "install weft with its extra 'plots'" in refusal
