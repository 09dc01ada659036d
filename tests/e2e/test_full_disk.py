"""A node whose disk fills: one clear line, nothing lost, and it goes on when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.federation import Federation, federation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data" / "n0"
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=1m", "weft-test", str(folder)):
        pytest.skip("not run: mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def messages(fed: Federation) -> str:
    return " ".join(member["report"]["message"] for member in fed.status()["members"])


def test_a_full_disk_is_told_and_survived(tmp_path: Path, small_disk: Path) -> None:
    width = 4000
    base = f'[base]\ntrainer = "trainer:Tiny"\n[base.options]\nwidth = {width}\n'
    with federation(tmp_path, nodes=2, rounds=3, base=base, options={"width": width}) as fed:
        fed.start_all()
        process = fed.processes["n0"]
        fed.wait(lambda: process.poll() is not None, "n0 gives up")
        assert process.returncode == 1
        said = [line for line in fed.log("n0").splitlines() if line.startswith("weft:")]
        assert len(said) == 1
        assert "free" in said[0]
        assert "free" in messages(fed), "the coordinator knows why"
        assert mount("-o", "remount,size=64m", str(small_disk))
        fed.start_node("n0")
        fed.wait_done()
        assert fed.merged("n0") == fed.merged("n1")
