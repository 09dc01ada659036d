"""Tensors that a process and those it starts hold at once.

The memory has no name anywhere, so that nothing can be left behind: it is gone when the
last process that holds it is, however that ended. It is none of /dev/shm's either, which
in a container is often smaller than a few models.
"""

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from math import prod
from multiprocessing.reduction import DupFd
from typing import Protocol

import torch
from torch import Tensor

from weft.simulations.engines.fleet import Fleet


class SharedTensor:
    """One tensor in shared memory; pickled only as an argument of a process that is started.

    Args:
        shape: of the tensor.
        dtype: of the tensor.

    Attributes:
        tensor: zeros at first; what one process writes all of them see.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._memory = _nameless(max(1, prod(shape) * dtype.itemsize))
        weakref.finalize(self, os.close, self._memory)
        self.tensor = _mapped(self._memory, shape, dtype)

    @classmethod
    def holding(cls, tensor: Tensor) -> "SharedTensor":
        """A copy of a tensor."""
        shared = cls(tuple(tensor.shape), tensor.dtype)
        shared.tensor.copy_(tensor)
        return shared

    def __reduce__(self) -> tuple[Callable[..., "SharedTensor"], tuple[object, ...]]:
        return _attached, (DupFd(self._memory), tuple(self.tensor.shape), self.tensor.dtype)


class SharedFleet:
    """The rows of nodes in shared memory; pickled as `SharedTensor` is.

    Args:
        fleet: what the rows start from; copied.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._nodes = fleet.nodes
        self._parameters = SharedTensor.holding(fleet.parameters)
        self._statistics = SharedTensor.holding(fleet.statistics)

    @property
    def fleet(self) -> Fleet:
        """The rows, as views: writing to them is writing to the shared memory."""
        return Fleet(
            nodes=self._nodes,
            parameters=self._parameters.tensor,
            statistics=self._statistics.tensor,
        )


class _Sent(Protocol):
    """A descriptor on its way to another process."""

    def detach(self) -> int:
        """The descriptor, in the process that it came to."""
        ...


def _attached(memory: _Sent, shape: tuple[int, ...], dtype: torch.dtype) -> SharedTensor:
    shared = SharedTensor.__new__(SharedTensor)
    shared._memory = memory.detach()
    weakref.finalize(shared, os.close, shared._memory)
    shared.tensor = _mapped(shared._memory, shape, dtype)
    return shared


def _nameless(size: int) -> int:
    """A descriptor of so many bytes that no folder lists."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("weft-rows", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.truncate(memory, size)
    return memory


def _mapped(memory: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if prod(shape) == 0:
        return torch.zeros(shape, dtype=dtype)
    # The tensor keeps the mapping alive, and the mapping outlives the descriptor.
    return torch.frombuffer(mmap.mmap(memory, 0), dtype=dtype, count=prod(shape)).view(shape)
