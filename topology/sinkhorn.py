"""Doubly stochastic weights by scaling: D (A + I) E with all sums one.

Undirected graphs by Newton's method on the symmetric scaling x_i sum_j B_ij x_j = 1,
which takes a handful of steps where alternating takes as many as the graph mixes
slowly (a path of 1000: millions). Directed ones by alternating, while that converges.

Source: Sinkhorn and Knopp 1967, "Concerning nonnegative matrices and doubly
    stochastic matrices"; Knight and Ruiz 2013, "A fast algorithm for matrix
    balancing" (Newton; here in the logarithms of the scaling, with halved steps).
"""

from typing import TYPE_CHECKING

import numpy as np

from weft.topology.edges import Edges, Float64
from weft.topology.errors import NotStochastic
from weft.topology.matrices import Mixing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEWTON_STEPS = 50
ALTERNATIONS = 20_000
CLOSE = 1e-13


def sinkhorn(edges: Edges) -> Mixing:
    """The scaled matrix of the edges with self-loops.

    Raises:
        NotStochastic: the pattern of a directed graph cannot be scaled, or only
            so slowly that it is not worth waiting for.
    """
    pattern = Mixing.of(edges, np.ones(len(edges.receivers)), np.ones(edges.nodes)).sparse()
    if edges.directed:
        left, right = _alternate(pattern)
        weights = left[edges.receivers] * right[edges.senders]
        return Mixing.of(edges, weights, left * right)
    scale = _newton(pattern)
    weights = scale[edges.receivers] * scale[edges.senders]
    return Mixing.of(edges, weights, 1.0 - edges.taken(weights))


def _newton(pattern: "csr_array") -> Float64:
    """Scaling x with x * (B x) = 1; the Hessian diag(x * Bx) + XBX is positive definite."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import cg

    scale = 1.0 / np.sqrt(pattern.sum(axis=1))
    for _ in range(NEWTON_STEPS):
        sums = scale * (pattern @ scale)
        if np.abs(sums - 1).max() <= CLOSE:
            break
        hessian = diags_array(sums) + diags_array(scale) @ pattern @ diags_array(scale)
        step, _ = cg(hessian, 1.0 - sums, rtol=1e-10, maxiter=1000)
        scale = _damped(pattern, scale, step)
    return scale


def _damped(pattern: "csr_array", scale: Float64, step: Float64) -> Float64:
    """The step, halved until the convex objective (y = log x) does not rise."""

    def objective(candidate: Float64) -> float:
        return float(0.5 * candidate @ (pattern @ candidate) - np.log(candidate).sum())

    before = objective(scale)
    slack = 1e-12 * (1.0 + abs(before))
    for halvings in range(30):
        candidate = scale * np.exp(step * 0.5**halvings)
        if objective(candidate) <= before + slack:
            return candidate
    return scale


def _alternate(pattern: "csr_array") -> tuple[Float64, Float64]:
    right = np.ones(pattern.shape[0])
    back = pattern.T.tocsr()
    for _ in range(ALTERNATIONS):
        left = 1.0 / (pattern @ right)
        right = 1.0 / (back @ left)
        if np.abs(left * (pattern @ right) - 1).max() <= CLOSE:
            return left, right
    raise NotStochastic(
        f"sinkhorn weights: found no scaling of the {pattern.shape[0]} nodes' directed edges "
        f"in {ALTERNATIONS} steps, expected one; take push_sum weights"
    )
