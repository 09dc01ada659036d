"""A crew of processes: the same bits as one process, whatever ends one of them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

from weft.errors import TrainingFailed
from weft.simulations.engines.crew import Crew, Looped
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.local import SharedTrainers, local_crew
from weft.simulations.engines.shared_tensors import SharedFleet, SharedTensor
from weft.simulations.engines.worker import Block, serve
from weft.simulations.engines.workers import Workers, blocks
from weft.simulations.errors import BadOption, BadSplit, Diverged, WorkerDied
from weft.simulations.learning.aligned import Dimat
from weft.simulations.learning.rule import Gossip, Rule
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.study import Study
from weft.topology.schedules import ScheduleParams, build_schedule

OPTIONS = TaskOptions(nodes=5, steps=3, model="cnn")


def looped(options: TaskOptions) -> Looped:
    task = options.dealt()
    trainers = [options.trainer(node, task) for node in range(options.nodes)]
    fleet = Fleet.alike(initial_model(trainers[0], options.seed), range(options.nodes))
    return Looped(fleet, trainers, options.seed)


def moments(
    crew: Crew,
    options: TaskOptions,
    rounds: int = 2,
    *,
    rule: Rule | None = None,
    resets: bool = False,
) -> list[object]:
    schedule = build_schedule(
        ScheduleParams(graph="ring"), nodes=options.nodes, rounds=rounds, seed=options.seed
    )
    study = Study(
        crew=crew, exchange=Here(), rule=rule or Gossip(), schedule=schedule, resets=resets
    )
    return list(study.moments())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_worker_two_workers_and_none_give_the_same_bits(optimizer: str) -> None:
    options = TaskOptions(nodes=5, steps=3, model="cnn", optimizer=optimizer)
    alone = looped(options)
    expected = moments(alone, options)
    for workers in (1, 2):
        with closing(local_crew(options, workers=workers)) as crew:
            assert moments(crew, options) == expected
            assert torch.equal(crew.fleet.parameters, alone.fleet.parameters)
            assert torch.equal(crew.fleet.statistics, alone.fleet.statistics)


def test_workers_align_to_the_same_bits() -> None:
    """With everybody's examples, which a worker has to ask for; optimizers start afresh."""
    options = replace(OPTIONS, optimizer="adam")
    alone = looped(options)
    expected = moments(alone, options, rule=Dimat(proxy=True), resets=True)
    with closing(local_crew(options, workers=2)) as crew:
        assert moments(crew, options, rule=Dimat(proxy=True), resets=True) == expected
        assert torch.equal(crew.fleet.parameters, alone.fleet.parameters)


def test_stacked_nodes_do_not_depend_on_the_number_of_workers() -> None:
    options = TaskOptions(nodes=20, steps=3, model="mlp")
    found = []
    for workers in (1, 2):
        with closing(local_crew(options, workers=workers)) as crew:
            assert crew.manner.endswith("linear layers of 5 nodes at once")
            found.append((moments(crew, options), crew.fleet.parameters))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_rows_outlive_the_workers() -> None:
    crew = local_crew(OPTIONS, workers=2)
    crew.train(0)
    rows = crew.fleet.parameters
    before = rows.clone()
    crew.close()
    crew.close()
    assert torch.equal(rows, before)


def test_a_killed_worker_ends_the_study_and_names_its_nodes() -> None:
    local_crew(OPTIONS, workers=1).close()  # Python's own processes, if no test was before
    before = set(psutil.Process().children(recursive=True))
    crew = local_crew(TaskOptions(nodes=4, steps=5000, model="cnn"), workers=2)
    victim = crew._members[1]._process.pid
    assert victim is not None
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    with pytest.raises(WorkerDied, match=r"nodes 2 to 3 ended \(killed by signal 9\)"):
        crew.train(0)
    assert not any(member._process.is_alive() for member in crew._members)
    # The server that workers are forked from stays for the next crew.
    left = set(psutil.Process().children(recursive=True)) - before
    assert all("forkserver" in " ".join(process.cmdline()) for process in left)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shared_memory_has_no_name_in_any_folder() -> None:
    with closing(local_crew(OPTIONS, workers=1)) as crew:
        address = crew.fleet.parameters.data_ptr()
        lines = Path("/proc/self/maps").read_text().splitlines()
    mine = [line for line in lines if line.startswith(f"{address:08x}-")]
    assert len(mine) == 1
    assert mine[0].endswith("/memfd:weft-rows (deleted)")


class Stubborn(Exception):
    """It cannot be pickled: its constructor wants more than the message."""

    def __init__(self, message: str, more: int) -> None:
        super().__init__(message)
        self.more = more


class Fails:
    """A trainer that raises in one round of one node."""

    def __init__(self, node: int, error: str) -> None:
        self._node, self._error = node, error

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        if (self._node, round) == (2, 1):
            if self._error == "exit":
                os._exit(3)
            if self._error == "stubborn":
                raise Stubborn("never mind", 1)
            if self._error == "not finite":
                with torch.no_grad():
                    next(model.parameters()).fill_(float("inf"))
                return {"loss": 0.0}
            raise KeyError(self._error)
        return {"loss": float(self._node)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"accuracy": self._node / 10}


@dataclass(frozen=True)
class Failing:
    """Makes trainers of which node 2's raises in round 1."""

    error: str

    def __call__(self, nodes: range) -> Sequence[Fails]:
        if self.error == "build":
            raise BadSplit(f"nodes {nodes}")
        return [Fails(node, self.error) for node in nodes]


def failing(error: str, workers: int = 2) -> Workers:
    fleet = Fleet.alike(nn.Linear(2, 2), range(4))
    return Workers(fleet, Failing(error), 0, workers=workers)


def test_answers_come_in_the_order_of_the_nodes() -> None:
    with closing(failing("none", workers=3)) as crew:
        assert crew.train(0).tolist() == [0.0, 1.0, 2.0, 3.0]
        assert crew.evaluate().tolist() == [0.0, 0.1, 0.2, 0.3]


def test_what_a_trainer_raises_arrives_as_it_was() -> None:
    with closing(failing("some key")) as crew:
        crew.train(0)
        with pytest.raises(KeyError, match="some key") as caught:
            crew.train(1)
        assert caught.value.__notes__ == ["while node 2 trained in round 1"]
        assert "in train" in str(caught.value.__cause__)
        # The others have answered, and go on answering.
        assert crew.evaluate().tolist() == [0.0, 0.1, 0.2, 0.3]


def test_an_error_that_cannot_be_pickled_is_told() -> None:
    with closing(failing("stubborn")) as crew:
        with pytest.raises(TrainingFailed, match="Stubborn: never mind") as caught:
            crew.train(1)
        assert caught.value.__notes__ == ["while node 2 trained in round 1"]


def test_a_model_that_is_not_finite_names_node_and_round() -> None:
    with closing(failing("not finite")) as crew, pytest.raises(Diverged, match="node 2, round 1"):
        crew.train(1)


def test_a_trainer_that_ends_its_process_is_told() -> None:
    crew = failing("exit")
    with pytest.raises(WorkerDied, match=r"nodes 2 to 3 ended \(exit code 3\)"):
        crew.train(1)


def test_what_raises_while_trainers_are_made_comes_through() -> None:
    with pytest.raises(BadSplit, match=r"nodes range\(0, 2\)"):
        failing("build")


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os\n"
        "from weft.simulations.engines.local import local_crew\n"
        "from weft.simulations.references import TaskOptions\n"
        "if __name__ == '__main__':\n"
        "    crew = local_crew(TaskOptions(nodes=2, model='cnn'), workers=2)\n"
        "    print(*(m._process.pid for m in crew._members), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    parent = psutil.Popen([sys.executable, script], stdout=-1, text=True)
    written, _ = parent.communicate(timeout=60)
    workers = [int(pid) for pid in written.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_a_worker_whose_parent_has_gone_ends_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for ours in ("signal.signal", "torch.set_num_threads", "keep_freed_buffers"):
        monkeypatch.setattr(f"weft.simulations.engines.worker.{ours}", lambda *_: None)
    fleet = Fleet.alike(nn.Linear(2, 2), range(1))
    block = Block(
        nodes=fleet.nodes,
        rows=SharedFleet(fleet),
        model=SharedTensor((6,), torch.float32),
        merged=SharedTensor((1, 6), torch.float32),
        build=Failing("none"),
        seed=0,
        stack=1,
    )
    parent, child = Pipe()
    parent.send(("evaluate", ()))
    parent.close()
    serve(child, block)


def test_impossible_numbers() -> None:
    for options in ({"workers": -1}, {"stack": 0}):
        with pytest.raises(BadOption, match="expected workers 0"):
            Workers(Fleet.alike(nn.Linear(1, 1), range(1)), Failing(""), 0, **options)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("stack", [1, 8])
def test_blocks_cover_all_nodes_once_and_cut_no_stack(workers: int, stack: int) -> None:
    nodes = range(3, 40)
    cut = blocks(nodes, workers, stack)
    assert [node for block in cut for node in block] == list(nodes)
    assert all(block.start % stack == 0 for block in cut[1:])
    sizes = [len(block) for block in cut]
    assert len(cut) <= workers
    assert max(sizes) - min(sizes) <= 2 * stack


def test_workers_hold_one_copy_of_the_data() -> None:
    options = TaskOptions(nodes=3)
    task = options.dealt()
    trainers = SharedTrainers.of(options, task)(range(3))
    assert len({trainer.inputs.data_ptr() for trainer in trainers}) == 1
    assert len({trainer.test[0].data_ptr() for trainer in trainers}) == 1

    def same(left: Tensor, right: Tensor) -> bool:
        return torch.equal(left, right)

    for node, trainer in enumerate(trainers):
        alone = options.trainer(node)
        assert same(trainer.inputs[trainer.batches(1)], alone.inputs[alone.batches(1)])
        assert same(trainer.labels[trainer.share], alone.labels)
        assert trainer.class_counts == alone.class_counts
