"""Files: what is refused, and in which words; which cells are the same."""

from pathlib import Path
from typing import Any

import pytest

from tests.simulations.experiments.documents import read, silent, tiny
from weft.errors import InvalidInput
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.reading import load_experiment
from weft.simulations.experiments.runner import perform

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def only(document: dict[str, Any], folder: Path = Path()) -> Cell:
    (cell,) = read(document, folder).cells
    return cell


def one_seed(**task: Any) -> dict[str, Any]:
    return tiny(experiment={"seeds": 0}, task=task)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment = 3\n", "experiment: "),
        ("[experiment]\nname = 'x'\nronds = 3\n", "nearest valid key experiment.rounds"),
        ("[experiment]\nname = 'x'\n[topologie]\ngraph = 'ring'\n", "nearest valid key topology"),
        ("[experiment]\nname = 'x'\n[task]\ngraph = 'ring'\n", "nearest valid key topology.graph"),
        ("[experiment]\nname = 'x'\nrounds = 2.5\n", "experiment.rounds: expected a valid integer"),
        ("[experiment]\nname = 'x'\nrounds = '3'\n", "experiment.rounds: expected a valid integer"),
        ("[experiment]\nname = 'x'\n[task]\nnodes = [8, 0]\n", "task.nodes: "),
        ("[experiment]\nname = 'x'\nengine = 'locla'\n", "experiment.engine: expected 'local'"),
        ("[experiment]\nrounds = 3\n", "experiment.name: missing"),
        ("[experiment]\nname = ['x', 'y']\n", "experiment.name: found 2, expected one"),
        ("[experiment]\nname = 'x'\nname = 'y'\n", "not TOML"),
        ("arm = 3\n", r"arm: found no tables, expected \[\[arm\]\]"),
        ("[[arm]]\nname = ''\n", "arm 0: found no name"),
        ("[[arm]]\nname = 'a'\n[[arm]]\nname = 'a'\n", "found two arms 'a'"),
        ("[experiment]\nname='x'\n[task]\noptions.a = 1\n", "options are those of a trainer"),
        ("[experiment]\nname='x'\n[task]\ntrainer='a:B'\nlr=1.0\n", "a trainer knows its own lr"),
    ],
)
def test_mistakes_name_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_mistake_in_an_arm_names_the_arm() -> None:
    document = tiny() | {"arm": [{"name": "fine"}, {"name": "bad", "topology": {"grpah": "ring"}}]}
    with pytest.raises(InvalidInput, match=r"some.toml, arm 'bad': topology.grpah: unknown key"):
        read(document)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadExperiment, match=r"none.toml: no such file"):
        load_experiment(tmp_path / "none.toml")


def test_arms_and_sweeps_make_cells_in_order() -> None:
    document = tiny(topology={"graph": ["ring", "complete"]}) | {
        "arm": [{"name": "a"}, {"name": "b", "topology": {"graph": "star"}, "task": {"lr": [0.1]}}]
    }
    experiment = read(document)
    assert experiment.keys == ("topology.graph", "task.lr")
    assert [(cell.line, cell.settings.experiment.seed) for cell in experiment.cells] == [
        ("a, graph ring", 0),
        ("a, graph ring", 1),
        ("a, graph complete", 0),
        ("a, graph complete", 1),
        ("b, lr 0.1", 0),
        ("b, lr 0.1", 1),
    ]
    assert list(experiment.lines) == ["a, graph ring", "a, graph complete", "b, lr 0.1"]


def test_set_comes_before_the_arms() -> None:
    document = tiny() | {"arm": [{"name": "a"}, {"name": "b", "task": {"steps": 7}}]}
    cells = read(document, Path(), "task.steps=3", "experiment.seeds=4").cells
    assert [cell.settings.task.steps for cell in cells] == [3, 7]
    assert {cell.settings.experiment.seed for cell in cells} == {4}


def test_cells_that_would_run_alike_have_one_id() -> None:
    before = only(one_seed()).id
    assert len(before) == 12
    assert only(one_seed()).id == before
    assert only(tiny(experiment={"seeds": 0, "name": "other"})).id == before
    assert only(tiny(experiment={"seeds": 0, "final_merge": False})).id == before
    arms = {"arm": [{"name": "merged"}, {"name": "not", "experiment": {"final_merge": False}}]}
    experiment = read(one_seed() | arms)
    assert len(experiment.cells) == 2
    assert [cell.id for cell in experiment.studies] == [before]


@pytest.mark.parametrize(
    "changed",
    [
        tiny(experiment={"seeds": 1}),
        tiny(experiment={"seeds": 0, "rounds": 3}),
        tiny(experiment={"seeds": 0}, topology={"weights": "uniform"}),
        tiny(experiment={"seeds": 0}, schedule={"options": {"k": 2}}),
        tiny(experiment={"seeds": 0}, task={"lr": 0.1}),
    ],
)
def test_cells_that_would_not_have_others(changed: dict[str, Any]) -> None:
    assert only(changed).id != only(one_seed()).id


def test_data_count_by_their_bytes(tmp_path: Path) -> None:
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.npz").write_bytes(data)
    ids = [only(one_seed(data="task.npz"), tmp_path / name).id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    (tmp_path / "a" / "task.npz").write_bytes(b"three")
    assert only(one_seed(data="task.npz"), tmp_path / "a").id not in ids


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none.npz: cannot be read: No such file"):
        assert only(one_seed(data="none.npz"), tmp_path).id


def test_one_value_and_a_list_of_it_are_one_cell() -> None:
    assert only(silent(task={"nodes": [6]})).id == only(silent()).id


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_files_of_the_house_can_be_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist.npz").write_bytes(b"")
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert len(experiment.cells) > 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": {"decay": float("nan")}}, "task.decay: expected a finite number, found nan"),
        ({"task": {"decay": -1.0}}, "task.decay: expected greater than or equal to 0"),
        ({"learning": {"options": {"gamma": float("inf")}}}, "a finite number or .*, found inf"),
        ({"time": {"step_seconds": float("inf")}}, "time.step_seconds: expected a finite number"),
        ({"time": {"model_bytes": True}}, "time.model_bytes: expected a valid number or"),
        ({"experiment": {"seeds": 2**63}}, "experiment.seeds: expected less than or equal to 9"),
        ({"experiment": {"threads": 100_000}}, "experiment.threads: expected less than or equal"),
        ({"task": 3}, "task: expected a table, found 3"),
        ({"arm": []}, "arm: found no tables"),
        ({"arm": [{"name": "two\nlines"}]}, r"arm 'two\\nlines': found no printable name"),
    ],
)
def test_what_a_study_could_not_take_is_refused_first(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(silent() | changed if "arm" in changed or changed == {"task": 3} else tiny(**changed))


def test_the_largest_seed_trains() -> None:
    assert perform(only(tiny(experiment={"seeds": 2**63 - 1}))).moments
