"""What all scripts of this folder share: arguments, data, and the way they report.

A script warms up, trains for the clock, writes one line of JSON, and holds its memory
until it is told to end by a line on its standard input: by then it was looked at.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

IMAGES = 2000
"""A node's."""
BATCH = 32
STARTED, RESULT = '{"clock": "started"}', '{"node_steps":'
"""How the two lines that a script writes begin."""
RATE = 0.05
MOMENTUM = 0.5


def arguments() -> argparse.Namespace:
    """The study: --model, --nodes, --steps (of a round), --rounds, --data (a folder)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("mlp", "cnn"), required=True)
    for name in ("nodes", "steps", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    return parser.parse_args()


def write(source: Path, folder: Path, nodes: int) -> None:
    """All nodes' images in one file, one node's in another; images come again in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(source) as file:
        arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    for path, wanted in ((all_nodes(folder, nodes), nodes * IMAGES), (one_node(folder), IMAGES)):
        if path.exists():
            continue
        chosen = np.arange(wanted) % len(arrays["y_train"])
        part = {name: arrays[name][chosen] for name in ("x_train", "y_train")}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **{**arrays, **part})
        partial.rename(path)


def all_nodes(folder: Path, nodes: int) -> Path:
    return folder / f"fashion-{nodes}-nodes.npz"


def one_node(folder: Path) -> Path:
    return folder / "fashion-one-node.npz"


def shares(given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, images, 28, 28) float32 and (nodes, images) int64: as much as a round takes.

    Others go through all of a node's images once a round; so that their rounds are as long
    as weft's, they are given `steps` batches of them.
    """
    with np.load(all_nodes(given.data, given.nodes)) as file:
        images, labels = file["x_train"], file["y_train"]
    kept = min(IMAGES, given.steps * BATCH)
    images = images.reshape(given.nodes, IMAGES, *images.shape[1:])[:, :kept]
    labels = labels.reshape(given.nodes, IMAGES)[:, :kept]
    return (images.astype(np.float32) - 72.9) / 90.0, labels.astype(np.int64)


def report(steps: int, seconds: float) -> None:
    """Write how many steps of nodes were trained in how long; then wait to be let go."""
    print(json.dumps({"node_steps": steps, "seconds": seconds}), flush=True)
    sys.stdin.readline()


class Clock:
    """Seconds since it was made, of which whoever watches is told."""

    def __init__(self) -> None:
        print(STARTED, flush=True)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.perf_counter() - self._began
