"""Rules of weights: from who takes from whom to how much.

One function a rule, one table. Degrees are those of the round's edges, without
the node itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weft.topology.edges import Edges, Float64, Int64
from weft.topology.errors import UnknownName, unknown
from weft.topology.matrices import Mixing
from weft.topology.sinkhorn import sinkhorn


def metropolis(edges: Edges, target: Float64) -> Mixing:
    """W_ij = 1 / (1 + max(d_i, d_j)), the rest to self.

    Symmetric and doubly stochastic on undirected graphs. On directed ones d_i is
    what i takes and d_j what j gives: doubly stochastic where all degrees agree.

    Source: Xiao, Boyd and Kim 2007, "Distributed average consensus with
        least-mean-square deviation", Metropolis weights (degrees without self).
    """
    del target
    share = _share(edges.in_degrees)
    given = _share(edges.out_degrees)
    return _rest_to_self(edges, np.minimum(share[edges.receivers], given[edges.senders]), share)


def uniform(edges: Edges, target: Float64) -> Mixing:
    """W_ij = 1 / (1 + d_i): the plain mean of what a node has and takes.

    Rows sum to one; columns do where all degrees agree, else the mean drifts to
    the hubs.
    """
    del target
    share = _share(edges.in_degrees)
    return Mixing.of(edges, share[edges.receivers], share)


def max_degree(edges: Edges, target: Float64) -> Mixing:
    """W_ij = 1 / (1 + max_k d_k), the rest to self. Symmetric on undirected graphs."""
    del target
    largest = int(max(edges.in_degrees.max(), edges.out_degrees.max()))
    weight = 1.0 / (1.0 + largest)
    own = (1.0 + largest - edges.in_degrees.astype(np.float64)) * weight
    return Mixing.of(edges, np.full(len(edges.receivers), weight), own)


def hastings(edges: Edges, target: Float64) -> Mixing:
    """W_ij = min(1 / (1 + d_i), pi_j / pi_i / (1 + d_j)): keeps the pi-weighted mean.

    pi are the data sizes, as shares. Equal sizes give Metropolis weights.

    Source: Hastings 1970, "Monte Carlo sampling methods using Markov chains and
        their applications"; the proposal is uniform over node and neighbours.
    """
    share = _share(edges.in_degrees)
    ratio = target[edges.senders] / target[edges.receivers]
    given = ratio * _share(edges.out_degrees)[edges.senders]
    return _rest_to_self(edges, np.minimum(share[edges.receivers], given), share)


def push_sum(edges: Edges, target: Float64) -> Mixing:
    """A_ij = 1 / (1 + out-degree of j): each sender splits evenly what it holds.

    Columns sum to one: sums are kept on any directed graph. Nodes carry a weight,
    1 at the start, through the same A, and read x_i / w_i.

    Source: Assran et al. 2019, "Stochastic gradient push for distributed deep
        learning" (uniform mixing weights).
    """
    del target
    share = _share(edges.out_degrees)
    return Mixing.of(edges, share[edges.senders], share)


def balanced(edges: Edges, target: Float64) -> Mixing:
    """Sinkhorn-Knopp scaling of the edges with self-loops (see `sinkhorn`)."""
    del target
    return sinkhorn(edges)


def _share(degrees: Int64) -> Float64:
    """What is left for one where a node and its neighbours share evenly."""
    return np.asarray(1.0 / (1.0 + degrees), dtype=np.float64)


def _rest_to_self(edges: Edges, weights: Float64, share: Float64) -> Mixing:
    """The diagonal as own share plus what each edge leaves of it: never below zero."""
    left = share[edges.receivers] - weights
    return Mixing.of(edges, weights, share + edges.taken(left))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of weights, and what it promises."""

    apply: Callable[[Edges, Float64], Mixing]
    columns_only: bool = False
    needs_sizes: bool = False


RULES = {
    "metropolis": Rule(apply=metropolis),
    "uniform": Rule(apply=uniform),
    "sinkhorn": Rule(apply=balanced),
    "max_degree": Rule(apply=max_degree),
    "hastings": Rule(apply=hastings, needs_sizes=True),
    "push_sum": Rule(apply=push_sum, columns_only=True),
}

OWN = "own"
"""The name for the weights that come with the graph; Metropolis where none do."""


def rule(name: str) -> Rule:
    """The rule of a name.

    Raises:
        UnknownName: names the nearest one.
    """
    if name == OWN:
        return RULES["metropolis"]
    if name not in RULES:
        raise UnknownName(unknown("weights", name, [OWN, *RULES]))
    return RULES[name]
