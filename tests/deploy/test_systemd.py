"""The units: systemd reads them, they are closed, and their configurations fit."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, unit
from weft.cli.app import COMMANDS
from weft.coordinator.config import load_config
from weft.node.config import load_node_config

SYSTEMD = DEPLOY / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
WEFT = "/opt/weft/bin/weft"

CLOSED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
    "ProtectControlGroups": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}

each_unit = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)


def service(path: Path) -> dict[str, str]:
    """The [Service] section; of a key that repeats, the last value."""
    return {key: value for section, key, value in unit(path) if section == "Service"}


def placed(path: Path, folder: Path, *extra: str) -> Path:
    """A copy that systemd can judge on a machine without weft: its program is `true`."""
    program = shutil.which("true")
    assert program is not None
    text = path.read_text(encoding="utf-8").replace(WEFT, program)
    copy = folder / path.name
    copy.write_text("\n".join([text, *extra]))
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; skips the test where there is none."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed here")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_there_is_a_unit_for_each_daemon() -> None:
    assert [path.name for path in UNITS] == ["weft-coordinator.service", "weft-node@.service"]


@each_unit
def test_systemd_takes_the_unit_without_a_word(path: Path, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(placed(path, tmp_path)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_unit
def test_systemd_finds_a_planted_typo(path: Path, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(placed(path, tmp_path, "[Service]", "ProtectSytem=x")))
    assert "ProtectSytem" in done.stderr


@each_unit
def test_systemd_counts_little_exposure(path: Path, tmp_path: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=25", str(placed(path, tmp_path)))
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze here is too old to judge a file offline")
    assert done.returncode == 0, done.stdout


@each_unit
def test_a_unit_is_closed(path: Path) -> None:
    found = service(path)
    assert {key: found.get(key) for key in CLOSED} == CLOSED
    assert found.get("DynamicUser") == "yes" or found["User"] == "weft"
    assert found["ProtectHome"] in {"yes", "read-only"}


@each_unit
def test_torch_may_generate_code_and_the_unit_says_why(path: Path) -> None:
    assert "MemoryDenyWriteExecute" not in service(path)
    assert "# Not MemoryDenyWriteExecute: torch" in path.read_text(encoding="utf-8")


@each_unit
def test_a_unit_stops_in_time_and_comes_back_after_a_fault(path: Path) -> None:
    found = service(path)
    assert found["Restart"] == "on-failure"
    assert found["RestartPreventExitStatus"] == "2"
    assert found["KillSignal"] == "SIGTERM"
    assert found["KillMode"] == "mixed"
    assert 5 < int(found["TimeoutStopSec"]) <= 10


@each_unit
def test_a_unit_starts_a_command_that_there_is(path: Path) -> None:
    program, command, flag, config = service(path)["ExecStart"].split()
    assert program == WEFT
    assert command in {entry.name for entry in COMMANDS}
    assert flag == "--config"
    assert config.startswith("/etc/weft/")


def credentials(path: Path, name: str) -> str:
    """Where the files of LoadCredential= are, once the unit has started."""
    loaded = [value for _, key, value in unit(path) if key == "LoadCredential"]
    assert [value.split(":")[0] for value in loaded] == ["ca.pem", "node.pem", "node.key"]
    return f"/run/credentials/{name}.service"


def test_the_node_configuration_fits_its_unit() -> None:
    path = SYSTEMD / "weft-node@.service"
    config = load_node_config(SYSTEMD / "node-1.toml")
    assert str(config.credentials) == credentials(path, "weft-node@node-1")
    assert str(config.data) == "/var/lib/" + service(path)["StateDirectory"].replace("%i", "node-1")
    assert config.metrics.startswith("127.0.0.1:")


def test_the_coordinator_configuration_fits_its_unit() -> None:
    path = SYSTEMD / "weft-coordinator.service"
    config = load_config(SYSTEMD / "coordinator.toml")
    assert str(config.credentials) == credentials(path, "weft-coordinator")
    assert str(config.data) == "/var/lib/" + service(path)["StateDirectory"]
    assert config.metrics.startswith("127.0.0.1:")


def test_the_account_of_the_nodes_is_declared() -> None:
    [line] = [
        line
        for line in (SYSTEMD / "weft.sysusers").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert line.split()[:2] == ["u", service(SYSTEMD / "weft-node@.service")["User"]]
