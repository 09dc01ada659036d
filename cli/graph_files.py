"""Graphs from files that networkx reads, as the options of the graph `file`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.errors import InvalidInput

if TYPE_CHECKING:
    import networkx

    from weft.topology.options import Scalar


def read_graph(path: Path | None) -> "tuple[int, Mapping[str, Scalar]]":
    """Number of nodes and options of the graph in a file.

    Nodes are numbered as in the file where they are 0 .. n - 1 there, else in the
    order of their names. Where it is directed, models go along the arrows.
    """
    import networkx

    from weft.topology.listed import listed

    if path is None:
        raise InvalidInput("graph 'file': found no --file, expected one that networkx reads")
    graph = _parsed(path)
    nodes = list(graph.nodes)
    numbered = {str(node) for node in nodes} == {str(number) for number in range(len(nodes))}
    order = sorted(nodes, key=(lambda node: int(str(node))) if numbered else str)
    place = {node: number for number, node in enumerate(order)}
    directed = networkx.is_directed(graph)
    pairs = [(place[head], place[tail]) for tail, head in graph.edges()]
    return len(nodes), {"listed": listed(pairs), "directed": directed}


def _parsed(path: Path) -> "networkx.Graph[str]":
    import json
    from xml.etree.ElementTree import ParseError

    import networkx

    readers: dict[str, Callable[[str], Any]] = {
        ".graphml": networkx.read_graphml,
        ".gexf": networkx.read_gexf,
        ".gml": networkx.read_gml,
        ".net": networkx.read_pajek,
        ".g6": networkx.read_graph6,
        ".s6": networkx.read_sparse6,
        ".adjlist": networkx.read_adjlist,
        ".edgelist": networkx.read_edgelist,
        ".json": lambda name: networkx.node_link_graph(
            json.loads(Path(name).read_text(encoding="utf-8")), edges="edges"
        ),
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise InvalidInput(f"--file {path}: found {path.suffix!r}, expected {' '.join(readers)}")
    try:
        graph = reader(str(path))
    except OSError as error:
        raise InvalidInput(f"--file {path}: cannot be read: {error.strerror}") from error
    except (
        networkx.NetworkXException,
        AttributeError,
        LookupError,
        ParseError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise InvalidInput(f"--file {path}: found no {path.suffix[1:]} graph: {error}") from error
    if not isinstance(graph, networkx.Graph) or not graph.nodes:
        raise InvalidInput(f"--file {path}: found no single graph with nodes, expected one")
    return graph
