"""Every example goes to one node, every node gets some, the same seed the same way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.simulations.errors import BadSplit
from weft.simulations.tasks.splits import SPLITS, Labels, split


def labels_of(examples: int, classes: int, seed: int = 0) -> Labels:
    return np.random.default_rng(seed).integers(0, classes, size=examples)


def skew(shares: list[Labels], labels: Labels) -> float:
    """Mean share of a node's most frequent class."""
    return float(np.mean([np.bincount(labels[s]).max() / len(s) for s in shares]))


@given(
    name=st.sampled_from(sorted(SPLITS)),
    nodes=st.integers(1, 8),
    alpha=st.sampled_from([0.01, 0.1, 0.3, 1.0, 100.0]),
    seed=st.integers(0, 50),
)
def test_shares_are_a_partition_without_empty_nodes(
    name: str, nodes: int, alpha: float, seed: int
) -> None:
    labels = np.arange(80) % 8
    shares = split(name, labels, nodes=nodes, alpha=alpha, seed=seed)
    assert len(shares) == nodes
    assert all(len(share) > 0 for share in shares)
    assert sorted(np.concatenate(shares).tolist()) == list(range(80))


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_same_seed_same_shares_and_labels_untouched(name: str) -> None:
    labels = labels_of(200, 10)
    before = labels.copy()
    first, again = (split(name, labels, nodes=5, seed=3) for _ in range(2))
    other = split(name, labels, nodes=5, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert np.array_equal(labels, before)


def test_iid_shares_differ_by_one_at_most() -> None:
    sizes = [len(share) for share in split("iid", labels_of(103, 10), nodes=4, seed=0)]
    assert sorted(sizes) == [25, 26, 26, 26]


def test_smaller_alpha_is_more_skewed() -> None:
    labels = labels_of(4000, 10)
    skews = [
        np.mean(
            [skew(split("dirichlet", labels, nodes=4, alpha=a, seed=s), labels) for s in range(5)]
        )
        for a in (0.1, 1.0, 100.0)
    ]
    assert skews[0] > skews[1] + 0.1 > skews[2] + 0.2
    assert skews[2] < 0.13  # ten classes, almost even


def test_classes_are_whole() -> None:
    labels = labels_of(300, 10)
    shares = split("classes", labels, nodes=3, seed=1)
    seen = [set(labels[share].tolist()) for share in shares]
    assert sum(len(classes) for classes in seen) == 10
    assert set.union(*seen) == set(range(10))


def test_quantity_skews_sizes_not_labels() -> None:
    labels = labels_of(8000, 4)
    shares = split("quantity", labels, nodes=4, alpha=0.5, seed=0)
    sizes = sorted(len(share) for share in shares)
    assert sizes[-1] > 3 * sizes[0]
    large = max(shares, key=len)
    assert np.bincount(labels[large]).max() / len(large) < 0.3


def test_whole_gives_everybody_everything() -> None:
    shares = split("whole", labels_of(10, 2), nodes=3, seed=0)
    assert [share.tolist() for share in shares] == [list(range(10))] * 3


def test_mistakes_say_what_was_expected() -> None:
    labels = labels_of(20, 3)
    with pytest.raises(BadSplit, match="did you mean 'dirichlet'"):
        split("dirichelt", labels, nodes=2, seed=0)
    with pytest.raises(BadSplit, match="21 nodes for 20 examples"):
        split("iid", labels, nodes=21, seed=0)
    with pytest.raises(BadSplit, match="3 classes for 4 nodes"):
        split("classes", labels, nodes=4, seed=0)
    with pytest.raises(BadSplit, match="alpha = 0"):
        split("dirichlet", labels, nodes=2, alpha=0, seed=0)
