"""Krum: the one contribution that lies closest to most others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from weft.merging.distances import Floats, squared_distances
from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Combination, Extent, Facts
from weft.merging.table import name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Krum(Combination):
    """The D_i with the smallest sum of squared distances to its n - f - 2 nearest others.

    Over the whole model. Of a tie, the first by name. Needs n >= 2 f + 3. One model is
    returned as it is, so nothing is averaged even if nobody is hostile; with n = 2 the
    choice says nothing. Weights say who takes part and nothing else.

    Attributes:
        hostile: f, how many may be hostile. -1: as many as n withstands, (n - 3) / 2
            rounded down.

    Source: Blanchard et al. 2017, Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, arXiv:1703.02757, section 4. With fewer than f + 3, where the
        paper has no neighbour to look at, the nearest one counts.
    """

    span: ClassVar[Extent] = Extent.MODEL
    proportional: ClassVar[bool] = True

    hostile: int = option(-1, "f, how many may be hostile; -1: as many as can be", least=-1)

    @property
    def gives_back_one(self) -> bool:
        """There is no other to choose; refused where others were counted on."""
        return self.hostile <= 0

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        """One for the chosen one, zero for all others."""
        scores = krum_scores(gram, withstood(self, self.hostile, len(facts)))
        chosen = int(scores.argmin())
        return [float(index == chosen) for index in range(len(facts))]


def withstood(method: object, hostile: int, count: int) -> int:
    """The f for this number of contributions.

    Raises:
        CannotMerge: more was asked for than it withstands.
    """
    if hostile < 0:
        return max((count - 3) // 2, 0)
    if hostile > 0 and count < 2 * hostile + 3:
        raise CannotMerge(
            f"{name_of(method)}: {count} contributions have a weight other than zero;"
            f" to withstand {hostile} hostile ones, at least {2 * hostile + 3} are needed"
        )
    return hostile


def krum_scores(gram: Tensor, hostile: int) -> Floats:
    """(n,): the sum of squared distances to the nearest n - f - 2, at least one."""
    count = len(gram)
    squares = squared_distances(gram.numpy())
    np.fill_diagonal(squares, np.inf)
    neighbours = min(max(count - hostile - 2, 1), count - 1)
    scores: Floats = np.sort(squares, axis=1)[:, :neighbours].sum(axis=1)
    return scores
