"""Units mixed rather than put in another order: optimal transport between two models.

Each unit of the anchor is given a mixture of the other model's units. With equal shares of
all units the exact transport is an order (a doubly stochastic matrix of least cost is a
permutation), which `best_orders` finds; an entropy spreads it, and where no unit has a clear
counterpart several share one place. Units that never change have none, and share what is left.

Source: Singh and Jaggi 2020, "Model Fusion via Optimal Transport", section 4, with uniform
    marginals and Sinkhorn's iteration (Cuturi 2013, "Sinkhorn Distances"). Departures: one
    map for all tensors of a group, whatever the graph; maps come from the orders that were
    found for all groups rather than layer by layer; groups with others within them, and
    those whose makers and readers are not told apart, keep their exact map. Both models have
    the same widths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from weft.merging.alignment.activations import correlation_of
from weft.merging.alignment.assignment import Pairs, trees_of
from weft.merging.alignment.groups import Group
from weft.merging.alignment.observation import Seen
from weft.merging.alignment.orientation import Oriented, along_leaf
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.weights import Common
from weft.merging.errors import BadOption, CannotAlign

ITERATIONS: Final = 10_000
"""Of Sinkhorn's at most."""
EXACT: Final = 1e-3
"""How far the sum of a row may be from one before rows are divided by it a last time."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Transport:
    """Maps of a model's units to those of an anchor.

    Attributes:
        permutation: of the groups that are not mixed.
        maps: (size, size) float64, doubly stochastic; row a says what unit a is made of.
    """

    permutation: Permutation
    maps: Mapping[Oriented, Tensor]

    def applied(self, tensors: Tensors) -> dict[str, Tensor]:
        """A model's tensors, by name, in the anchor's units."""
        result = self.permutation.applied(tensors)
        groups = self.permutation.groups
        for oriented, matrix in self.maps.items():
            # A mixture's readers are mixed alike: rows and columns of a map sum to one.
            for side in (oriented.made, oriented.read):
                for name, places in side.items():
                    if name in result:
                        result[name] = along_leaf(
                            groups.axes,
                            result[name],
                            groups.layouts[name],
                            dict.fromkeys(places, matrix),
                            result[name].shape,
                        )
        return result


def transport_activations(
    oriented: Sequence[Oriented],
    permutation: Permutation,
    seen: Seen,
    regularisation: float,
) -> Transport:
    """Maps by the correlation of activations.

    Args:
        oriented: what can be mixed.
        permutation: the orders that were found by activations.
        seen: what the units of both models do.
        regularisation: the entropy's share beside costs of 0 to 1; 0: exact.

    Raises:
        BadOption: a regularisation below 0, or not finite.
        CannotAlign: one so small that Sinkhorn's iteration does not end.
    """
    return _softened(
        oriented, permutation, lambda group: correlation_of(group, seen), regularisation
    )


def transport_weights(
    oriented: Sequence[Oriented],
    permutation: Permutation,
    models: tuple[Tensors, Tensors],
    regularisation: float,
) -> Transport:
    """Maps by the inner products of weights, every group with the orders of all others.

    Args:
        oriented: what can be mixed.
        permutation: the orders that were found by weights.
        models: parameters by name, of the anchor and of the other model.
        regularisation: as in `transport_activations`.

    Raises:
        BadOption, CannotAlign: as `transport_activations`.
    """
    roots = {tree.group: tree for tree in trees_of(permutation.groups)}
    return _softened(
        oriented,
        permutation,
        lambda group: Common(permutation, *models, roots[group])(group),
        regularisation,
    )


def spread(scores: Tensor, regularisation: float) -> Tensor:
    """The doubly stochastic matrix of the largest score, with an entropy beside it.

    Args:
        scores: (size, size) float64; the largest of them is the unit of the regularisation.
        regularisation: above 0.

    Raises:
        CannotAlign: rows do not come to sum to one; the regularisation is too small.
    """
    exponents = scores / (scores.abs().max().clamp(min=1e-30) * regularisation)
    for _ in range(ITERATIONS):
        exponents = exponents - exponents.logsumexp(0, keepdim=True)
        rows = exponents.logsumexp(1, keepdim=True)
        exponents = exponents - rows
        if float(rows.abs().max()) < EXACT:
            return exponents.exp()
    raise CannotAlign(
        f"transport: rows are {float(rows.abs().max()):.1g} from one after {ITERATIONS}"
        f" iterations with regularisation {regularisation}; take a larger one, or 0 for exact maps"
    )


def _softened(
    oriented: Sequence[Oriented],
    permutation: Permutation,
    scores: Callable[[Group], Pairs | None],
    regularisation: float,
) -> Transport:
    if not (np.isfinite(regularisation) and regularisation >= 0):
        raise BadOption(f"regularisation = {regularisation}; expected a number from 0")
    maps: dict[Oriented, Tensor] = {}
    for each in oriented if regularisation else ():
        found = scores(each.group)
        if found is not None:
            maps[each] = spread(torch.from_numpy(found), regularisation)
    mixed = {each.group for each in maps}
    hard = {group: order for group, order in permutation.orders.items() if group not in mixed}
    return Transport(Permutation(permutation.groups, hard), maps)
