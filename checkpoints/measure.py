"""What guards want to know of task vectors: norms, angles, what is not finite."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weft.checkpoints.contribution import Contribution, require_alike, require_names
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.parallel import one_thread
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.task_vectors import PIECE_ELEMENTS
from weft.merging.deltas import GramSum


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaStatistics:
    """What guards want to know of the task vectors of some contributions.

    Attributes:
        names: of the contributions, in the order given.
        norms: (n,), float64; Euclidean, over all parameters.
        gram: (n, n), float64; inner products, exactly symmetric.
        non_finite: which tensors of a contribution hold a NaN or an infinity; has only
            those that hold some. Their norms, rows and columns are NaN.
    """

    names: tuple[str, ...]
    norms: npt.NDArray[np.float64]
    gram: npt.NDArray[np.float64]
    non_finite: Mapping[str, tuple[str, ...]]


def measure(contributions: Sequence[Contribution], base: TensorReader | None) -> DeltaStatistics:
    """Norms and inner products of task vectors over all parameters, in one pass.

    Weights play no part. Where one contribution is not finite, the others are measured
    all the same.

    Raises:
        CannotMerge: no contribution, or two of one name.
        SchemaMismatch: a tensor is missing somewhere or has another shape.
    """
    names = require_names(contributions)
    specs = contributions[0].reader.schema.parameters
    require_alike(specs, base, contributions)
    sums = GramSum(len(names))
    bad: dict[int, list[str]] = {}
    with one_thread():
        for spec in specs:
            for index in _measure_tensor(spec, base, contributions, sums):
                bad.setdefault(index, []).append(spec.name)
        gram, norms = sums.gram(), sums.norms()
    spoiled = sorted(bad)
    norms[spoiled] = torch.nan
    gram[spoiled, :] = torch.nan
    gram[:, spoiled] = torch.nan
    return DeltaStatistics(
        names=names,
        norms=norms.numpy(),
        gram=gram.numpy(),
        non_finite={names[index]: tuple(bad[index]) for index in spoiled},
    )


def _measure_tensor(
    spec: TensorSpec,
    base: TensorReader | None,
    contributions: Sequence[Contribution],
    sums: GramSum,
) -> list[int]:
    """Count one tensor in; the indices of those that are not finite in it."""
    bad: set[int] = set()
    rows = torch.empty(
        (len(contributions), min(PIECE_ELEMENTS, spec.elements)), dtype=torch.float64
    )
    for base_block, blocks in _lockstep(spec, base, contributions):
        for piece in _pieces(blocks[0].numel()):
            deltas = rows[:, : piece.stop - piece.start]
            for row, block in zip(deltas, blocks, strict=True):
                row.copy_(block[piece])
            if base_block is not None:
                deltas.sub_(base_block[piece].to(torch.float64))
            squares = sums.add(deltas)
            # A square that is not finite may still be of finite values, only huge.
            for index in (~squares.isfinite()).nonzero().flatten().tolist():
                if not bool(deltas[index].isfinite().all()):
                    bad.add(index)
    return sorted(bad)


def _lockstep(
    spec: TensorSpec, base: TensorReader | None, contributions: Sequence[Contribution]
) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """The same block of the base and of every contribution, one block after the other."""
    readers = [item.reader for item in contributions]
    streams = [
        reader.blocks(spec.name) for reader in (readers if base is None else [base, *readers])
    ]
    for blocks in zip(*streams, strict=True):
        if len({block.numel() for block in blocks}) != 1:
            raise SchemaMismatch(f"tensor {spec.name!r}: the readers cut it into unlike blocks")
        yield (None, list(blocks)) if base is None else (blocks[0], list(blocks[1:]))


def _pieces(elements: int) -> Iterator[slice]:
    for start in range(0, elements, PIECE_ELEMENTS):
        yield slice(start, min(start + PIECE_ELEMENTS, elements))
