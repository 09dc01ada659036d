"""Norms and angles of task vectors, gathered block by block.

Float64 throughout. Norms and angles are deterministic on one thread: a product of
matrices may add in another order on two.

>>> sums = GramSum(2)
>>> sums.add(torch.tensor([[3.0, 4.0], [4.0, -3.0]], dtype=torch.float64)).tolist()
[25.0, 25.0]
>>> sums.norms().tolist(), cosines(sums.gram())[0, 1].item()
([5.0, 5.0], 0.0)
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class GramSum:
    """G_ij = <D_i, D_j>, summed over blocks.

    A NaN or an infinity spoils the row and the column of its own task vector only.
    """

    def __init__(self, count: int) -> None:
        self._gram = torch.zeros((count, count), dtype=torch.float64)

    def add(self, deltas: Tensor) -> Tensor:
        """Count in a block.

        Args:
            deltas: (count, elements), float64. Not modified.

        Returns:
            (count,), float64: the squared norms of this block alone.
        """
        block = deltas @ deltas.T
        self._gram += block
        return block.diagonal()

    def norms(self) -> Tensor:
        """Euclidean norms so far, (count,), float64."""
        return self._gram.diagonal().sqrt()

    def gram(self) -> Tensor:
        """(count, count), float64, exactly symmetric."""
        return (self._gram + self._gram.T) / 2


def delta_norm(blocks: Iterable[Tensor]) -> float:
    """Euclidean norm of one task vector given in blocks, of any float dtype.

    Infinity or NaN where a value is.
    """
    total = 0.0
    for block in blocks:
        flat = block.flatten().to(torch.float64)
        total += torch.dot(flat, flat).item()
    return float(total**0.5)


def cosines(gram: Tensor) -> Tensor:
    """Cosines between task vectors from their Gram matrix; zero for a zero vector.

    Args:
        gram: (n, n), float64; not modified.

    Returns:
        (n, n), float64, within [-1, 1].
    """
    norms = gram.diagonal().sqrt()
    products = torch.outer(norms, norms)
    quotients = torch.where(products > 0, gram / products, torch.zeros_like(gram))
    return quotients.clamp(-1.0, 1.0)
