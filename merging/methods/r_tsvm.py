"""R-TSVM: TSV-M with columns weighted by their outliers and ranks by sparsity."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.merging.hyperparameters import option
from weft.merging.methods.tsv_m import TsvM


@dataclass(frozen=True, slots=True, kw_only=True)
class RTsvm(TsvM):
    """TSV-M of D_i diag(a_i), with as many triplets as the layer is dense.

    a_i, (in,), is n (c_i + 1) / sum_j (c_j + 1), where c_i counts, column by column, the
    elements of D_i that are further than `outlier` standard deviations from the mean of
    D_i: at each input, who changed it strikingly has more to say. Of each, the
    min(out, in) / n * dense / `density` leading triplets are kept, rounded down, at least
    one and at most all, where `dense` is the share of elements, over all contributions,
    of magnitude above `zero` standard deviations. Weights scale task vectors and are
    first brought to a mean of one; a negative one unlearns, but their sum must be
    positive. Tensors that are not linear weights are averaged by weight.

    Attributes:
        outlier: in standard deviations of a task vector over the tensor.
        zero: likewise; at 0, elements that did not move at all.
        density: what `dense` is on average over the layers of the model.
        budget: as in `TsvM`: room for so many contributions; zero: those that are there.
        scale: factor of the result.
        tables: which tensors are no linear weights.

    Source: Yang et al. 2025, Mix data or merge models, arXiv:2502.06876, whose abstract
        names outlier-aware weights and ranks that follow sparsity. The formulas were not
        to be had: those above are a proposal of ours in this spirit. A tensor at a time
        does not know the mean density over layers, so it is an option.
    """

    outlier: float = option(3.0, "standard deviations beyond which an element counts", above=0)
    zero: float = option(0.0, "standard deviations up to which an element is none", least=0)
    density: float = option(1.0, "mean share of non-zero elements over layers", above=0, most=1)

    def prepared(self, blocks: Sequence[Tensor]) -> Iterable[Tensor]:
        """Each with its columns weighted."""
        columns = self._column_weights(blocks)
        return (block * row for block, row in zip(blocks, columns, strict=True))

    def _column_weights(self, blocks: Sequence[Tensor]) -> Tensor:
        """(n, in), of mean one over the contributions."""
        counts = []
        for block in blocks:
            deviation, mean = torch.std_mean(block.to(torch.float64), correction=0)
            counts.append(((block - mean).abs() > self.outlier * deviation).sum(dim=0) + 1)
        together = torch.stack(counts).to(torch.float64)
        return together * (len(blocks) / together.sum(dim=0))

    def kept(self, blocks: Sequence[Tensor]) -> int:
        """How many triplets of each."""
        dense = sum(self._dense(block) for block in blocks) / len(blocks)
        most = min(blocks[0].shape)
        room = most / (self.budget or len(blocks))
        return min(most, max(1, int(room * dense / self.density + 1e-9)))

    def _dense(self, block: Tensor) -> float:
        cut = self.zero * float(block.to(torch.float64).std(correction=0))
        return float((block.abs() > cut).double().mean())
