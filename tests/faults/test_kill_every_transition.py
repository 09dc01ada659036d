"""SIGKILL of a node at every journal transition; the run ends as if nothing had been.

One three-round run a point: the node is killed at its first entry, started
again, killed at the second, and so on to the last.
"""

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.federation import Federation, federation
from weft.node.journal import Journal, Record

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

POINTS = ("before", "after", "within")
FLOOR = 60
ROUNDS = 3


def faulty(point: str, seq: int) -> list[str]:
    return [sys.executable, "-m", "tests.support.faulty_node", f"{point}:{seq}"]


def start_faulty(fed: Federation, name: str, point: str, seq: int) -> None:
    fed.write_node(name)
    fed.start(name, [*faulty(point, seq), f"{name}.toml"])


def journal(fed: Federation, name: str) -> list[Record]:
    path = fed.data(name) / "journal.sqlite"
    with Journal.open(path, identity={"run": "r", "node": name}) as kept:
        return kept.entries()


def killed_at_every_entry(fed: Federation, point: str) -> int:
    """Kill n0 at entry 1, 2, ... until a life ends by itself; the number of kills."""
    kills = 0
    while True:
        start_faulty(fed, "n0", point, kills + 1)
        process = fed.processes["n0"]
        fed.wait(lambda: process.poll() is not None, f"{point}:{kills + 1}", 60)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, fed.tails()
            return kills
        kills += 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with federation(tmp_path_factory.mktemp("undisturbed"), rounds=ROUNDS) as fed:
        fed.start_all()
        fed.wait_done()
        return fed.merged("n0")


COUNTS: Counter[str] = Counter()


@pytest.mark.parametrize("point", POINTS)
def test_node_killed_at_every_transition(tmp_path: Path, point: str, undisturbed: bytes) -> None:
    with federation(tmp_path, rounds=ROUNDS) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n1")
        kills = killed_at_every_entry(fed, point)
        fed.wait_done(["n1"])
        entries = journal(fed, "n0")
        assert fed.merged("n0") == undisturbed
        assert fed.merged("n1") == undisturbed
    COUNTS[point] = kills
    print(f"\nnode killed {kills} times ({point}); journal of {len(entries)} entries")
    starts = Counter(e.data["round"] for e in entries if e.kind == "training")
    trained = Counter(e.data["round"] for e in entries if e.kind == "trained")
    assert trained == dict.fromkeys(range(ROUNDS), 1), "a journalled round was trained again"
    assert starts.total() <= ROUNDS + kills
    order = [(e.kind, e.data.get("round")) for e in entries]
    for round in range(ROUNDS):
        last_start = max(i for i, e in enumerate(order) if e == ("training", round))
        assert last_start < order.index(("trained", round))


def test_enough_kill_points() -> None:
    total = COUNTS.total()
    print(f"\nkill points of the node: {total} {dict(COUNTS)}")
    assert total >= FLOOR
