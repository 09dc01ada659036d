"""How examples are dealt out to nodes: evenly, or skewed as in the literature.

Pure: labels and a seeded generator in, one array of indices a node out. Every
example goes to exactly one node and every node gets at least one.

>>> import numpy as np
>>> parts = split("iid", np.arange(10) % 2, nodes=3, seed=0)
>>> sorted(len(part) for part in parts)
[3, 3, 4]
"""

import difflib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.simulations.errors import BadSplit

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


def split(name: str, labels: Labels, *, nodes: int, alpha: float = 0.3, seed: int) -> list[Indices]:
    """Deal examples out to nodes.

    Args:
        name: "iid", "dirichlet", "classes", "quantity" or "whole" (every node
            gets everything: what central training sees).
        labels: (n,) class of each example. Not modified.
        nodes: how many shares.
        alpha: concentration of "dirichlet" and "quantity"; the smaller, the
            more skewed.
        seed: of the generator; the same arguments give the same shares.

    Returns:
        For each node the indices of its examples, ascending.

    Raises:
        BadSplit: an unknown name, or fewer examples (or classes) than nodes.
    """
    if nodes < 1 or nodes > len(labels):
        raise BadSplit(f"{nodes} nodes for {len(labels)} examples; expected one example a node")
    if name == "whole":
        return [np.arange(len(labels), dtype=np.int64) for _ in range(nodes)]
    if name not in SPLITS:
        near = difflib.get_close_matches(name, [*SPLITS, "whole"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadSplit(f"no split {name!r}; known are {', '.join([*SPLITS, 'whole'])}{hint}")
    generator = np.random.default_rng(seed)
    return [np.sort(part) for part in SPLITS[name](labels, nodes, alpha, generator)]


def iid(labels: Labels, nodes: int, alpha: float, generator: np.random.Generator) -> list[Indices]:
    """Shares of equal size (to within one), drawn without looking at the labels."""
    del alpha
    return np.array_split(generator.permutation(len(labels)), nodes)


def dirichlet(
    labels: Labels, nodes: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Label skew: each class is dealt out in proportions drawn from Dir(alpha).

    A node that would stay empty takes one example from the largest share.

    Source: Hsu et al. 2019, "Measuring the Effects of Non-Identical Data
        Distribution for Federated Visual Classification", in the form of a
        draw per class over the nodes (Yurochkin et al. 2019), which leaves the
        sizes of the shares free.
    """
    _check_alpha(alpha)
    shares: list[list[Indices]] = [[] for _ in range(nodes)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        proportions = generator.dirichlet(np.full(nodes, alpha))
        cuts = (np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
        for share, part in zip(shares, np.split(members, cuts), strict=True):
            share.append(part)
    return _fill_empty([np.concatenate(share) for share in shares])


def classes(
    labels: Labels, nodes: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Whole classes: no class on two nodes; the strongest skew there is."""
    del alpha
    present = generator.permutation(np.unique(labels))
    if len(present) < nodes:
        raise BadSplit(
            f"{len(present)} classes for {nodes} nodes; 'classes' deals out whole classes, "
            "at least one a node"
        )
    return [np.flatnonzero(np.isin(labels, part)) for part in np.array_split(present, nodes)]


def quantity(
    labels: Labels, nodes: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """Quantity skew: sizes drawn from Dir(alpha), labels drawn evenly."""
    _check_alpha(alpha)
    proportions = generator.dirichlet(np.full(nodes, alpha))
    cuts = (np.cumsum(proportions)[:-1] * len(labels)).astype(np.int64)
    return _fill_empty(np.split(generator.permutation(len(labels)), cuts))


SPLITS: dict[str, Callable[[Labels, int, float, np.random.Generator], list[Indices]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "classes": classes,
    "quantity": quantity,
}


def _check_alpha(alpha: float) -> None:
    if not (np.isfinite(alpha) and alpha > 0):
        raise BadSplit(f"alpha = {alpha}; expected a number above 0")


def _fill_empty(shares: list[Indices]) -> list[Indices]:
    filled = list(shares)
    for place, share in enumerate(filled):
        if len(share) == 0:
            largest = max(range(len(filled)), key=lambda index: len(filled[index]))
            filled[place], filled[largest] = filled[largest][-1:], filled[largest][:-1]
    return filled
