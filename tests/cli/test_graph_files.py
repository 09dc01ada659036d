"""Graphs from files: every format, names in order, what is no graph."""

import json
from collections.abc import Callable
from pathlib import Path

import networkx
import pytest

from weft.cli.graph_files import read_graph
from weft.errors import InvalidInput


def written(path: Path, graph: "networkx.Graph[int]") -> Path:
    writers: dict[str, Callable[..., None]] = {
        ".graphml": networkx.write_graphml,
        ".gexf": networkx.write_gexf,
        ".gml": networkx.write_gml,
        ".net": networkx.write_pajek,
        ".g6": networkx.write_graph6,
        ".s6": networkx.write_sparse6,
        ".adjlist": networkx.write_adjlist,
        ".edgelist": networkx.write_edgelist,
    }
    if path.suffix == ".json":
        document = networkx.node_link_data(graph, edges="edges")
        path.write_text(json.dumps(document), encoding="utf-8")
    elif path.suffix == ".net":
        writers[path.suffix](networkx.relabel_nodes(graph, str), str(path))
    else:
        writers[path.suffix](graph, str(path))
    return path


@pytest.mark.parametrize(
    "suffix",
    [".graphml", ".gexf", ".gml", ".net", ".g6", ".s6", ".adjlist", ".edgelist", ".json"],
)
def test_every_format(tmp_path: Path, suffix: str) -> None:
    graph = networkx.path_graph(12)
    nodes, options = read_graph(written(tmp_path / f"graph{suffix}", graph))
    edges = {frozenset(word.split("-")) for word in str(options["listed"]).split()}
    assert nodes == 12
    assert edges == {frozenset({str(node), str(node + 1)}) for node in range(11)}
    assert options["directed"] is False


def test_names_are_numbered_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "graph.edgelist"
    path.write_text("node-c node-a\nnode-a node-b\n")
    nodes, options = read_graph(path)
    assert nodes == 3
    assert {frozenset(word.split("-")) for word in str(options["listed"]).split()} == {
        frozenset("20"),
        frozenset("01"),
    }


def test_models_go_along_the_arrows(tmp_path: Path) -> None:
    graph = networkx.DiGraph([(0, 1), (1, 2)])
    _, options = read_graph(written(tmp_path / "graph.gml", graph))
    # An entry is receiver-sender.
    assert options == {"listed": "1-0 2-1", "directed": True}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("graph.xyz", "", "found '.xyz', expected .graphml"),
        ("graph.gml", "nonsense [", "found no gml graph"),
        ("graph.graphml", "<a><b></a>", "found no graphml graph"),
        ("graph.graphml", "<a/>", "found no graphml graph"),
        ("graph.json", "{", "found no json graph"),
        ("graph.json", "[1, 2]", "found no json graph"),
        ("graph.json", '{"nodes": [], "edges": []}', "found no single graph with nodes"),
        ("graph.g6", "", "found no"),
        ("graph.edgelist", "", "found no single graph with nodes"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        read_graph(path)
    assert str(caught.value).startswith(f"--file {path}: {message}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file or directory"):
        read_graph(tmp_path / "graph.gml")
    (tmp_path / "folder.gml").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read_graph(tmp_path / "folder.gml")
