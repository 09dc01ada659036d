"""A node trains by a class, a command, or two folders; the three meet in one run."""

import json
import shutil
import sys
import threading
from pathlib import Path

import pytest

from tests.support.federation import federation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

COMMAND = """
import sys
from safetensors.numpy import load_file, save_file

tensors = load_file(sys.argv[1])
save_file({name: values * 0.9 for name, values in tensors.items()}, sys.argv[2])
"""


def train_in_folders(folder: Path, rounds: int, stop: threading.Event) -> None:
    """Somebody else's program: takes a round from `in`, leaves it in `out`."""
    for round in range(rounds):
        given = folder / "in" / f"round-{round:06d}"
        taken = folder / "out" / f"round-{round:06d}"
        while not (given / "request.json").exists():
            if stop.wait(0.05):
                return
        taken.mkdir(parents=True)
        shutil.copy(given / "model.safetensors", taken / "model.safetensors")
        (taken / "done.json").write_text(json.dumps({"loss": 0.5}))


def test_a_class_a_command_and_two_folders_in_one_run(tmp_path: Path) -> None:
    with federation(tmp_path, nodes=3, rounds=2) as fed:
        (fed.folder / "shrink.py").write_text(COMMAND)
        command = f"{sys.executable} shrink.py {{checkpoint_in}} {{checkpoint_out}}"
        ways = {"n1": f"command = {json.dumps(command)}", "n2": 'folder = "exchange"'}
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n0")
        for name, way in ways.items():
            fed.write_node(name)
            config = fed.folder / f"{name}.toml"
            config.write_text(config.read_text().partition("[train]")[0] + f"[train]\n{way}\n")
            fed.start(name, [sys.executable, "-m", "weft.cli", "node", "--config", config.name])
        stop = threading.Event()
        outside = threading.Thread(target=train_in_folders, args=(fed.folder / "exchange", 2, stop))
        outside.start()
        try:
            fed.wait_done()
        finally:
            stop.set()
            outside.join()
        assert fed.merged("n0") == fed.merged("n1") == fed.merged("n2")
