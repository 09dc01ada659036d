"""One contribution's share of a merged vector: a bit an element, and a number.

A merged vector that holds something of each contribution gives a contribution's task
vector back, nearly, where a mask says which elements are its own, and a number how long
they should be: thirty times less to keep than the task vector. EMR does so with the
unified vector of `emr`, TALL masks with the plain sum of the task vectors.

    bits = emr_mask(delta, unified)                  one block, to be kept
    sums = emr_sums(delta, unified)                  one block, added up over the model
    scale = rescaler(all_sums)                       one number, to be kept
    restored(unified, bits, scale)                   one block, about delta

Pure functions of blocks on the CPU, flat or of any shape. Merged vectors are those
before any scale: `Emr(scale=1.0)`, `TaskArithmetic(scale=1.0)` with weights of one.

Source: Huang et al. 2024, EMR-Merging, arXiv:2405.17461, section 3; Wang et al. 2024,
    Localizing task information, arXiv:2405.07813, section 4. The number of TALL masks
    is one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.merging.errors import CannotMerge


@dataclass(frozen=True, slots=True, kw_only=True)
class EmrSums:
    """Sums over a block, a tensor or a model; they add.

    Attributes:
        own: of |D|.
        unified: of |u| over the elements of the mask.
    """

    own: float
    unified: float

    def __add__(self, other: "EmrSums") -> "EmrSums":
        return EmrSums(own=self.own + other.own, unified=self.unified + other.unified)


def wanted(block: Tensor, total: Tensor, share: float) -> Tensor:
    """1 where |D| >= share * |S - D|, else 0.

    Args:
        block: D, float32 or float64. Not modified.
        total: S, the sum of all task vectors, of the same shape and dtype. Not modified.
        share: lambda.

    Returns:
        Of the block's shape, uint8.
    """
    _require_same_shape(block, total)
    others = (total - block).abs_().mul_(share)
    marks = torch.empty(block.shape, dtype=torch.bool)
    # A tenth of the time of the same comparison in torch.
    np.greater_equal(block.abs().numpy(), others.numpy(), out=marks.numpy())
    return marks.view(torch.uint8)


def agreeing(block: Tensor, unified: Tensor) -> Tensor:
    """1 where D and u have the same sign, neither being zero, else 0.

    Args:
        block: D. Not modified.
        unified: u, of the same shape and dtype. Not modified.

    Returns:
        Of the block's shape, uint8.
    """
    _require_same_shape(block, unified)
    # Of the signs, for a product of small numbers may be zero.
    return torch.sign(block).mul_(torch.sign(unified)).clamp_(min=0).to(torch.uint8)


def tall_mask(block: Tensor, total: Tensor, share: float) -> Tensor:
    """The mask of one contribution's block over the sum of all; see `wanted`, `packed`."""
    return packed(wanted(block, total, share))


def emr_mask(block: Tensor, unified: Tensor) -> Tensor:
    """The mask of one contribution's block over the unified vector; see `agreeing`, `packed`."""
    return packed(agreeing(block, unified))


def emr_sums(block: Tensor, unified: Tensor) -> EmrSums:
    """What a block adds to the rescaler.

    Args:
        block: D. Not modified.
        unified: u, of the same shape and dtype. Not modified.
    """
    marked = unified.double() * agreeing(block, unified)
    return EmrSums(own=block.double().abs().sum().item(), unified=marked.abs_().sum().item())


def rescaler(sums: Iterable[EmrSums]) -> float:
    """The factor that gives a masked vector its contribution's length: sum |D| / sum |M u|.

    Args:
        sums: of all blocks of the model, in the same order wherever the same number is
            expected. For the mean of each tensor rather than its sum, as in the authors'
            code, divide those of a tensor by its number of elements before.

    Returns:
        1 for a task vector of zeros.

    Raises:
        CannotMerge: no sign of it is in the unified vector, so nothing can be restored.
    """
    total = sum(sums, EmrSums(own=0.0, unified=0.0))
    if total.unified > 0:
        return total.own / total.unified
    if total.own > 0:
        raise CannotMerge("no element of the task vector has the sign of the unified vector")
    return 1.0


def restored(merged: Tensor, bits: Tensor, scale: float = 1.0) -> Tensor:
    """A contribution's task vector from the merged one: scale * M * merged.

    Args:
        merged: the unified vector or the sum; a block, of any shape. Not modified.
        bits: of the same block, as `packed`.
        scale: the `rescaler`; 1 for TALL masks.

    Returns:
        Of the block's shape and dtype.

    Raises:
        CannotMerge: the bits are not those of a block of this size.
    """
    return unpacked(bits, tuple(merged.shape)).to(merged.dtype).mul_(merged).mul_(scale)


def packed(marks: Tensor) -> Tensor:
    """Eight marks a byte, the first in the lowest bit; the last byte is filled with zeros.

    Args:
        marks: of any shape, uint8, each 0 or 1.

    Returns:
        (ceil(elements / 8),), uint8.
    """
    return torch.from_numpy(np.packbits(marks.numpy().reshape(-1), bitorder="little"))


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The marks that `packed` packed, of that shape, uint8.

    Raises:
        CannotMerge: the bits are not those of a block of this size.
    """
    elements = int(np.prod(shape, dtype=np.int64))
    expected = -(-elements // 8)
    if bits.dtype != torch.uint8 or bits.shape != (expected,):
        raise CannotMerge(
            f"mask: {bits.dtype} of shape {tuple(bits.shape)} found, expected torch.uint8 of"
            f" shape ({expected},) for {elements} elements"
        )
    marks = np.unpackbits(bits.numpy(), count=elements, bitorder="little")
    return torch.from_numpy(marks).reshape(shape)


def _require_same_shape(block: Tensor, merged: Tensor) -> None:
    """A broadcast would silently mask the wrong thing."""
    if block.shape != merged.shape:
        raise CannotMerge(
            f"mask: a task vector of shape {tuple(block.shape)} does not fit a merged one of"
            f" shape {tuple(merged.shape)}"
        )
