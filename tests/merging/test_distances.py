import numpy as np
import pytest

from weft.merging.distances import distances_from, squared_distances
from weft.merging.errors import BadOption
from weft.merging.method import Facts
from weft.merging.shares import shares

POINTS = np.array([[3.0, 4.0], [0.0, 0.0], [3.0, 0.0]])
GRAM = POINTS @ POINTS.T


def test_distances_by_hand() -> None:
    assert squared_distances(GRAM).tolist() == [[0, 25, 16], [25, 0, 9], [16, 9, 0]]
    # From (1.5, 0): half of the third.
    assert distances_from(GRAM, np.array([0.0, 0.0, 0.5])).tolist() == [18.25**0.5, 1.5, 1.5]


def test_rounding_makes_no_negative_square() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 50)).repeat(3, axis=0) * [[1.0], [1.0], [3.0]]
    gram = rows @ rows.T
    assert (squared_distances(gram) >= 0).all()
    assert not np.isnan(distances_from(gram, np.array([0.1, 0.3, 0.2]))).any()


def test_shares_by_hand() -> None:
    facts = [Facts(contribution="a", weight=3.0), Facts(contribution="b", weight=1.0)]
    assert shares(facts) == [0.75, 0.25]
    assert shares([Facts(contribution="a", weight=1e-6)]) == [1.0]


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(BadOption, match=r"b: weight -0.5; a share needs a positive one"):
        shares([Facts(contribution="a"), Facts(contribution="b", weight=-0.5)])
