"""Matching by what units do: the correlation of activations on a node's own data.

Source: Saadati et al. 2024, "DIMAT", Algorithm 1, after Li et al. 2015, "Convergent
    Learning" and Stoica et al. 2023, "ZipIt!": units are matched by the correlation of their
    activations. Departures: activations are taken where a contraction reads them, which a
    traced graph tells, and not at marks in a graph written by hand; correlations of all
    readers of a group are added; dead units correlate with nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from weft.merging.alignment.assignment import Pairs, Tree, best_orders, trees_of
from weft.merging.alignment.groups import Group, Groups
from weft.merging.alignment.observation import Batch, Seen, observed
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.tracing import Traced
from weft.merging.alignment.weights import Common

TIE: Final = 1e-4
"""How much weights count beside correlations, where some unit never changes."""

Tensors = Mapping[str, Tensor]


def match_activations(
    traced: Traced,
    groups: Groups,
    anchor: Tensors,
    other: Tensors,
    batches: Iterable[Batch],
    dtype: torch.dtype | None = None,
) -> Permutation:
    """The order of another model's units in which they do most alike to the anchor's.

    Units that never change, and groups that nothing reads, are matched by weights.

    Args:
        traced: the graph of both; it says of which shapes the batches are.
        groups: of both.
        anchor: parameters and buffers by name.
        other: those of the model to be permuted.
        batches: read once; memory does not depend on how many there are.
        dtype: of what is computed; None: of the models.

    Raises:
        CannotAlign: no batch.
    """
    return match_neighbours(traced, groups, anchor, [other], batches, dtype)[0]


def match_neighbours(
    traced: Traced,
    groups: Groups,
    anchor: Tensors,
    others: Sequence[Tensors],
    batches: Iterable[Batch],
    dtype: torch.dtype | None = None,
) -> list[Permutation]:
    """As `match_activations`, for several models; the anchor is run once for all.

    Raises:
        CannotAlign: no batch.
    """
    seen = observed(traced, groups, anchor, others, batches, dtype)
    return [matched(groups, each, anchor, other) for each, other in zip(seen, others, strict=True)]


def matched(groups: Groups, seen: Seen, anchor: Tensors, other: Tensors) -> Permutation:
    """Orders from correlations; from weights where those say nothing.

    Args:
        groups: of both.
        seen: what their units do.
        anchor: parameters by name.
        other: those of the model to be permuted.
    """
    permutation = Permutation(groups, {})
    told = {
        group: known for group in groups.groups if (known := _correlations(group, seen)) is not None
    }
    for root in trees_of(groups):
        if any(group in told for group in root.groups):
            found = best_orders(root, lambda group: _pairs(told.get(group)))
            permutation = permutation.with_orders(found)
    for root in trees_of(groups):
        if _decided(root, told):
            continue
        weights = Common(permutation, anchor, other, root)
        permutation = permutation.with_orders(best_orders(root, partial(_by_both, told, weights)))
    return permutation


def correlation_of(group: Group, seen: Seen) -> Pairs | None:
    """(path..., path...): correlations added over all who read a group; None: nobody does."""
    return _pairs(_correlations(group, seen))


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Correlations of a group's units, (path..., path...), added over all who read it.

    Attributes:
        complete: every unit of both models changes somewhere.
    """

    pairs: Pairs
    complete: bool


def _correlations(group: Group, seen: Seen) -> Told | None:
    found = [moments.correlations() for site, moments in seen.items() if site.group is group]
    if not found:
        return None
    total = torch.stack(found).sum(0)
    complete = bool((total != 0).any(0).all() and (total != 0).any(1).all())
    sizes = (*group.orders, group.size)
    return Told(total.reshape(*sizes, *sizes).cpu().numpy(), complete)


def _decided(root: Tree, told: Mapping[Group, Told]) -> bool:
    """Whether correlations alone say how all groups of a tree are matched."""
    leaves = [
        group for group in root.groups if all(group.leaf not in g.within for g in root.groups)
    ]
    return all(group in told and told[group].complete for group in leaves)


def _pairs(told: Told | None) -> Pairs | None:
    return None if told is None else told.pairs


def _by_both(told: Mapping[Group, Told], common: Common, group: Group) -> Pairs | None:
    return _both(told.get(group), common(group))


def _both(told: Told | None, weights: Pairs | None) -> Pairs | None:
    """Correlations, and weights that decide between units for which those are equal."""
    if told is None or weights is None:
        return weights if told is None else told.pairs
    return told.pairs + TIE * weights / max(float(np.abs(weights).max()), 1e-30)
