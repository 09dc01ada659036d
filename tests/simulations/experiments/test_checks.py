"""Before the first cell runs: what cannot be is refused with its cell, and bytes are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulations.experiments.documents import read, silent, tiny
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
