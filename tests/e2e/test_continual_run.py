"""A run in continual mode: each round ends with the head of a stream, predicted by hand."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.federation import Federation, federation
from weft.checkpoints.store import Store
from weft.node.continual import files
from weft.node.continual.spec import StreamSpec
from weft.node.continual.stream import Stream
from weft.node.journal import Journal

pytestmark = pytest.mark.e2e

ROUNDS = 3


def run(policy: str) -> str:
    """Contributions of all rounds are kept, so that the streams can be fed again."""
    return (
        f'[merge]\nmode = "continual"\nmethod = "opcm"\npolicy = "{policy}"\ndeadline_s = 2\n'
        "retain_rounds = 9\n"
    )


def entries(fed: Federation, name: str, kind: str) -> dict[int, Any]:
    """A node's journal entries of a kind, by round; the global merge's have none like them."""
    path = fed.data(name) / "journal.sqlite"
    with Journal.open(path, identity={"run": "r", "node": name}) as kept:
        found = [each.data for each in kept.entries() if each.kind == kind]
    return {int(str(each["round"])): each for each in found if each.get("kind") != "global"}


def predicted(fed: Federation, name: str, folder: Path) -> dict[int, str]:
    """The heads of a stream that is fed by hand what the node chose in each round."""
    store, heads = Store(fed.data(name) / "store"), {}
    base = entries(fed, name, "ledger")[0]["base"]
    files.begin(folder, store.payload_path(base), StreamSpec(method="opcm"))
    for round, chosen in sorted(entries(fed, name, "chosen").items()):
        with Stream(folder) as stream:
            for node, digest in sorted(chosen["parents"].items()):
                path, weight = store.payload_path(digest).parent, chosen["weights"][node]
                stream.offer(path, weight=weight, lineage=node, step=round + 1)
            stream.drain()
            heads[round] = f"object:{stream.queue.generation.head}"
    return heads


@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", ["wait", pytest.param("deadline", marks=pytest.mark.faults)])
def test_heads_are_as_predicted_although_a_node_is_killed(policy: str, tmp_path: Path) -> None:
    with federation(
        tmp_path / "fed", nodes=3, rounds=ROUNDS, run=run(policy), options={"sleep_s": 0.3}
    ) as fed:
        fed.start_all()
        fed.wait(lambda: '"kind": "merged"' in fed.log("n1"), "n1 has merged a round")
        fed.kill("n1", signal.SIGKILL)
        fed.start_node("n1")
        fed.wait_done(timeout_s=180)
        assert fed.merged("n0") == fed.merged("n1") == fed.merged("n2")
        found = {}
        for name in fed.names:
            merged = entries(fed, name, "merged")
            found[name] = {round: str(each["model"]) for round, each in merged.items()}
            assert found[name] == predicted(fed, name, tmp_path / name)
            for round, entry in entries(fed, name, "ledger").items():
                assert entry["kind"] == "continual"
                assert f"object:{entry['result']}" == found[name][round]
        if policy == "wait":
            assert found["n0"] == found["n1"] == found["n2"]
            assert all(set(heads) == set(range(ROUNDS)) for heads in found.values())
            members = entries(fed, "n0", "ledger")[ROUNDS - 1]["parents"]
            assert [each["node"] for each in members] == ["n0", "n1", "n2"]
