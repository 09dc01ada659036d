"""The table of graphs: name, and the family that draws it."""

from collections.abc import Iterable

from weft.topology.base_k import BaseK
from weft.topology.errors import UnknownName, unknown
from weft.topology.graphs import (
    Complete,
    Exponential,
    Graph,
    Hypercube,
    OnePeerExponential,
    Path,
    Ring,
    Star,
    Torus,
    TwoHub,
)
from weft.topology.listed import Listed
from weft.topology.options import Scalar, with_options
from weft.topology.random_graphs import (
    Epidemic,
    ErdosRenyi,
    RandomMatching,
    RandomRegular,
    WattsStrogatz,
)

GRAPHS: dict[str, type[Graph]] = {
    "complete": Complete,
    "ring": Ring,
    "path": Path,
    "torus": Torus,
    "star": Star,
    "hypercube": Hypercube,
    "exponential": Exponential,
    "one_peer_exponential": OnePeerExponential,
    "base_k": BaseK,
    "random_regular": RandomRegular,
    "erdos_renyi": ErdosRenyi,
    "watts_strogatz": WattsStrogatz,
    "random_matching": RandomMatching,
    "epidemic": Epidemic,
    "two_hub": TwoHub,
    "file": Listed,
}


def family(name: str) -> type[Graph]:
    """The family of a name.

    Raises:
        UnknownName: names the nearest one.
    """
    if name not in GRAPHS:
        raise UnknownName(unknown("graph", name, GRAPHS))
    return GRAPHS[name]


def graph(name: str, options: Iterable[tuple[str, Scalar]] = ()) -> Graph:
    """A family with its options.

    Raises:
        UnknownName: no such graph.
        BadOption: no such option, or a value that cannot be.
    """
    return with_options(f"graph {name}", family(name), options)
