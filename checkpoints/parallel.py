"""Work done by several threads, results in order, a bounded part of it in memory.

Torch, the disk and the hash let go of the interpreter's lock while they work, so threads
keep every core busy. Each computes with one torch thread: reductions and decompositions
give other bytes on another number, and oversubscribed threads cost many times their worth.
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Job(Generic[Result]):
    """A piece of work and the bytes that it takes while it is under way."""

    run: Callable[[], Result]
    cost: int = 0


class Workers:
    """Some threads and the memory that they may fill between them.

    Args:
        threads: how many; with one the work is done where the results are asked for.
        budget: bytes of all jobs that are under way or whose results wait. A job that
            alone takes more runs all the same, with nothing beside it.
        device: where the jobs compute.
    """

    def __init__(self, threads: int = 1, budget: int = sys.maxsize, device: str = "cpu") -> None:
        self.threads = threads
        self.device = device
        self.budget = budget

    def ordered(self, jobs: Iterable[Job[Result]]) -> Generator[Result, None, None]:
        """The results of the jobs, in their order, whoever is done first.

        What a job raises is raised when it is its turn; jobs that have not begun are
        dropped then. Close the iterator where it is not read to its end.
        """
        if self.threads == 1:
            return (job.run() for job in jobs)
        return self._overlapped(iter(jobs))

    def _overlapped(self, jobs: Iterator[Job[Result]]) -> Generator[Result, None, None]:
        waiting: deque[tuple[Future[Result], int]] = deque()
        taken = 0
        pool = ThreadPoolExecutor(
            self.threads, "weft-merge", initializer=_prepare_thread, initargs=(self.device,)
        )
        try:
            for job in jobs:
                while waiting and (
                    taken + job.cost > self.budget or len(waiting) >= 3 * self.threads
                ):
                    future, cost = waiting.popleft()
                    yield future.result()
                    taken -= cost
                waiting.append((pool.submit(job.run), job.cost))
                taken += job.cost
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare_thread(device: str) -> None:
    torch.set_num_threads(1)
    if device != "cpu":
        # A stream of its own: one thread's copies run beside another's arithmetic.
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


@contextmanager
def one_thread() -> Iterator[None]:
    """Reductions and decompositions give other bytes on another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
