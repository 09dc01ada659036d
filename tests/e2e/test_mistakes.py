"""What people get wrong: one line that says what, where and what to do; nothing lost."""

import json
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.federation import TRAINER, WEFT, Federation, federation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def last_line(fed: Federation, name: str) -> str:
    lines = [line for line in fed.log(name).splitlines() if line.startswith("weft:")]
    assert len(lines) == 1, fed.tails()
    return lines[0]


def ended(fed: Federation, name: str) -> int:
    process = fed.processes[name]
    fed.wait(lambda: process.poll() is not None, f"{name} ends", 40)
    return int(process.returncode)


def test_a_typo_in_a_key_names_the_nearest(tmp_path: Path) -> None:
    with federation(tmp_path) as fed:
        fed.start_node("n0", "\nlinger = 3\n")
        assert ended(fed, "n0") == 2
        line = last_line(fed, "n0")
        assert "linger" in line
        assert "linger_s" in line


def test_a_missing_trainer_and_one_that_raises(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.write_node("n0")
        config = fed.folder / "n0.toml"
        right = config.read_text()
        config.write_text(right.replace("trainer:Tiny", "trainer:Tony"))
        fed.start("n0", [*WEFT, "node", "--config", "n0.toml"])
        assert ended(fed, "n0") == 2
        assert "Tony" in last_line(fed, "n0")
        fed.folder.joinpath("n0.log").unlink()
        broken = TRAINER.replace("time.sleep(self.sleep_s)", 'raise ValueError("no shard here")')
        (fed.folder / "trainer.py").write_text(broken)
        fed.start_node("n0")
        assert ended(fed, "n0") == 1
        assert "no shard here" in last_line(fed, "n0")
        # Mended, the same node goes on where it was.
        (fed.folder / "trainer.py").write_text(TRAINER)
        fed.start_node("n0")
        fed.wait_done()


def test_a_trainer_of_another_shape_is_refused(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1, options={"width": 24}) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n0")
        assert ended(fed, "n0") in (1, 2)
        line = last_line(fed, "n0")
        assert "0.weight" in line
        assert "24" in line
        assert "16" in line


def test_a_port_in_use(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1) as fed, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fed.start_node("n0", listen=f"127.0.0.1:{port}")
        assert ended(fed, "n0") == 2
        assert str(port) in last_line(fed, "n0")


def test_a_coordinator_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1, rounds=1) as fed:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            fed.port = free.getsockname()[1]
        fed.write_coordinator(f"127.0.0.1:{fed.port}")
        fed.start_node("n0")
        fed.wait(lambda: '"waiting"' in fed.log("n0"), "the node says that it waits")
        assert str(fed.port) in fed.log("n0")
        fed.start_coordinator()
        fed.create_run()
        fed.wait_done(timeout_s=60)


def test_another_base_is_refused_before_a_byte_moves(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1) as fed:
        fed.start_coordinator()
        fed.create_run()
        save_file({"0.weight": torch.zeros(16, 8)}, fed.folder / "other.safetensors")
        fed.start_node("n0", '\nbase = "other.safetensors"\n')
        assert ended(fed, "n0") == 2
        line = last_line(fed, "n0")
        assert line.count("base") >= 1
        assert not list(fed.data("n0").glob("store/staging/*/payload*")), "no byte was fetched"


def test_a_checkpoint_with_nan_names_the_tensor(tmp_path: Path) -> None:
    poison = TRAINER.replace(
        'return {"loss": float(loss)}',
        'next(model.parameters()).data[0, 0] = float("nan")\n        return {"loss": 1.0}',
    )
    with federation(tmp_path, nodes=1, trainer=poison) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n0")
        assert ended(fed, "n0") == 1
        assert "0.weight" in last_line(fed, "n0")


def test_sigterm_and_ctrl_c_end_within_five_seconds(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=2, rounds=50, options={"sleep_s": 20.0}) as fed:
        fed.start_all()
        fed.wait(lambda: '"training"' in fed.log("n0"), "n0 trains")
        fed.wait(lambda: '"training"' in fed.log("n1"), "n1 trains")
        for name, how in (
            ("n0", signal.SIGTERM),
            ("n1", signal.SIGINT),
            ("coordinator", signal.SIGTERM),
        ):
            process = fed.processes[name]
            process.send_signal(how)
            assert process.wait(timeout=5) in (0, 130), fed.tails()


def test_a_node_that_joins_late_takes_part(tmp_path: Path) -> None:
    run = '[merge]\npolicy = "deadline"\ndeadline_s = 20\n'
    held = "while round >= 2 and not pathlib.Path('go').exists(): time.sleep(0.1)"
    trainer = "import pathlib\n" + TRAINER.replace("time.sleep(self.sleep_s)", held)
    with federation(tmp_path, nodes=3, rounds=8, run=run, trainer=trainer) as fed:
        text = (fed.folder / "run.toml").read_text().replace("nodes = 3", "nodes = 2")
        (fed.folder / "run.toml").write_text(text)
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n0")
        fed.start_node("n1")
        fed.wait(lambda: fed.log("n0").count('"evaluated"') >= 2, "two rounds are done")
        fed.start_node("n2")
        fed.wait(lambda: '"joined"' in fed.log("n2"), "n2 has joined")
        (fed.folder / "go").touch()
        fed.wait_done(timeout_s=120)
        assert fed.merged("n0") == fed.merged("n1") == fed.merged("n2")
        epochs = fed.status()["plan"]["epochs"]
        assert [len(epoch["members"]) for epoch in epochs] == [2, 3]
        assert epochs[1]["from_round"] >= 2


def test_status_as_json_is_one_document(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=1, rounds=1) as fed:
        fed.start_all()
        fed.wait_done()
        document = json.loads(fed.weft("status", "r", "--json").stdout)
        assert document["plan"]["state"] == "finished"


def test_a_revoked_node_is_shut_out_and_the_others_go_on(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=3, rounds=12, options={"sleep_s": 0.5}) as fed:
        fed.start_all()
        fed.wait(lambda: fed.log("n0").count('"evaluated"') >= 2, "two rounds are done")
        fed.weft("certs", "revoke", "ca", "n2")
        assert ended(fed, "n2") == 2
        assert "revoked" in last_line(fed, "n2")
        fed.wait_done(["n0", "n1"])
        assert fed.merged("n0") == fed.merged("n1")
        assert '"left"' in fed.log("n0")
