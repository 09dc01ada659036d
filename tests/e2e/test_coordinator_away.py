"""The coordinator is killed after round 1 and stays away; later it comes back."""

from pathlib import Path

import pytest

from tests.support.federation import Federation, federation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROUNDS = 4


def kill_after_round_one(fed: Federation) -> None:
    for name in fed.names:
        fed.wait(lambda n=name: '"evaluated"' in fed.log(n), f"{name} ended round 0")  # type: ignore[misc]
    fed.kill("coordinator")


def finished(fed: Federation, name: str) -> bool:
    return (fed.data(name) / "merged" / "model.safetensors").exists()


def test_nodes_finish_without_it_and_its_status_is_right_when_it_is_back(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=3, rounds=ROUNDS, options={"sleep_s": 0.5}) as fed:
        fed.start_all()
        kill_after_round_one(fed)
        for name in fed.names:
            fed.wait(lambda n=name: finished(fed, n), f"{name} made the global merge")  # type: ignore[misc]
        assert fed.merged("n0") == fed.merged("n1") == fed.merged("n2")
        assert all(fed.processes[name].poll() is None for name in fed.names), "they linger"
        fed.start_coordinator()
        fed.wait_done(timeout_s=60)
        status = fed.status()
        assert status["plan"]["state"] == "finished"
        assert {member["report"]["state"] for member in status["members"]} == {"done"}
        assert len({member["report"]["result"] for member in status["members"]}) == 1


def test_nodes_wait_and_say_so_while_one_is_missing(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=3, rounds=ROUNDS, options={"sleep_s": 0.5}) as fed:
        fed.start_all()
        kill_after_round_one(fed)
        fed.wait(
            lambda: all(fed.log(n).count('"merged"') >= ROUNDS for n in ("n1", "n2")),
            "all rounds are merged",
        )
        fed.kill("n0")
        fed.wait(lambda: "waiting for n0" in fed.log("n1"), "n1 says for whom it waits")
        assert not finished(fed, "n1") or finished(fed, "n0")
        fed.start_node("n0")
        for name in fed.names:
            fed.wait(lambda n=name: finished(fed, n), f"{name} made the global merge")  # type: ignore[misc]
        assert fed.merged("n0") == fed.merged("n1") == fed.merged("n2")
