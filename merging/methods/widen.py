"""WIDEN: columns weighed by how far their length and their direction moved."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from weft.merging.consensus import require_finite
from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.matrices import EMBEDDINGS
from weft.merging.method import Facts, Joint, Need, Scope
from weft.merging.monoids import Shape

_ROWS: Final = 256
"""Rows whose squares are in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widen(Joint):
    """sum_i D_i diag((score of length + score of direction) / 2), column by column.

    Of a matrix (out, in): how far a column moved is its change in length, ||W_c| - |W0_c||,
    and in direction, 1 - cos(W_c, W0_c). Each is replaced by its rank among the columns
    of its model divided by their number, and scored: the softmax of the ranks over the
    models, or `calibration` where a rank is above `above_average` times the model's mean.
    Scores are not normalised: columns that moved much are added in full. Equal columns are
    ranked from left to right. A direction of a column of zeros has a cosine of 0.

    Tables of embeddings are transposed first: their columns are tokens. Of vectors, |D|
    itself is scored, element by element, against its mean over the tensor. More dimensions
    are columns of (first, all others). Matrices are held whole, those of all contributions
    at once. Weights say who takes part and nothing else.

    Attributes:
        above_average: t.
        calibration: s. With 1, one contribution is given back.
        embeddings: a regular expression searched for in names.

    Source: Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained Large
        Language Models via Weight Disentanglement, arXiv:2408.03092, section 4, and the
        authors' released code for vectors. Theirs transposes `model.embed_tokens.weight`
        alone and knows no more than two dimensions. Changes are computed here from the
        inner products of D and W0, where nothing of similar size is subtracted.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE, Need.SUMS})
    proportional: ClassVar[bool] = True

    above_average: float = option(1.0, "t, how many mean ranks a column must exceed", least=0)
    calibration: float = option(1.0, "s, the score of the columns that do")
    embeddings: str = option(
        EMBEDDINGS, "regular expression: tables, which are transposed", pattern=True
    )

    @property
    def gives_back_one(self) -> bool:
        """A softmax over one model is one, too."""
        return self.calibration == 1

    def scope(self, name: str, shape: Shape) -> Scope:
        """Whole, but vectors."""
        return Scope.MATRIX if len(shape) >= 2 else Scope.ELEMENT

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        """Each task vector times its scores, summed."""
        require_finite(name, blocks, facts)
        if blocks[0].numel() == 0:
            return torch.zeros_like(blocks[0])
        if blocks[0].ndim < 2:
            means = [_mean_magnitude(name, fact) for fact in facts]
            return _weighted(blocks, self._scores([block.abs() for block in blocks], means))
        matrices = [self._as_columns(name, block) for block in blocks]
        theirs = None if base is None else self._as_columns(name, base)
        scores = self._column_scores(matrices, theirs)
        merged = self._as_columns(name, _weighted(matrices, scores))
        return merged.reshape(blocks[0].shape)

    def _as_columns(self, name: str, tensor: Tensor) -> Tensor:
        """(out, in); a table transposed. Applied twice to a matrix, the matrix again."""
        matrix = tensor.reshape(tensor.shape[0], -1)
        return matrix.T if re.search(self.embeddings, name) else matrix

    def _column_scores(self, matrices: Sequence[Tensor], base: Tensor | None) -> list[Tensor]:
        """(in,) a model, float64."""
        changes = [_changes(matrix, base) for matrix in matrices]
        columns = matrices[0].shape[1]
        means = [(columns - 1) / (2.0 * columns)] * len(matrices)
        longer = self._scores([_ranks(length) for length, _ in changes], means)
        turned = self._scores([_ranks(direction) for _, direction in changes], means)
        return [(one + two) / 2 for one, two in zip(longer, turned, strict=True)]

    def _scores(self, moved: Sequence[Tensor], means: Sequence[float]) -> list[Tensor]:
        """The softmax over the models, the calibration where one is above its mean."""
        found = []
        for score, change, mean in zip(_softmax(moved), moved, means, strict=True):
            important = change > mean * self.above_average
            found.append(score.masked_fill_(important, self.calibration))
        return found


def _softmax(values: Sequence[Tensor]) -> list[Tensor]:
    """exp(x_i) / sum_j exp(x_j); an element's bits do not depend on its place."""
    largest = values[0]
    for value in values[1:]:
        largest = torch.maximum(largest, value)
    powers = [(value - largest).exp_() for value in values]
    total = torch.zeros_like(largest)
    for power in powers:
        total += power
    return [power.div_(total) for power in powers]


def _weighted(blocks: Sequence[Tensor], scores: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(blocks[0])
    for block, score in zip(blocks, scores, strict=True):
        # Not addcmul: it may fuse, and then an element's last bits depend on its place.
        total += block * score.to(total.dtype)
    return total


def _mean_magnitude(name: str, fact: Facts) -> float:
    if fact.sums is None:
        raise CannotMerge(f"{fact.contribution}, tensor {name!r}: no sums over it were given")
    return fact.sums.absolute / max(fact.sums.elements, 1)


def _ranks(values: Tensor) -> Tensor:
    """Places in rising order, divided by how many there are; equal ones from the left."""
    places = torch.empty_like(values)
    places[values.argsort(stable=True)] = torch.arange(len(values), dtype=values.dtype)
    return places.div_(len(values))


def _changes(delta: Tensor, base: Tensor | None) -> tuple[Tensor, Tensor]:
    """How far the columns of base + delta moved in length and in direction; (in,) each.

    With a = |d|^2, b = <d, w0>, c = |w0|^2 of a column: |w|^2 = c + 2 b + a, so the
    lengths differ by (2 b + a) / (|w| + |w0|). What of d is orthogonal to w0 has the
    square a - b^2 / c, which is |w|^2 sin^2, and 1 - cos = sin^2 / (1 + cos).
    """
    a = _column_products(delta, delta)
    if base is None:
        return a.sqrt(), (a > 0).to(torch.float64)
    b, c = _column_products(delta, base), _column_products(base, base)
    squares = (c + 2 * b + a).clamp_(min=0)
    lengths, before = squares.sqrt(), c.sqrt()
    moved = (2 * b + a).abs_().div_((lengths + before).clamp_(min=_TINY))
    cosines = ((c + b) / (before * lengths).clamp_(min=_TINY)).clamp_(-1, 1)
    sines = ((a - b * b / c.clamp(min=_TINY)) / squares.clamp(min=_TINY)).clamp_(0, 1)
    turned = torch.where(cosines > 0, sines / (1 + cosines), 1 - cosines)
    return moved, turned.masked_fill_(a == 0, 0.0)


_TINY: Final = 1e-300


def _column_products(one: Tensor, two: Tensor) -> Tensor:
    """The inner product of each column with its like; (in,), float64."""
    total = torch.zeros(one.shape[1], dtype=torch.float64)
    for start in range(0, one.shape[0], _ROWS):
        left = one[start : start + _ROWS].to(torch.float64)
        total += (left * two[start : start + _ROWS]).sum(0)
    return total
