"""The ranks of a study: sums over them, rows from one to another, and one end for all.

Started by `torchrun`, one process a rank, on one host or many:

    torchrun --nproc-per-node 4 -m weft.cli simulate FILE

Vectors on the CPU go over gloo. With a CUDA device a rank takes the one of its place on
its host (`LOCAL_RANK`) and what lies there goes over NCCL. The tests run gloo; NCCL on
several devices has never been run.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from weft.simulations.engines.hearts import Hearts
from weft.simulations.errors import BadOption, Diverged, RankLost

T = TypeVar("T")

JOIN_S = 300.0
PATIENCE_S = 600.0
"""How long one sum or one block of rows may be under way; training is waited for in `together`."""


class Meeting:
    """All ranks of a study, as one of them sees them; see `joined`.

    What is named a collective here is to be called by all ranks, in one order.

    Args:
        rank: this one, from 0.
        size: how many.
        hearts: of all; started.
        device: where this rank's rows lie.
    """

    def __init__(self, *, rank: int, size: int, hearts: Hearts, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._hearts = hearts

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes and prints for all."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """A collective: the sum of all ranks' values, in place, the same bits everywhere.

        Raises:
            RankLost: a rank does not answer; names it.
        """
        with self.naming():
            distributed.all_reduce(values)
        return values

    def swap(self, leaving: Mapping[int, Tensor], arriving: Mapping[int, Tensor]) -> None:
        """Send tensors to some ranks while others of theirs are filled; by rank.

        Raises:
            RankLost: a rank is gone, or a tensor was under way for too long.
        """
        if not leaving and not arriving:
            return
        with self.naming():
            operations = [
                *(
                    distributed.P2POp(distributed.irecv, block, by)
                    for by, block in arriving.items()
                ),
                *(distributed.P2POp(distributed.isend, block, to) for to, block in leaving.items()),
            ]
            for work in distributed.batch_isend_irecv(operations):
                work.wait()

    def together(self, work: Callable[[], T]) -> T:
        """A collective: do one's own part and wait for the others'; where one failed, all stop.

        Raises:
            Diverged: on all ranks, where a node's model is not finite any more.
            RankLost: another rank's part failed in another way; says which and how.
        """
        try:
            found = work()
        except Exception as error:
            self._failures(error)
            raise
        self._failures(None)
        return found

    def first(self, value: float) -> float:
        """A collective: rank 0's value."""
        own = torch.tensor([value if self.leads else 0.0], dtype=torch.float64)
        return self.total(own).item()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Say of a connection that fails within who is at its other end.

        Raises:
            RankLost: names the rank that is gone.
        """
        try:
            yield
        except RuntimeError as error:
            raise self._hearts.lost(error) from error

    def _failures(self, own: Exception | None) -> None:
        """Hear of every rank's failure, and complain about the first where none is one's own."""
        self._hearts.meet()
        told = b"" if own is None else f"{type(own).__name__}\n{own}".encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(told)
        failed = self.total(lengths).nonzero().flatten().tolist()
        if not failed:
            return
        text = torch.zeros(int(lengths[failed[0]]), dtype=torch.uint8)
        if failed[0] == self.rank:
            text = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        heard = bytes(self.total(text).tolist()).decode()
        if own is None:
            raise _as_told(failed[0], heard)


@contextmanager
def joined(
    device: str = "cpu",
    *,
    url: str = "env://",
    rank: int = -1,
    size: int = -1,
    join_s: float = JOIN_S,
    patience_s: float = PATIENCE_S,
) -> Iterator[Meeting]:
    """Meet the other ranks; leave them at the end of the block, with a word where it failed.

    Args:
        device: "cpu", or "cuda" for the device of this rank's place on its host.
        url: where they meet: `env://` as `torchrun` sets it, or as torch's `rendezvous` knows.
        rank: this one; -1: the url says it.
        size: how many; -1: the url says it.
        join_s: how long the others may take to come.
        patience_s: how long one sum or one block of rows may be under way.

    Raises:
        BadOption: the environment is not one of `torchrun`, or has no such device.
        RankLost: not all ranks came, or one left before all were connected.
    """
    place = _device(device)
    store, rank, size = _rendezvous(url, rank, size, join_s)
    hearts = Hearts(store, rank, size)
    hearts.start(join_s)
    failed = True
    try:
        meeting = Meeting(rank=rank, size=size, hearts=hearts, device=place)
        with meeting.naming():
            distributed.init_process_group(
                "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl",
                store=PrefixStore("group", store),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=patience_s),
            )
        yield meeting
        failed = False
    except RankLost:
        raise
    except BaseException as error:
        hearts.tell(error)
        raise
    finally:
        hearts.leave(failed)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _device(device: str) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if device == "cuda" else 0
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= count:
        raise BadOption(
            f"device {device!r}: found {count} CUDA devices, expected one for local rank {place}; "
            "start fewer ranks on this host, or take device 'cpu'"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def _rendezvous(url: str, rank: int, size: int, timeout_s: float) -> tuple[Store, int, int]:
    timeout = timedelta(seconds=timeout_s)
    try:
        store, rank, size = next(rendezvous(url, rank, size, timeout=timeout))
    except ValueError as error:
        raise BadOption(
            f"no ranks to join: {error}; start the distributed engine with torchrun"
        ) from error
    return store, rank, size


def _as_told(rank: int, heard: str) -> Exception:
    """Another rank's failure as an error of this one."""
    kind, _, text = heard.partition("\n")
    if kind == Diverged.__name__:
        return Diverged(text)
    return RankLost(f"rank {rank} failed: {kind}: {text}")
