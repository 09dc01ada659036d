"""A run from the user's training code to one merged checkpoint, over real processes."""

from pathlib import Path

import pytest
from safetensors.torch import load

from tests.support.federation import federation

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


BN_BASE = '[base]\ntrainer = "trainer:Tiny"\n[base.options]\nbatch_norm = true\n'
