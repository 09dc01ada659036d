"""What `weft init` writes is what the daemons read, and runs as it is."""

import json
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from weft.checkpoints.reader import open_checkpoint
from weft.cli.__main__ import main
from weft.cli.init import contents
from weft.cli.run_file import RunFile, load_run_file, prepared
from weft.coordinator.config import CoordinatorConfig, load_config
from weft.node.config import NodeConfig, load_node_config
from weft.protocol.configuration import dotted_keys, load_toml
from weft.protocol.identity import Credentials
from weft.simulations.demo.daemons import free_port

# Shown as examples; their defaults are "none", which a file cannot say.
EXAMPLES = {
    "advertise", "base", "path", "command", "evaluate_command", "timeout_s", "cosine",
    "score_metric",
}  # fmt: skip
ALTERNATIVES = {"base.none", "base.schema", "base.upload", "base.path", "base.options"}


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    made = tmp_path / "my-run"
    assert main(["init", str(made), "--nodes", "3"]) == 0
    assert "my-run" in capsys.readouterr().out
    return made


def uncommented(text: str) -> str:
    """The file with its commented keys switched on, but for mere examples."""
    lines = []
    for line in text.splitlines():
        found = re.match(r"# (\w+) = |# \[[\w.]+\]", line)
        wanted = found is not None and found.group(1) not in {*EXAMPLES, "folder", "overrides"}
        lines.append(line.removeprefix("# ") if wanted else line)
    return "\n".join(lines)


def test_daemons_read_their_configurations(folder: Path) -> None:
    coordinator = load_config(folder / "coordinator.toml")
    assert Credentials.load(coordinator.credentials).identity.role == "coordinator"
    assert coordinator.revoked is not None
    assert coordinator.revoked.exists()
    listens = {coordinator.listen}
    for place, name in enumerate(("node-a", "node-b", "node-c")):
        node = load_node_config(folder / f"{name}.toml")
        assert Credentials.load(node.credentials).identity.name == name
        assert node.coordinator == coordinator.listen
        assert node.run == "my-run"
        assert node.train.options == {"node": place, "nodes": 3}
        listens |= {node.listen, node.metrics}
    assert len(listens) == 7  # no two daemons want one port


@pytest.mark.parametrize(
    ("name", "model"),
    [("coordinator.toml", CoordinatorConfig), ("node-b.toml", NodeConfig), ("run.toml", RunFile)],
)
def test_commented_defaults_are_the_defaults(
    folder: Path, name: str, model: type[BaseModel]
) -> None:
    given = load_toml(folder / name, model).model_dump()
    (folder / name).write_text(uncommented((folder / name).read_text()))
    assert load_toml(folder / name, model).model_dump() == given


@pytest.mark.parametrize(
    ("name", "model"),
    [("coordinator.toml", CoordinatorConfig), ("node-a.toml", NodeConfig), ("run.toml", RunFile)],
)
def test_every_key_is_shown(folder: Path, name: str, model: type[BaseModel]) -> None:
    text = (folder / name).read_text()
    for key in dotted_keys(model):
        if key in {"schema_digest", *ALTERNATIVES}:
            continue
        last = key.rpartition(".")[2]
        assert re.search(rf"^(# )?(\[([\w.]+\.)?{last}\]|{last} = )", text, re.MULTILINE), key


def test_run_has_a_base_and_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "trainer", raising=False)  # another test's
    with prepared(load_run_file(folder / "run.toml"), folder) as (spec, reader):
        assert spec.nodes == 3
        assert reader is not None
        assert reader.schema.parameters


def test_keys_are_private_and_ignored(folder: Path) -> None:
    assert stat.S_IMODE((folder / "certs" / "ca.key").stat().st_mode) == 0o600
    assert {"certs/", "data/"} <= set((folder / ".gitignore").read_text().split())


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "trainer.py").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["init", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "trainer.py" in error
    assert "certs" in error
    assert (folder / "trainer.py").read_text() == "mine"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_one_file_in_the_way_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("mine")
    assert main(["init", str(tmp_path), "--name", "x"]) == 2
    assert "has run.toml already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_folders_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "My Run_2 (new)"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == "my-run_2-new"
    assert Path(document["folder"], "README.md").exists()


def test_wrong_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "x"), "--name", "Not A Name"]) == 2
    assert "Not A Name" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_trainer_is_a_dozen_lines_of_torch() -> None:
    body = contents("r", 2)["trainer.py"]
    compile(body, "trainer.py", "exec")
    assert len([line for line in body.splitlines() if line.strip()]) < 35


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_it_runs_as_it_is(tmp_path: Path) -> None:
    """The README's commands, with ports that are free here."""
    folder = tmp_path / "first-run"
    assert main(["init", str(folder)]) == 0
    _take_free_ports(folder)
    (folder / "run.toml").write_text(
        (folder / "run.toml").read_text().replace("rounds = 10", "rounds = 2")
    )
    coordinator = _weft(folder, "coordinator", "--config", "coordinator.toml")
    try:
        _create(folder)
        nodes = [_weft(folder, "node", "--config", f"node-{each}.toml") for each in "ab"]
        assert [node.wait(150) for node in nodes] == [0, 0]
    finally:
        coordinator.terminate()
        coordinator.wait(20)
    digests = set()
    for each in "ab":
        with open_checkpoint(folder / "data" / f"node-{each}" / "merged") as reader:
            digests.add(tuple(float(reader.read(spec.name).sum()) for spec in reader.schema))
    assert len(digests) == 1


def _weft(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{arguments[-1]}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "weft.cli", *arguments], cwd=folder, stdout=log, stderr=log
        )


def _create(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while _weft(folder, "run", "create", "run.toml").wait(60):
        assert time.monotonic() < deadline, (folder / "run.toml.log").read_text()


def _take_free_ports(folder: Path) -> None:
    ports = {port: str(free_port()) for port in ("9300", "9400", "9401", "9402", "9501", "9502")}
    for path in folder.glob("*.toml"):
        text = path.read_text()
        for port, free in ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        if path.name == "coordinator.toml":
            text += 'metrics = ""\n'  # its default is one port for the whole machine
        path.write_text(text)
