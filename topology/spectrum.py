"""Spectral gaps: how fast a mixing matrix, or a schedule, makes nodes agree.

The gap exported here is 1 - max(|lambda_2|, |lambda_n|): the distance between nodes
shrinks by 1 - gap a round. (Some papers give p = 1 - max lambda_i^2 instead, for the
squared distance: p = 1 - (1 - gap)^2.)
"""

import math
from collections.abc import Callable

import numpy as np

from weft.topology.edges import Float64
from weft.topology.errors import BadGraph
from weft.topology.graphs import Complete
from weft.topology.matrices import Mixing
from weft.topology.random_graphs import RandomMatching
from weft.topology.schedules import Schedule
from weft.topology.timings import Every, Sparse

DENSE = 400
"""Up to so many nodes spectra are computed from the dense matrix."""

SAMPLES = 512
"""Rounds that stand for a schedule that is drawn by chance."""

CLOSE = 1e-6
"""How exactly large spectra are iterated."""

RESTARTS = 1000
"""Of the iteration, about ten multiplications each, before it is given up."""

LONG = 6
"""Times log2(n) hops, beyond which a graph is long and is factorised instead."""

SAMPLED_ENTRIES = 20_000_000
"""Weights that are held for them at once."""

VANISHED = 1e-12


def spectral_gap(mixing: Mixing) -> float:
    """1 - max(|lambda_2|, |lambda_n|) of one mixing matrix.

    One eigenvalue 1 is set aside; 1.0 for a single node, 0.0 (up to rounding) where
    the graph is not connected. Circulant matrices by FFT, small ones densely, large
    ones by Lanczos or Arnoldi iteration with a fixed start.

    Args:
        mixing: rows or columns that sum to one.

    Raises:
        BadGraph: the iteration for a large graph did not converge.
    """
    if mixing.nodes == 1:
        return 1.0
    moduli = circulant_moduli(mixing)
    if moduli is not None:
        return _gap(float(moduli[1:].max()))
    if mixing.nodes <= DENSE:
        return _gap(_second_of_dense(mixing.dense(), symmetric=mixing.is_symmetric))
    return _gap(_second_of_sparse(mixing))


def gap_over_period(schedule: Schedule) -> float:
    """The gap of a schedule over its period, or of a round where chance draws it.

    With a period: that of the product W_(T-1) ... W_0, so a graph that is exact
    after its period has gap 1, whatever its rounds are by themselves. Without: 1 -
    sqrt(c), with c the largest eigenvalue of E[W^T (I - J) W], so E|x - mean|^2
    shrinks by c a round: in closed form for matchings and pairs of all nodes, else
    estimated over 512 rounds of the schedule's own seed (all rounds of the run
    where there are fewer). For one matrix the definitions agree. Not a number for
    what could only be estimated, over a graph of more than 400 nodes of which some
    are special.
    """
    if schedule.nodes == 1:
        return 1.0
    if schedule.silent:
        return 0.0
    if schedule.period is None:
        left = expected_contraction(schedule)
        return left if math.isnan(left) else _gap(math.sqrt(max(0.0, left)))
    mixings = [schedule.mixing(round) for round in range(schedule.period) if schedule.mixes(round)]
    if len(mixings) == 1:
        return spectral_gap(mixings[0])
    return _gap_of_product(mixings)


def expected_contraction(schedule: Schedule) -> float:
    """The c with E|x' - mean'|^2 <= c |x - mean|^2 for a round from x to x'."""
    exact = _exact_contraction(schedule)
    if exact is not None:
        return exact
    if schedule.nodes > DENSE and not schedule.exchangeable:
        return math.nan
    first = next(filter(schedule.mixes, schedule.sample(SAMPLES)))
    entries = len(schedule.mixing(first).weights)
    rounds = schedule.sample(min(SAMPLES, max(8, SAMPLED_ENTRIES // entries)))
    mixings = [schedule.mixing(round) for round in rounds if schedule.mixes(round)]
    if schedule.push_sum:
        mixings = [mixing.transposed() for mixing in mixings]
    if schedule.exchangeable:
        shrunk = sum(map(_left_of_noise, mixings)) / len(mixings)
    else:
        shrunk = _largest_of_mean(mixings)
    return 1.0 - len(mixings) / len(rounds) * (1.0 - shrunk)


def circulant_moduli(mixing: Mixing) -> Float64 | None:
    """|lambda_k| for k = 0 .. n - 1 of a circulant W, by FFT; None for any other."""
    nodes = mixing.nodes
    if len(mixing.receivers) % nodes:
        return None
    hops = (mixing.senders.astype(np.int64) - mixing.receivers) % nodes
    order = np.lexsort((hops, mixing.receivers))
    hops, weights = hops[order].reshape(nodes, -1), mixing.weights[order].reshape(nodes, -1)
    if (hops != hops[0]).any() or (weights != weights[0]).any():
        return None
    row = np.zeros(nodes)
    row[hops[0]] = weights[0]
    return np.abs(np.fft.fft(row))


def _gap(second: float) -> float:
    return min(1.0, max(0.0, 1.0 - second))


def _second_of_dense(matrix: Float64, *, symmetric: bool) -> float:
    values = np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix)
    moduli = np.abs(np.delete(values, np.argmin(np.abs(values - 1))))
    return float(moduli.max())


def _second_of_sparse(mixing: Mixing) -> float:
    """Of W - J where W is doubly stochastic, else the second of W's two largest."""
    matrix = mixing.sparse()
    ones = np.ones(mixing.nodes)
    sums = np.concatenate([matrix @ ones, matrix.T @ ones])
    if np.abs(sums - 1).max() > VANISHED:
        values = _largest_moduli(lambda vector: matrix @ vector, mixing.nodes, count=2)
        return float(np.abs(np.delete(values, np.argmin(np.abs(values - 1)))).max())

    def apply(vector: Float64) -> Float64:
        return np.asarray(matrix @ vector - vector.mean(), dtype=np.float64)

    if not mixing.is_symmetric:
        return float(np.abs(_largest_moduli(apply, mixing.nodes)).max())
    if _is_long(mixing):
        return _second_near_one(mixing)
    return float(np.abs(_largest_moduli(apply, mixing.nodes, symmetric=True)).max())


def _is_long(mixing: Mixing) -> bool:
    """Some node is many hops from node 0, as in paths and grids."""
    from scipy.sparse.csgraph import shortest_path

    hops = shortest_path(mixing.sparse(), unweighted=True, indices=0)
    return bool(hops.max() > LONG * math.log2(mixing.nodes))


def _second_near_one(mixing: Mixing) -> float:
    """The lambda_2 of a long symmetric W, whose gap is too small for plain iteration.

    By factorising W - (1 + 1e-9) I, which long graphs bear and expanders would not.
    No eigenvalue is below 2 min_i W_ii - 1, so lambda_n, far from -1, does not matter.
    """
    from scipy.sparse.linalg import eigsh

    start = np.cos(np.arange(mixing.nodes, dtype=np.float64) ** 2)
    values = eigsh(
        mixing.sparse().tocsc(), k=2, sigma=1 + 1e-9, v0=start, return_eigenvectors=False
    )
    return float(values.min())


def _largest_moduli(
    apply: Callable[[Float64], Float64], nodes: int, *, symmetric: bool = False, count: int = 1
) -> Float64:
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs, eigsh

    start = np.cos(np.arange(nodes, dtype=np.float64) ** 2)
    start -= start.mean()
    if np.linalg.norm(apply(start)) <= VANISHED * np.linalg.norm(start):
        return np.zeros(count)
    operator = LinearOperator((nodes, nodes), matvec=apply, dtype=np.float64)
    iterate = eigsh if symmetric else eigs
    try:
        values = iterate(
            operator,
            k=count,
            which="LM",
            v0=start,
            maxiter=RESTARTS,
            tol=CLOSE,
            return_eigenvectors=False,
        )
    except ArpackError as error:
        raise BadGraph(
            f"found no spectral gap of {nodes} nodes: the iteration did not converge, as where "
            "the gap is nearly nothing; take fewer nodes or a graph that mixes faster"
        ) from error
    return np.asarray(values)


def _gap_of_product(mixings: list[Mixing]) -> float:
    nodes = mixings[0].nodes
    moduli = [circulant_moduli(mixing) for mixing in mixings]
    circulant = [each for each in moduli if each is not None]
    if len(circulant) == len(moduli):
        return _gap(float(np.prod([each[1:] for each in circulant], axis=0).max()))
    matrices = [mixing.sparse() for mixing in mixings]
    if nodes <= DENSE:
        product = np.eye(nodes)
        for matrix in matrices:
            product = matrix @ product
        return _gap(_second_of_dense(product, symmetric=False))

    def apply(vector: Float64) -> Float64:
        vector = vector - vector.mean()
        for matrix in matrices:
            vector = matrix @ vector
        return np.asarray(vector - vector.mean(), dtype=np.float64)

    return _gap(float(np.abs(_largest_moduli(apply, nodes)).max()))


def _exact_contraction(schedule: Schedule) -> float | None:
    """Pairs that average: W is a projection, E[W] = I - rho n / (2 (n - 1)) (I - J).

    rho is the share of nodes that are paired. None where this is not the law.
    """
    nodes, when = schedule.nodes, schedule.timing
    paired: float | None = None
    if isinstance(schedule.graph, RandomMatching) and when == Every(k=1):
        paired = float(nodes - nodes % 2)
    if isinstance(schedule.graph, Complete) and isinstance(when, Sparse) and not when.one_way:
        paired = when.pairs_per_node * nodes if when.pairs_per_node <= 1 else None
        paired = None if paired is None else min(paired, float(nodes - nodes % 2))
    return None if paired is None else 1.0 - paired / (2 * (nodes - 1))


def _left_of_noise(mixing: Mixing) -> float:
    """tr(W^T (I - J) W) / (n - 1): all of E[W^T (I - J) W], where no node is special."""
    columns = np.bincount(mixing.senders, mixing.weights, minlength=mixing.nodes)
    squares = float(mixing.weights @ mixing.weights)
    return (squares - float(columns @ columns) / mixing.nodes) / (mixing.nodes - 1)


def _largest_of_mean(mixings: list[Mixing]) -> float:
    nodes = mixings[0].nodes
    mean = np.zeros((nodes, nodes))
    for mixing in mixings:
        matrix = mixing.sparse()
        columns = matrix.sum(axis=0)
        mean += (matrix.T @ matrix).toarray() - np.outer(columns, columns) / nodes
    return float(np.linalg.eigvalsh(mean / len(mixings)).max())
