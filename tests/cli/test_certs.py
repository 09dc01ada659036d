"""`weft certs`: what it writes, what it says, how mistakes end."""

import json
from pathlib import Path
from typing import Any

import pytest

from weft.cli.__main__ import main
from weft.cli.certs import RoleName
from weft.protocol.authority import read_revoked
from weft.protocol.identity import Credentials, Role

Capture = pytest.CaptureFixture[str]


def document(capsys: Capture, *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["certs", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def mistake(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["certs", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    return found.err


@pytest.fixture
def authority(tmp_path: Path, capsys: Capture) -> str:
    folder = str(tmp_path / "ca")
    assert (
        document(capsys, "init", folder, "--federation", "hospitals")["federation"] == "hospitals"
    )
    return folder


def test_roles_are_those_of_the_protocol() -> None:
    assert {role.value for role in RoleName} == {role.value for role in Role}


def test_issue_writes_credentials_that_load(authority: str, capsys: Capture) -> None:
    issued = document(capsys, "issue", authority, "node-a", "--role", "node")
    assert issued["uri"] == "spiffe://hospitals/node/node-a"
    credentials = Credentials.load(Path(issued["folder"]))
    assert credentials.identity.serial == issued["serial"]
    assert issued["folder"] == str(Path(authority) / "issued" / "node-a")


def test_issue_elsewhere(authority: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "elsewhere"
    document(capsys, "issue", authority, "hub", "--role", "coordinator", "--out", str(out))
    assert Credentials.load(out).identity.role is Role.COORDINATOR
    assert not (Path(authority) / "issued" / "hub").exists()


def test_revoke_and_list(authority: str, capsys: Capture) -> None:
    first = document(capsys, "issue", authority, "node-a", "--role", "node")
    second = document(capsys, "issue", authority, "node-a", "--role", "node", "--renew")
    document(capsys, "issue", authority, "node-b", "--role", "node")
    revoked = document(capsys, "revoke", authority, "node-a")
    assert set(revoked["serials"]) == {first["serial"], second["serial"]}
    assert read_revoked(Path(revoked["file"])) == set(revoked["serials"])
    listed = document(capsys, "list", authority)
    assert [(one["name"], one["revoked"]) for one in listed] == [
        ("node-a", True),
        ("node-a", True),
        ("node-b", False),
    ]


def test_people_are_told_what_to_do_next(authority: str, capsys: Capture) -> None:
    assert main(["certs", "issue", authority, "node-a", "--role", "node"]) == 0
    assert "copy" in capsys.readouterr().out
    assert main(["certs", "list", authority]) == 0
    assert "node-a  node" in capsys.readouterr().out


def test_mistakes_end_with_one_line(authority: str, tmp_path: Path, capsys: Capture) -> None:
    document(capsys, "issue", authority, "node-a", "--role", "node")
    again = mistake(capsys, "issue", authority, "node-a", "--role", "node")
    assert "--renew" in again
    assert again.count("\n") == 1
    assert "holds a certificate authority already" in mistake(
        capsys, "init", authority, "--federation", "other"
    )
    assert "only to node-a" in mistake(capsys, "revoke", authority, "node-x")
    assert "weft certs init" in mistake(
        capsys, "issue", str(tmp_path / "none"), "node-a", "--role", "node"
    )
    assert "kept for the role coordinator" in mistake(
        capsys, "issue", authority, "coordinator", "--role", "node"
    )
