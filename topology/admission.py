"""What is refused before a schedule is built: names, options, and what does not fit."""

from collections.abc import Sequence

import numpy as np

from weft.topology.edges import Float64
from weft.topology.errors import BadGraph, BadOption, BadWeights
from weft.topology.families import family
from weft.topology.graphs import Complete, Graph, require_room
from weft.topology.options import with_options
from weft.topology.params import DRIFT, ScheduleParams
from weft.topology.timings import FinalOnly, Sparse, Timing, Window
from weft.topology.weights import OWN, rule


def graph_of(params: ScheduleParams) -> tuple[Graph, bool]:
    """The graph, and whether drift is declared."""
    options = dict(params.graph_options)
    declared = options.pop(DRIFT, False)
    if type(declared) is not bool:
        raise BadOption(f"graph {params.graph}: option drift: found {declared!r}, expected bool")
    graph = with_options(f"graph {params.graph}", family(params.graph), options.items())
    return graph, declared


def admit(params: ScheduleParams, graph: Graph, when: Timing, nodes: int) -> None:
    """Refuse what there is no graph for, and rounds too large to hold.

    All pairs are never listed where only some are drawn from them.
    """
    try:
        if not isinstance(graph, Complete) or not isinstance(when, Sparse | FinalOnly):
            graph.admit(nodes)
    except BadGraph as error:
        raise BadGraph(f"graph {params.graph}: {error}") from None
    try:
        if isinstance(when, Window) and when.inside == "complete":
            Complete().admit(nodes)
        if when.pairs is not None:
            require_room(int(min(when.pairs.expected, nodes) * nodes), nodes)
    except BadGraph as error:
        raise BadGraph(f"schedule {params.schedule}: {error}") from None


def check_weights(params: ScheduleParams, graph: Graph, when: Timing) -> None:
    """Refuse a rule that does not exist, or that this graph or schedule cannot take."""
    rule(params.weights)
    if graph.exact and params.weights != OWN:
        raise BadWeights(
            f"graph {params.graph}: found weights {params.weights}, expected {OWN}: the graph is "
            f"exact with its own weights only; leave weights out or write {OWN}"
        )
    if graph.exact and when.pairs is not None:
        raise BadWeights(
            f"graph {params.graph}: found schedule {params.schedule}, which takes only some of "
            "its edges; expected all of them, as every and late take"
        )
    one_way = when.pairs is not None and when.pairs.one_way
    if one_way and params.weights not in {"uniform", "push_sum"}:
        raise BadWeights(
            f"schedule {params.schedule} with one_way: found weights {params.weights}, expected "
            "push_sum (no drift) or uniform (the average drifts)"
        )


def target_of(params: ScheduleParams, nodes: int, sizes: Sequence[float] | None) -> Float64:
    """The weights of the average that is kept: equal, or by data size for Hastings."""
    if not rule(params.weights).needs_sizes:
        return np.full(nodes, 1.0 / nodes)
    if sizes is None or len(sizes) != nodes:
        found = "none" if sizes is None else f"{len(sizes)}"
        raise BadWeights(f"weights hastings: found {found} data sizes, expected {nodes}")
    target = np.array(sizes, dtype=np.float64)
    if not np.isfinite(target).all() or (target <= 0).any():
        worst = int(np.argmin(np.where(np.isfinite(target), target, -np.inf)))
        raise BadWeights(
            f"weights hastings: found data size {target[worst]:g} of node {worst}, expected "
            "a number above 0"
        )
    return np.asarray(target / target.sum(), dtype=np.float64)
