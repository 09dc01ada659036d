"""A crew of worker processes: a block of nodes each, in memory that all of them share.

    with closing(Workers(fleet, build, seed)) as crew:
        study = Study(crew=crew, ...)

What a node ends with does not depend on how many workers there are: each is trained by one
thread in one process, as `weft.simulations.engines.crew.Looped` would.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch import Tensor

from weft.simulations.engines.aligner import Alignment, Merge
from weft.simulations.engines.crew import pooled
from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.shared_tensors import SharedFleet, SharedTensor
from weft.simulations.engines.stacked_linear import stacks
from weft.simulations.engines.worker import Block, Build, Raised, packed, serve, unpacked
from weft.simulations.errors import BadOption, WorkerDied

PATIENCE_S = 5.0
"""How long workers may take to end when they are told to, before they are killed."""


class Workers:
    """Processes that train a fleet together; a `Crew`.

    Args:
        fleet: what the nodes start from; copied to shared memory, where `self.fleet` is.
        build: makes the trainers of a block of nodes, in the worker that trains them. Must
            be picklable: a function of a module, a `functools.partial` of one, an object.
        seed: of the study.
        workers: how many processes; 0: one a core. No more than there are stacks.
        stack: above 1, for nets of linear layers: so many nodes are computed at once, see
            `StackedLinear`, and results are those of `Looped` to rounding only.

    Raises:
        BadOption: a number of workers or a stack that cannot be.
        WorkerDied: a worker ended while it made its trainers. What `build` raises comes
            through as it is.
    """

    def __init__(
        self, fleet: Fleet, build: Build, seed: int, *, workers: int = 0, stack: int = 1
    ) -> None:
        if workers < 0 or stack < 1:
            raise BadOption(
                f"found workers = {workers}, stack = {stack}; "
                "expected workers 0 (one a core) or more, stack at least 1"
            )
        rows = SharedFleet(fleet)
        self.fleet = rows.fleet
        self._model = SharedTensor((fleet.parameters.shape[1],), torch.float32)
        # Memory is taken up when it is written to: by studies that align, and no others.
        self._merged = SharedTensor(tuple(fleet.parameters.shape), torch.float32)
        parts = blocks(fleet.nodes, workers or cores(), stack)
        self.manner = _manner(len(parts), stack)
        self._members: list[_Worker] = []
        try:
            for nodes in parts:
                block = Block(
                    nodes=nodes,
                    rows=rows,
                    model=self._model,
                    merged=self._merged,
                    build=build,
                    seed=seed,
                    stack=stack,
                )
                self._members.append(_Worker(block))
            self._answers()
        except BaseException:
            self.close()
            raise

    def train(self, round: int) -> Tensor:
        """Train every node's model for one round, in place; (nodes,) float64 mean losses.

        Raises:
            Diverged: a model that is not finite; names node and round.
            WorkerDied: a worker ended; names its nodes. The crew is closed.
        """
        return torch.tensor(self._ask("train", round), dtype=torch.float64)

    def re_estimate(self) -> None:
        """Measure running statistics again, each node on its own data; nothing where none are."""
        if self.fleet.statistics.shape[1]:
            self._ask("re_estimate")

    def evaluate(self) -> Tensor:
        """(nodes,) float64: each model's accuracy, a fraction, on the shared test set."""
        return torch.tensor(self._ask("evaluate"), dtype=torch.float64)

    def score(self, parameters: Tensor) -> float:
        """The accuracy of one model (P,) that no node holds; no node's state is touched.

        Its running statistics are measured over the data of all nodes.
        """
        self._model.tensor.copy_(parameters)
        # Node by node, so that the sum does not depend on where blocks are cut.
        moments = packed(pooled(unpacked(found) for found in self._ask("moments")))
        self._members[0].ask("score", moments)
        return float(self._answers(self._members[:1])[0])

    def merged(self, merges: Sequence[Merge], how: Alignment) -> tuple[Tensor, Tensor]:
        """Merges of aligned models, see `weft.simulations.engines.aligner.Aligns`."""
        moved = self._ask("merged", merges, how)
        return self._merged.tensor.clone(), torch.tensor(moved, dtype=torch.float64)

    def reset_optimizers(self) -> None:
        """Let every node go on with a new optimizer."""
        self._ask("reset_optimizers")

    def close(self) -> None:
        """End the workers; the rows stay as long as somebody holds them."""
        self._end(PATIENCE_S)

    def _end(self, patience_s: float) -> None:
        for member in self._members:
            member.dismiss()
        until = time.monotonic() + patience_s
        for member in self._members:
            member.end(until)

    def _ask(self, question: str, *arguments: object) -> list[Any]:
        for member in self._members:
            member.ask(question, *arguments)
        return self._answers()

    def _answers(self, members: Sequence["_Worker"] | None = None) -> list[Any]:
        """All workers' answers, in the order of the nodes."""
        asked = self._members if members is None else members
        waiting = list(asked)
        while waiting:
            ready = wait([source for member in waiting for source in member.sources])
            for member in [member for member in waiting if set(member.sources) & set(ready)]:
                if not member.listen():
                    # What the others are at is of no use any more.
                    self._end(0.0)
                    raise member.death()
                waiting.remove(member)
        for member in asked:
            if isinstance(member.answer, Raised):
                raise member.answer.error from _Told(member.answer.told)
        return [item for member in asked for item in member.answer]


class _Told(Exception):
    """A worker's traceback, as text, under what it raised."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class _Worker:
    """One process and the parent's end of its connection."""

    def __init__(self, block: Block) -> None:
        # Not fork: torch's threads, or others', may hold locks. The server imports torch once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["weft.simulations.engines.worker"])
        self.nodes = block.nodes
        self.answer: Any = None
        self._connection, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(
            target=serve, args=(theirs, block), daemon=True
        )
        self._process.start()
        # So that the end of the process is the end of the connection.
        theirs.close()

    @property
    def sources(self) -> tuple[Connection, int]:
        """What is ready to be read when there is an answer, or will never be one."""
        return self._connection, self._process.sentinel

    def ask(self, question: str, *arguments: object) -> None:
        """Send a question; that nobody listens is found when the answer is waited for."""
        try:
            self._connection.send((question, arguments))
        except ConnectionError:
            return

    def listen(self) -> bool:
        """Take the answer; False: there will be none."""
        try:
            if not self._connection.poll():
                return False
            self.answer = self._connection.recv()
        except (EOFError, ConnectionError):
            return False
        return True

    def death(self) -> WorkerDied:
        """What to tell of a worker that ended by itself."""
        code = self._process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "; was memory short? take fewer nodes, or fewer workers" if code == -9 else ""
        first, last = self.nodes[0], self.nodes[-1]
        named = f"node {first}" if first == last else f"nodes {first} to {last}"
        return WorkerDied(f"the worker of {named} ended ({how}) in the middle of its work{hint}")

    def dismiss(self) -> None:
        """Close the connection, upon which the worker ends when it has done its work."""
        self._connection.close()

    def end(self, until: float) -> None:
        """Wait for the process, kill it if it does not end by then (monotonic seconds)."""
        self._process.join(max(0.0, until - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blocks(nodes: range, workers: int, stack: int = 1) -> list[range]:
    """Consecutive nodes for each worker: even to one stack, none of which is cut.

    >>> blocks(range(20), 2, 8)
    [range(0, 8), range(8, 20)]
    """
    parts = stacks(nodes, stack)
    count = min(workers, len(parts))
    cuts = [len(parts) * place // count for place in range(count + 1)]
    return [
        range(nodes.start + parts[low].start, nodes.start + parts[high - 1].stop)
        for low, high in pairwise(cuts)
    ]


def _manner(workers: int, stack: int) -> str:
    processes = "1 worker" if workers == 1 else f"{workers} workers"
    way = f"linear layers of {stack} nodes at once" if stack > 1 else "one node after the other"
    return f"{processes}, {way}"
