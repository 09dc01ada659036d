"""Each check passes where all is well, and says how to mend what is not."""

import json
import resource
import shutil
import socket
import time
from collections import namedtuple
from pathlib import Path

import pytest

from weft.cli import doctor
from weft.cli.__main__ import main
from weft.cli.doctor import Check, Machine, examine
from weft.errors import InvalidInput
from weft.protocol.authority import Authority
from weft.protocol.identity import Role


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "ca", "federation")


def test_this_machine_is_fine(tmp_path: Path) -> None:
    checks = examine(Machine(data=tmp_path / "not" / "there" / "yet"))
    assert [check.name for check in checks] == ["python", "torch", "disk", "clock", "open files"]
    assert str(tmp_path) in named(checks, "disk").found


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 10_000_000))
    check = named(examine(Machine(data=tmp_path)), "disk")
    assert not check.passed
    assert "9.5 MiB free" in check.found
    assert "free some" in check.remedy


def test_clock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    check = named(examine(Machine(data=tmp_path)), "clock")
    assert "2001" in check.found
    assert "set the clock" in check.remedy


@pytest.mark.parametrize(
    ("limit", "passes"), [(256, False), (1024, True), (resource.RLIM_INFINITY, True)]
)
def test_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, passes: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert named(examine(Machine(data=tmp_path)), "open files").passed is passes


def test_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.5.1+cpu")
    assert "2.6" in named(examine(Machine(data=tmp_path)), "torch").remedy


def test_certificates(tmp_path: Path, authority: Authority) -> None:
    fresh = authority.issue("node-a", Role.NODE).folder
    old = authority.issue("node-b", Role.NODE, days=3).folder
    good = named(examine(Machine(data=tmp_path, credentials=fresh)), "certificate")
    assert good.passed
    assert "spiffe://federation/node/node-a" in good.found
    soon = named(examine(Machine(data=tmp_path, credentials=old)), "certificate")
    assert "renew it within" in soon.remedy
    none = named(examine(Machine(data=tmp_path, credentials=tmp_path)), "certificate")
    assert not none.passed
    assert "node.pem" in none.found


def test_ports(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        machine = Machine(data=tmp_path, listen=address, metrics=address, coordinator=address)
        checks = examine(machine)
        assert not named(checks, "listen").passed
        assert "set another metrics" in named(checks, "metrics").remedy
        assert named(checks, "coordinator").passed
    checks = examine(machine)
    assert named(checks, "listen").passed
    assert "start it" in named(checks, "coordinator").remedy


@pytest.mark.parametrize("address", ["9300", "host:", "host:many"])
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidInput, match="expected host:port"):
        examine(Machine(data=tmp_path, listen=address))


def test_configuration_says_what_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", str(tmp_path / "r"), "--json"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(doctor, "CONNECT_S", 0.5)
    monkeypatch.setattr(doctor, "_port", lambda name, address: Check(name=name, found=address))
    monkeypatch.setattr(doctor, "_reachable", lambda address: _broken(address))
    assert main(["doctor", "--config", str(tmp_path / "r" / "node-a.toml"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    found = {check["name"]: check for check in document["checks"]}
    assert found["listen"]["found"] == "127.0.0.1:9501"
    assert found["coordinator"] == {
        "name": "coordinator", "passed": False, "found": "127.0.0.1:9300", "remedy": "start it",
    }  # fmt: skip
    assert found["certificate"]["passed"]
    assert document["passed"] is False

    assert main(["doctor", "--config", str(tmp_path / "r" / "coordinator.toml")]) == 0
    shown = capsys.readouterr().out
    assert "PASS" in shown
    assert "127.0.0.1:9300" in shown


def test_no_such_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def _broken(address: str) -> Check:
    return Check(name="coordinator", found=address, remedy="start it")
