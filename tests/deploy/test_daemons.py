"""Real daemons, on their own: what deploy/ asks of their pages of metrics is there."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.files import asked
from tests.deploy.metrics import ITS_OWN, declared
from tests.deploy.promql import read_query
from tests.deploy.test_containerfile import healthy
from weft.protocol.authority import Authority
from weft.protocol.identity import Role

PATIENCE_S = 60.0

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("daemons")]


def free_address() -> str:
    """An address on this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(folder: Path, command: str, config: dict[str, str]) -> Iterator[str]:
    """A daemon with that configuration, and the address of its metrics; stopped in the end."""
    address = free_address()
    lines = [f'{key} = "{value}"' for key, value in {**config, "metrics": address}.items()]
    trainer = ["[train]", 'trainer = "trainer:Clusters"'] if command == "node" else []
    path = folder / f"{command}.toml"
    path.write_text("\n".join([*lines, *trainer]))
    with (folder / f"{command}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "weft.cli", command, "--config", str(path)], stderr=log
        )
        try:
            yield address
        finally:
            process.terminate()
            process.wait(timeout=10)


def page_of(address: str) -> str:
    """A daemon's page of metrics, as soon as there is one."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                return str(answer.read(), "utf-8")
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.fixture
def credentials(tmp_path: Path) -> dict[Role, str]:
    """A folder of credentials for a coordinator and one for a node."""
    authority = Authority.init(tmp_path / "ca", "test")
    names = {Role.COORDINATOR: "coordinator", Role.NODE: "node-1"}
    return {role: str(authority.issue(name, role).folder) for role, name in names.items()}


def test_every_panel_and_alert_asks_for_what_real_daemons_show(
    tmp_path: Path, credentials: dict[Role, str]
) -> None:
    coordinator = {"listen": "127.0.0.1:0", "credentials": credentials[Role.COORDINATOR]}
    # Nobody is at that address: the node goes on trying to join, and shows its metrics.
    node = {
        "run": "none",
        "coordinator": free_address(),
        "listen": "127.0.0.1:0",
        "credentials": credentials[Role.NODE],
        "folder": str(Path(__file__).parents[2] / "deploy" / "compose"),
    }
    with (
        running(tmp_path, "coordinator", coordinator | {"data": str(tmp_path / "c")}) as one,
        running(tmp_path, "node", node | {"data": str(tmp_path / "n")}) as other,
    ):
        shown = declared(page_of(one)) | declared(page_of(other)) | set(ITS_OWN)
        unwell = [error for code, error in (healthy(one), healthy(other)) if code != 0]
    wanted = {metric for query in asked() for metric in read_query(query.expression).selected}
    assert sorted(wanted - shown) == []
    assert unwell == []
