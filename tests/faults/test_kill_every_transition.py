"""SIGKILL of a node, or of the coordinator, at every transition: the run ends as if nothing was.

One three-round run a point: the node is killed at its first entry, started
again, killed at the second, and so on to the last.
"""

import signal
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from torch import nn

from tests.support.federation import Federation, federation
from weft.checkpoints.writer import write_checkpoint
from weft.node.journal import Journal, Record

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

SUPPORT = Path(__file__).parents[1] / "support"
POINTS = ("before", "after", "within")
FLOOR = 60
ROUNDS = 3


def start_faulty(fed: Federation, name: str, point: str) -> None:
    fed.write_node(name)
    program = [sys.executable, str(SUPPORT / "faulty_node.py")]
    fed.start(name, [*program, point, f"{name}.killed", f"{name}.toml"])


def journal(fed: Federation, name: str) -> list[Record]:
    path = fed.data(name) / "journal.sqlite"
    with Journal.open(path, identity={"run": "r", "node": name}) as kept:
        return kept.entries()


def ended(fed: Federation, name: str, what: str, timeout_s: float = 60.0) -> int:
    """Wait for a process to end; its exit status."""
    process = fed.processes[name]
    fed.wait(lambda: process.poll() is not None, what, timeout_s)
    return int(process.returncode)


def killed_at_every_entry(fed: Federation, point: str, name: str = "n0") -> int:
    """Kill a node at one transition after the other until a life ends by itself; the kills."""
    kills = 0
    while True:
        start_faulty(fed, name, point)
        if ended(fed, name, f"life {kills + 1}") != -signal.SIGKILL:
            assert fed.processes[name].returncode == 0, fed.tails()
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
    COUNTS[f"node {point}"] = kills
    print(f"\nnode killed {kills} times ({point}); journal of {len(entries)} entries")
    starts = Counter(e.data["round"] for e in entries if e.kind == "training")
    trained = Counter(e.data["round"] for e in entries if e.kind == "trained")
    assert trained == dict.fromkeys(range(ROUNDS), 1), "a journalled round was trained again"
    assert starts.total() <= ROUNDS + kills
    order = [(e.kind, e.data.get("round")) for e in entries]
    for round in range(ROUNDS):
        last_start = max(i for i, e in enumerate(order) if e == ("training", round))
        assert last_start < order.index(("trained", round))


def heads(fed: Federation, name: str = "n0") -> list[object]:
    return [each.data["model"] for each in journal(fed, name) if each.kind == "merged"]


def test_node_killed_at_every_transition_in_continual_mode(tmp_path: Path) -> None:
    """Every round ends with the same head, although the stream was cut short in the middle."""
    run = '[merge]\nmode = "continual"\n'
    with federation(tmp_path / "undisturbed", rounds=ROUNDS, run=run) as fed:
        fed.start_all()
        fed.wait_done()
        expected = fed.merged("n0"), heads(fed)
    with federation(tmp_path / "killed", rounds=ROUNDS, run=run) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n1")
        kills = killed_at_every_entry(fed, "within")
        fed.wait_done(["n1"])
        assert (fed.merged("n0"), heads(fed)) == expected
        assert fed.merged("n1") == expected[0]
    COUNTS["node within, continual"] = kills
    print(f"\nnode killed {kills} times (within, continual)")


APART = '[base]\nnone = true\nschema = "any.safetensors"\n'


def apart(folder: Path) -> Federation:
    """Two nodes with initialisations of their own, which align; statistics among their models."""
    made = Federation(
        folder,
        rounds=ROUNDS,
        run='[merge]\nalign = "activations"\n',
        base=APART,
        options={"batch_norm": True},
    )
    norm = nn.BatchNorm1d(16)
    model = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 4))
    write_checkpoint(folder / "any.safetensors", dict(model.state_dict()), {})
    return made


def test_node_killed_at_every_transition_of_a_run_that_aligns(tmp_path: Path) -> None:
    """What was aligned before a kill is merged after it, or is aligned to the same bytes.

    The node that is killed is not the anchor: it aligns its last model as well.
    """
    with closing(apart(tmp_path / "undisturbed")) as fed:
        fed.start_all()
        fed.wait_done()
        expected = fed.merged("n1"), heads(fed, "n1")
    with closing(apart(tmp_path / "killed")) as fed:
        fed.start_coordinator()
        fed.create_run()
        fed.start_node("n0")
        kills = killed_at_every_entry(fed, "within", "n1")
        fed.wait_done(["n0"])
        assert (fed.merged("n1"), heads(fed, "n1")) == expected
        assert fed.merged("n0") == expected[0]
    COUNTS["node within, aligned"] = kills
    print(f"\nnode killed {kills} times (within, aligned)")


class Coordinator:
    """A coordinator that is killed at each of its commits, one a life."""

    def __init__(self, fed: Federation, point: str) -> None:
        self._fed, self._point = fed, point
        self.kills = 0

    def live(self) -> None:
        # A life that is killed before its first commit gets nowhere: let it have one.
        number = 2 if self._point == "before" and self.kills else 1
        program = [sys.executable, str(SUPPORT / "faulty_coordinator.py")]
        before = self._fed.log("coordinator").count('"listening"')
        self._fed.start("coordinator", [*program, f"{self._point}:{number}", "coordinator.toml"])
        self._fed.wait(
            lambda: (
                self._fed.log("coordinator").count('"listening"') > before
                or self._fed.processes["coordinator"].poll() is not None
            ),
            "the coordinator listens",
        )

    def revive(self) -> None:
        process = self._fed.processes["coordinator"]
        if process.poll() is not None:
            assert process.returncode == -signal.SIGKILL, self._fed.tails()
            self.kills += 1
            self.live()


@pytest.mark.parametrize("point", POINTS)
def test_coordinator_killed_at_every_transition(
    tmp_path: Path, point: str, undisturbed: bytes
) -> None:
    with federation(tmp_path, rounds=ROUNDS) as fed:
        fed.start_coordinator()
        fed.kill("coordinator")
        coordinator = Coordinator(fed, point)
        coordinator.live()
        while (made := fed.weft("run", "create", "run.toml", check=False)).returncode != 0:
            if "exists" in made.stderr:
                break
            coordinator.revive()
        for name in fed.names:
            fed.start_node(name)
        while any(fed.processes[name].poll() is None for name in fed.names):
            coordinator.revive()
            time.sleep(0.05)
        fed.wait_done()
        assert fed.merged("n0") == undisturbed
        assert fed.merged("n1") == undisturbed
    COUNTS[f"coordinator {point}"] = coordinator.kills
    print(f"\ncoordinator killed {coordinator.kills} times ({point})")


def test_enough_kill_points() -> None:
    total = COUNTS.total()
    print(f"\nkill points: {total} {dict(COUNTS)}")
    assert total >= FLOOR
