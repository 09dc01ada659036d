"""A small demo's outcome, made up: two nodes, two rounds."""

from weft.simulations.demo.outcome import Happened, Outcome, Story, Traffic

ONE, TWO = "11" * 32, "22" * 32


def story(node: str, other: str, *, result: str = "ee" * 32, missed: bool = False) -> Story:
    merged = Happened(
        model=f"object:{ONE}",
        weights={node: 0.5, other: 0.5},
        parents={node: ONE, other: TWO},
        loss=1.25,
        accuracy=0.5,
    )
    second = Happened(
        model=f"object:{TWO}",
        weights={node: 1.0},
        parents={node: TWO},
        missed={other: "<late>"} if missed else {},
        loss=0.75,
        accuracy=0.9,
    )
    return Story(node=node, rounds=[merged, second], result=result, accuracy=0.95)


def outcome(**changes: object) -> Outcome:
    values: dict[str, object] = {
        "stories": [story("node-1", "node-2"), story("node-2", "node-1", missed=True)],
        "alone": [[0.3, 0.4], [0.5, 0.6]],
        "together": [0.8, 0.96],
        "counterfactual": [0.7, 0.94],
        "before": [2.0, 1.0],
        "after": [0.5, 0.25],
        "edge_bytes": {("node-1", "node-2"): 2048, ("node-2", "node-1"): 1024},
        "traffic": Traffic(sent={"node-1": 10, "node-2": 20}, received={"node-1": 20}),
        "seconds": 12.5,
    }
    return Outcome(**(values | changes))  # type: ignore[arg-type]
