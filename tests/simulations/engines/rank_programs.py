"""What ranks do in tests, as functions that another process can import; and how to start them.

A server that has torch loaded forks every rank, so that a test costs a second and not ten.
"""

import os
import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, distributed, nn

from tests.simulations.engines.small import QUICK
from weft.node.trainer import Trainer
from weft.simulations.engines import hearts
from weft.simulations.engines.distributed import over_ranks
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.meeting import Meeting, joined
from weft.simulations.engines.ranks import Ranks
from weft.simulations.learning.rule import Gossip
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.study import Study
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule

GATHERS = [name for name in dir(distributed) if "gather" in name]
COLUMNS, BLOCK = 1000, 384
FATED = 2
"""Node; of four nodes on three ranks the last one has it, with another."""

Program = Callable[[Meeting], object]


def start(
    program: Program,
    size: int,
    folder: Path,
    *,
    ranks: range | None = None,
    hangs: int | None = None,
) -> list[Any]:
    """Run a program on ranks, all of `size` or some; what each returned or raised, in order.

    A rank that leaves nothing behind gives its exit code; None where it still runs. The
    one that hangs is looked at last.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "sklearn.datasets"])
    processes = [
        context.Process(target=_live, args=(program, rank, size, folder))
        for rank in ranks or range(size)
    ]
    for process in processes:
        process.start()
    try:
        for rank, process in enumerate(processes):
            if rank != hangs:
                process.join(60)
        return [_end(process, folder / f"{process.pid}") for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _end(process: BaseProcess, left: Path) -> Any:
    return pickle.loads(left.read_bytes()) if left.exists() else process.exitcode


def _live(program: Program, rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    left = folder / f"{os.getpid()}"
    try:
        join_s = 2 if program is nothing else 60
        url = f"file://{folder}/store"
        with joined(url=url, rank=rank, size=size, join_s=join_s) as meeting:
            found: object = program(meeting)
    except Exception as error:
        found = error
    left.with_suffix(".part").write_bytes(pickle.dumps(found))
    left.with_suffix(".part").rename(left)


def nothing(meeting: Meeting) -> None:
    """Meet, and leave."""


def schedules(nodes: int) -> dict[str, Schedule]:
    """Three topologies, one of them directed and one with a new W a round."""
    every = {
        "ring": ScheduleParams(graph="ring"),
        "exponential": ScheduleParams(graph="exponential"),
        "random_matching": ScheduleParams(graph="random_matching"),
    }
    return {
        name: build_schedule(params, nodes=nodes, rounds=3, seed=4)
        for name, params in every.items()
    }


def rows_of(nodes: int) -> Tensor:
    """(nodes, COLUMNS) float32."""
    return torch.randn(nodes, COLUMNS, generator=torch.Generator().manual_seed(7))


def exchanges(meeting: Meeting) -> dict[tuple[str, int], dict[str, Any]]:
    """Mix three rounds of three topologies, of a node a rank and of more; what was seen."""
    counts = dict.fromkeys(GATHERS, 0)
    with _counted(counts), patch.object(distributed, "P2POp", _Watched):
        seen = {
            (name, nodes): _exchange(meeting, schedule)
            for nodes in (meeting.size, 10)
            for name, schedule in schedules(nodes).items()
        }
    for figures in seen.values():
        figures["gathers"] = sum(counts.values())
    return seen


def _exchange(meeting: Meeting, schedule: Schedule) -> dict[str, Any]:
    ranks = Ranks(meeting, schedule.nodes, block=BLOCK)
    block = ranks.blocks.of(meeting.rank)
    place = slice(block.start, block.stop)
    every = rows_of(schedule.nodes)
    _Watched.most, same = 0, True
    for round in range(schedule.rounds):
        mixing = schedule.mixing(round)
        found = ranks.mixed(every[place], mixing)
        every = Here().mixed(every, mixing)
        same &= torch.equal(found, every[place])
    means = (ranks.mean(every[place]) - Here().mean(every)).abs().max().item()
    pairs = every[:, :2].double()
    return {
        "same": same,
        "mean": means,
        "total": torch.equal(ranks.total(pairs[place]), Here().total(pairs)),
        "every": torch.equal(ranks.every(pairs[place, 0]), pairs[:, 0]),
        "sent": ranks.sent,
        "edges": ranks.edges,
        "most": _Watched.most,
    }


class _Watched(distributed.P2POp):
    """Notes the most values that are received in one piece."""

    most = 0

    def __init__(self, op: Any, tensor: Tensor, peer: int) -> None:
        if op is distributed.irecv:
            _Watched.most = max(_Watched.most, tensor.numel())
        super().__init__(op, tensor, peer)


def _counted(counts: dict[str, int]) -> Any:
    def counting(name: str) -> Callable[..., Any]:
        def gather(*_: Any, **__: Any) -> None:
            counts[name] += 1

        return gather

    gathers: dict[str, Any] = {name: counting(name) for name in GATHERS}
    return patch.multiple(distributed, **gathers)


STUDIES = {
    "ring": (ScheduleParams(graph="ring"), QUICK),
    "one_peer": (ScheduleParams(graph="one_peer_exponential"), QUICK),
    "cnn": (ScheduleParams(graph="ring"), TaskOptions(nodes=4, steps=2, model="cnn")),
    "odd": (ScheduleParams(graph="ring"), TaskOptions(nodes=5, steps=2)),
}


def study_of(
    meeting: Meeting,
    params: ScheduleParams,
    options: TaskOptions,
    trainer_of: Callable[[int], Trainer] | None = None,
) -> Study:
    """This rank's part of a study of three rounds."""
    model = initial_model(options.trainer(0), options.seed)
    schedule = build_schedule(params, nodes=options.nodes, rounds=3, seed=options.seed)
    return over_ranks(
        meeting,
        trainer_of or options.trainer,
        model=model,
        rule=Gossip(),
        schedule=schedule,
        seed=options.seed,
    )


def studies(meeting: Meeting) -> dict[str, Any]:
    """For each study its moments and this rank's rows."""
    found = {}
    for name, (params, options) in STUDIES.items():
        study = study_of(meeting, params, options)
        moments = list(study.moments())
        fleet = study.crew.fleet
        found[name] = (moments, fleet.parameters.numpy(), fleet.statistics.numpy())
    return found


class Fated(ClassificationTrainer):
    """Trains until something happens to one node in one round."""

    def __init__(self, node: int, happens: Callable[[nn.Module], None]) -> None:
        super().__init__(**QUICK.of_node(node))
        self._happens, self._fated = happens, node == FATED

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        if self._fated and round == 1:
            self._happens(model)
        return super().train(model, round)


def _fated(meeting: Meeting, happens: Callable[[nn.Module], None]) -> None:
    study = study_of(
        meeting, ScheduleParams(graph="ring"), QUICK, trainer_of=lambda node: Fated(node, happens)
    )
    list(study.moments())


def failures(meeting: Meeting) -> list[Exception]:
    """What this rank hears where node 2 diverges, and where its trainer raises its own error."""

    def diverge(model: nn.Module) -> None:
        next(model.parameters()).data.fill_(float("nan"))

    def fail(_: nn.Module) -> None:
        raise ValueError("the user's own")

    return [_heard(meeting, diverge), _heard(meeting, fail)]


def _heard(meeting: Meeting, happens: Callable[[nn.Module], None]) -> Exception:
    try:
        _fated(meeting, happens)
    except Exception as error:
        return error
    raise AssertionError("nothing was heard")


def dying(meeting: Meeting) -> None:
    """The rank of node 2 is killed while it trains, and the others wait for it."""
    with patch.object(hearts, "SILENT_LOOKS", 6):
        _fated(meeting, lambda _: os.kill(os.getpid(), signal.SIGKILL))


def hanging(meeting: Meeting) -> None:
    """The rank of node 2 is stopped while it trains, and the others wait for it."""
    with patch.object(hearts, "SILENT_LOOKS", 6):
        _fated(meeting, lambda _: os.kill(os.getpid(), signal.SIGSTOP))


def cut(meeting: Meeting) -> None:
    """Rank 2 is killed while the others are in a sum with it."""
    for count in range(100):
        if meeting.rank == 2 and count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        meeting.total(torch.zeros(3))


def leaving(meeting: Meeting) -> None:
    """Rank 1 fails on its own, outside of any common work; the others are in the middle of it."""
    if meeting.rank == 1:
        raise OSError("no space left on device")
    while True:
        meeting.total(torch.zeros(3))
        time.sleep(0.05)


def plain(array: np.ndarray[Any, Any]) -> Tensor:
    """Back to a tensor; arrays travel between processes without shared memory."""
    return torch.from_numpy(array)
