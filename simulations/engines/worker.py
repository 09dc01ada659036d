"""What a worker process does: it trains a block of nodes in memory that it shares.

It answers its parent's questions one after the other and ends when the parent closes the
connection, or is gone.
"""

import pickle
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from weft.checkpoints.allocator import keep_freed_buffers
from weft.errors import TrainingFailed
from weft.node.calibration import Moments
from weft.node.trainer import Trainer
from weft.simulations.engines.aligner import Alignment, Merge
from weft.simulations.engines.crew import Looped
from weft.simulations.engines.fleet import Fleet
from weft.simulations.engines.shared_tensors import SharedFleet, SharedTensor
from weft.simulations.engines.stacked_linear import StackedLinear

Packed: TypeAlias = dict[str, tuple[NDArray[np.float64], ...]]

Result = TypeVar("Result")

Build: TypeAlias = Callable[[range], Sequence[Trainer]]
"""Makes the trainers of some nodes, in their order; pickled on its way to a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What one worker is given.

    Attributes:
        nodes: whose models it trains, a part of the fleet's.
        rows: of all nodes of the fleet.
        model: (P,) a model that no node holds, where one is to be measured.
        merged: (nodes of the fleet, P) what comes of a merge, until the nodes take it.
        build: makes the trainers.
        seed: of the study.
        stack: so many nodes' linear layers are computed at once; 1: one node after another.
    """

    nodes: range
    rows: SharedFleet
    model: SharedTensor
    merged: SharedTensor
    build: Build
    seed: int
    stack: int


@dataclass(frozen=True, slots=True)
class Raised:
    """An error on its way to the parent.

    Attributes:
        error: as it was raised, or a `TrainingFailed` that tells of one that cannot be pickled.
        told: its traceback.
    """

    error: Exception
    told: str


def serve(connection: Connection, block: Block) -> None:
    """Answer (question, arguments) until the connection is closed.

    Every answer is a list, or `Raised`. The first comes unasked, when the trainers are there.
    """
    # An interrupt from the keyboard is the parent's to deal with.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_buffers()
    crew = _tried(lambda: _crew(block))
    try:
        connection.send(crew if isinstance(crew, Raised) else [])
        while not isinstance(crew, Raised):
            question, arguments = connection.recv()
            connection.send(_tried(partial(_answer, crew, block, question, arguments)))
    except (EOFError, ConnectionError):
        return  # nobody listens any more


def packed(moments: Mapping[str, Moments]) -> Packed:
    """Moments as arrays, by layer: torch would send each tensor through a file of its own."""
    return {
        layer: (found.count.numpy(), found.mean.numpy(), found.var.numpy())
        for layer, found in moments.items()
    }


def unpacked(arrays: Packed) -> dict[str, Moments]:
    """Moments as they were packed."""
    return {
        layer: Moments(*(torch.from_numpy(array) for array in found))
        for layer, found in arrays.items()
    }


def _crew(block: Block) -> Looped:
    whole = block.rows.fleet
    first = block.nodes.start - whole.nodes.start
    mine = slice(first, first + len(block.nodes))
    fleet = Fleet(
        nodes=block.nodes,
        parameters=whole.parameters[mine],
        statistics=whole.statistics[mine],
    )
    trainers = block.build(block.nodes)
    if block.stack > 1:
        return StackedLinear(fleet, trainers, block.seed, stack=block.stack)
    return Looped(fleet, trainers, block.seed)


def _answer(
    crew: Looped, block: Block, question: str, arguments: tuple[Any, ...]
) -> Sequence[object]:
    match question, arguments:
        case "train", (int(round),):
            losses: list[float] = crew.train(round).tolist()
            return losses
        case "evaluate", ():
            accuracies: list[float] = crew.evaluate().tolist()
            return accuracies
        case "re_estimate", ():
            crew.re_estimate()
            return []
        case "reset_optimizers", ():
            crew.reset_optimizers()
            return []
        case "merged", (merges, how):
            return _merged(crew, block, merges, how)
        case "moments", ():
            return [packed(found) for found in crew.moments_by_node(block.model.tensor)]
        case "score", (moments,):
            return [crew.score_with(block.model.tensor, unpacked(moments))]
        case _:  # a mistake of the parent's
            raise ValueError(f"no question {question!r} with {arguments!r}")


def _merged(crew: Looped, block: Block, merges: Sequence[Merge], how: Alignment) -> list[float]:
    """The shares that moved, of the merges of this block's nodes."""
    whole = block.rows.fleet
    aligner = crew.aligner_among(whole, block.build, how)
    shares = []
    for node in block.nodes:
        place = node - whole.nodes.start
        row, moved = aligner.merged(merges[place])
        block.merged.tensor[place] = row
        shares.append(moved)
    return shares


def _tried(work: Callable[[], Result]) -> Result | Raised:
    try:
        return work()
    except Exception as error:  # the parent raises it again
        return Raised(_portable(error), traceback.format_exc())


def _portable(error: Exception) -> Exception:
    """The error itself, if it comes out of a pickle as it went in."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception as reason:  # whatever a class of the user's does here
        failure = TrainingFailed(f"{type(error).__name__}: {error} (not picklable: {reason})")
    else:
        failure = TrainingFailed(f"{type(error).__name__}: {error} (pickled, it is another)")
    for note in getattr(error, "__notes__", ()):
        failure.add_note(note)
    return failure
