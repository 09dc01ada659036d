"""Work by several threads: order, errors in turn, memory, and that nothing is left running."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch

from weft.checkpoints.parallel import Job, Workers, one_thread

THREADS = [1, 2, 4]


def workers_alive() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("weft-merge")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert workers_alive() == []


def slow(number: int) -> Callable[[], int]:
    """The first ones take longest."""

    def run() -> int:
        time.sleep(0.003 * (7 - number % 8))
        return number

    return run


def failing(message: str) -> Callable[[], int]:
    def run() -> int:
        raise ValueError(message)

    return run


@pytest.mark.parametrize("threads", THREADS)
def test_results_come_in_the_order_of_the_jobs(threads: int) -> None:
    jobs = [Job(slow(number)) for number in range(40)]
    assert list(Workers(threads).ordered(jobs)) == list(range(40))
    assert list(Workers(threads).ordered([])) == []


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_comes_in_its_turn_and_drops_what_has_not_begun(threads: int) -> None:
    ran: list[int] = []

    def noted(number: int) -> Callable[[], int]:
        def run() -> int:
            ran.append(number)
            return number

        return run

    jobs = [*(Job(slow(n)) for n in range(3)), Job(failing("the fourth")), Job(failing("later"))]
    jobs += [Job(noted(number)) for number in range(100)]
    results = Workers(threads).ordered(jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert len(ran) <= 3 * threads
    assert list(results) == []


@pytest.mark.parametrize("threads", [2, 4])
def test_no_more_is_under_way_than_the_memory_holds(threads: int) -> None:
    lock, open_bytes, most = threading.Lock(), 0, 0
    costs = [10, 60, 30, 30, 500, 1, 50, 50, 50, 20] * 4

    def taking(cost: int) -> Callable[[], int]:
        def run() -> int:
            time.sleep(0.002)
            return cost

        return run

    def made() -> Iterator[Job[int]]:
        # A job is taken from here just before it goes under way, but for one at the door.
        nonlocal open_bytes, most
        for cost in costs:
            with lock:
                most = max(most, open_bytes)
                open_bytes += cost
            yield Job(taking(cost), cost)

    for cost in Workers(threads, budget=100).ordered(made()):
        with lock:
            open_bytes -= cost
    assert most <= 100 + 500
    assert open_bytes == 0


def test_a_job_beyond_the_budget_runs_alone() -> None:
    running, together = 0, []
    lock = threading.Lock()

    def run() -> int:
        nonlocal running
        with lock:
            running += 1
            together.append(running)
        time.sleep(0.003)
        with lock:
            running -= 1
        return 0

    jobs = [Job(run, 1000) for _ in range(6)]
    assert list(Workers(4, budget=10).ordered(jobs)) == [0] * 6
    assert max(together) == 1
    together.clear()
    list(Workers(4, budget=10_000).ordered(jobs))
    assert max(together) > 1


@pytest.mark.parametrize("threads", THREADS)
def test_closing_drops_the_rest_and_ends_the_threads(threads: int) -> None:
    ran = []
    jobs = (Job(lambda number=number: ran.append(number)) for number in range(1000))  # type: ignore[misc]
    with closing(Workers(threads).ordered(jobs)) as results:
        for _ in range(3):
            next(results)
    assert len(ran) <= 3 + 4 * threads
    assert workers_alive() == []
    assert next(jobs, None) is not None


@pytest.mark.parametrize("threads", THREADS)
def test_jobs_that_cannot_be_made_end_the_work(threads: int) -> None:
    def made() -> Iterator[Job[int]]:
        yield Job(slow(0))
        raise LookupError("no more jobs")

    with pytest.raises(LookupError, match="no more jobs"):
        list(Workers(threads).ordered(made()))


@pytest.mark.parametrize("threads", THREADS)
def test_each_job_computes_on_one_torch_thread(threads: int) -> None:
    before = torch.get_num_threads()
    jobs = [Job(torch.get_num_threads) for _ in range(8)]
    with one_thread():
        assert list(Workers(threads).ordered(jobs)) == [1] * 8
    assert torch.get_num_threads() == before


def fail_on_one_thread() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError


def test_the_number_of_torch_threads_comes_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError):
            fail_on_one_thread()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
