"""A run from the user's training code to one merged checkpoint, over real processes."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load
from torch import nn

from tests.support.federation import TRAINER, Federation, federation
from weft.checkpoints.writer import write_checkpoint
from weft.node.journal import Journal
from weft.node.ledger import Ledger

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(180)
def test_two_nodes_train_merge_and_end_with_one_model(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=2, rounds=3) as fed:
        fed.start_all()
        fed.wait_done()
        assert fed.merged("n0") == fed.merged("n1")
        status = fed.status()
        assert status["plan"]["state"] == "finished", status


@pytest.mark.timeout(180)
def test_batch_norm_ends_with_one_model_too(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=3, rounds=2, options={"batch_norm": True}, base=BN_BASE) as fed:
        fed.start_all()
        fed.wait_done()
        merged = [fed.merged(name) for name in fed.names]
        assert merged[0] == merged[1] == merged[2]
        tensors = load(merged[0])
        assert float(tensors["1.running_var"].min()) > 0
        assert int(tensors["1.num_batches_tracked"]) >= 0


@pytest.mark.timeout(180)
def test_nodes_that_start_apart_end_with_one_model(tmp_path: Path) -> None:
    """Each aligns its neighbours to itself, and in the end all align to one of them."""
    run, base = (
        '[merge]\nalign = "activations"\n',
        '[base]\nnone = true\nschema = "any.safetensors"\n',
    )
    options = {"batch_norm": True}
    with federation(tmp_path, nodes=3, rounds=2, run=run, base=base, options=options) as fed:
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        write_checkpoint(tmp_path / "any.safetensors", dict(model.state_dict()), {})
        fed.start_all()
        fed.wait_done()
        merged = {fed.merged(name) for name in fed.names}
        assert len(merged) == 1
        starts = {(fed.data(name) / "initial.safetensors").read_bytes() for name in fed.names}
        assert len(starts) == 3
        status = fed.status()
        assert [chosen["phase"] for chosen in status["plan"]["committed"]] == [
            "parameters",
            "aligned",
            "statistics",
        ]
        for name in fed.names:
            check_what_was_written_down(fed, name)


def check_what_was_written_down(fed: Federation, name: str) -> None:
    """Of each merge in the ledger: the neighbours' aligned models, and their moved units."""
    with Journal.open(
        fed.data(name) / "journal.sqlite", identity={"run": "r", "node": name}
    ) as journal:
        records = journal.entries()
        entries = Ledger(journal).entries()
    assert [entry.kind for entry in entries] == ["neighbours", "neighbours", "global"]
    for entry in entries[:2]:
        assert entry.align == "activations"
        for parent in entry.parents:
            assert (parent.aligned is None) == (parent.node == name)
    for parent in entries[2].parents:
        assert parent.aligned is not None
        assert (parent.aligned == parent.digest) == (parent.node == "n0"), "n0 is the anchor"
    moved: list[Any] = [record.data["moved"] for record in records if record.kind == "judged"]
    assert [set(each) for each in moved] == [set(fed.names) - {name}] * 2
    assert all(share > 0 for share in moved[0].values())


@pytest.mark.timeout(180)
def test_a_trainer_that_cannot_align_says_so_at_the_start(tmp_path: Path) -> None:
    trainer = TRAINER.replace("def calibration(self)", "def other(self)")
    run = '[merge]\nalign = "weights"\n'
    with federation(tmp_path, nodes=1, rounds=1, run=run, trainer=trainer) as fed:
        fed.start_all()
        process = fed.processes["n0"]
        fed.wait(lambda: process.poll() is not None, "n0 gives up")
        assert process.returncode == 2
        last = fed.log("n0").splitlines()[-1]
        assert last.startswith("weft: the run aligns units, and trainer:Tiny has no calibration()")


BN_BASE = '[base]\ntrainer = "trainer:Tiny"\n[base.options]\nbatch_norm = true\n'
