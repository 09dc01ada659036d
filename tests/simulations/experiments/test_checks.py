"""Before the first cell runs: what cannot be is refused with its cell, and bytes are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulations.experiments.documents import read, silent, tiny
from weft.errors import TrainingFailed
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.checks import check, plan
from weft.simulations.experiments.runner import perform
from weft.simulations.tasks.arrays import save_npz

P = 9610
"""Parameters of the mlp on digits: 64 * 128 + 128 + 128 * 10 + 10."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": {"nodes": [4, 5]}, "topology": {"graph": "random_regular"}},
            r"nodes 5, seed 0\): graph random_regular.*no 3-regular graph of 5 nodes",
        ),
        (
            {"task": {"nodes": 5}, "topology": {"graph": "star", "weights": "uniform"}},
            r"\(star, seed 0\): graph star, weights uniform.*found column",
        ),
        ({"task": {"nodes": 11, "split": "classes"}}, "10 classes for 11 nodes"),
        ({"task": {"nodes": 3, "split": "dirichlt"}}, "did you mean 'dirichlet'"),
        ({"task": {"model": "mpl"}}, "mpl"),
        ({"task": {"lr": -1.0}}, "lr = -1.0"),
        ({"topology": {"graph": "rign"}}, "did you mean 'ring'"),
        ({"topology": {"options": {"q": 1}}}, "option 'q' is not known"),
        ({"time": {"up_mbit": (1, 2)}}, "up_mbit: found a list of 2 figures for 3 nodes"),
        (
            {"time": {"absences": [{"node": 3, "from_s": 0, "to_s": 1}]}},
            "absence: found node 3, expected 0 to 2",
        ),
        (
            {"time": {"partitions": [{"groups": [["a"]], "from_s": 0, "to_s": 1}]}},
            "partition: found node 'a', expected 0 to 2",
        ),
        ({"schedule": {"name": "evry"}}, "did you mean 'every'"),
        ({"learning": {"rule": "gosip"}}, "did you mean 'gossip'"),
        ({"learning": {"rule": "diloco"}}, "rule diloco: graph ring.*expected all with"),
        ({"task": {"trainer": "nowhere:No", "options": {"n": "{node}"}}}, "no module 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cell(changes: dict[str, Any], said: str) -> None:
    document = tiny(**changes)
    if "trainer" in document["task"]:
        document["task"] = {"nodes": 2} | changes["task"]
    with pytest.raises(BadExperiment, match=said) as caught:
        check(read(document))
    assert str(caught.value).startswith("cell ")
    assert "\n" not in str(caught.value)


def test_a_file_with_the_wrong_arrays_is_refused(tmp_path: Path) -> None:
    save_npz(tmp_path / "wrong.npz", {"x_train": np.zeros((3, 2))})
    with pytest.raises(BadExperiment, match=r"wrong.npz: no y_train, x_test, y_test"):
        check(read(tiny(task={"data": "wrong.npz"}), tmp_path))


def test_bytes_of_a_ring_by_hand() -> None:
    experiment = read(tiny(experiment={"seeds": 0, "rounds": 5}, task={"nodes": 4}))
    sizes = check(experiment)
    (planned,) = plan(experiment, sizes)
    # Each of four nodes hears two, five times; the final merge moves 2 (n - 1) models.
    assert planned.messages == 4 * 2 * 5 + 2 * 3
    assert planned.bytes == planned.messages * 4 * P
    assert planned.parameters == P


@pytest.mark.parametrize(
    ("graph", "schedule", "merges"),
    [
        ("one_peer_exponential", {"name": "every", "options": {"k": 2}}, True),
        ("complete", {"name": "sparse"}, True),
        ("complete", {"name": "late"}, False),
        ("ring", {"name": "final_only"}, True),
    ],
)
def test_what_is_planned_is_what_moves(graph: str, schedule: dict[str, Any], merges: bool) -> None:
    document = silent(experiment={"rounds": 11, "final_merge": merges}, topology={"graph": graph})
    experiment = read(document | {"schedule": schedule})
    (planned,) = plan(experiment, check(experiment))
    moments = perform(planned.cell).moments
    last = 2 * 5 if merges else 0
    assert planned.messages == sum(moment.messages for moment in moments) + last
    assert planned.bytes == sum(moment.bytes for moment in moments) + last * 4_000_000


def test_more_numbers_than_a_machine_holds_are_refused() -> None:
    with pytest.raises(BadExperiment, match=r"gossip.vector: found 10000000000 numbers on each"):
        check(read(silent(gossip={"vector": 10**10})))


def test_a_run_that_never_ends_is_refused_with_its_cell() -> None:
    away = {"absences": [{"node": 1, "from_s": 0, "to_s": float("inf")}]}
    experiment = read(silent(time=away))
    with pytest.raises(BadExperiment, match=r"^cell .*: time: after .* s nothing happens any more"):
        list(plan(experiment, check(experiment)))


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    with pytest.raises(BadExperiment, match=r"Empty.model gave NoneType; expected a torch module"):
        check(read(own("odd:Empty"), tmp_path))


def test_a_constructor_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    with pytest.raises(
        TrainingFailed, match=r"'odd:Broken', node 0: .*failed: ValueError: no data"
    ):
        check(read(own("odd:Broken"), tmp_path))


ODD = """
class Empty:
    def __init__(self, node): self.node = node
    def model(self): return None
    def train(self, model, round): return {}
    def evaluate(self, model): return {"accuracy": 1.0}
class Broken(Empty):
    def __init__(self, node): raise ValueError("no data")
"""


def own(trainer: str) -> dict[str, Any]:
    options = {"node": "{node}"}
    return tiny() | {"task": {"nodes": 2, "trainer": trainer, "options": options}}
