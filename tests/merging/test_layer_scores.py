import math

import pytest
import torch
from torch import Tensor

from weft.merging.layer_scores import effective_rank, layer_scales, rank_contrast, tiers
from weft.merging.layers import layers


def random(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, columns), generator=generator, dtype=torch.float64)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.eye(4)) == pytest.approx(4.0)
    assert effective_rank(torch.outer(torch.tensor([1.0, 2.0]), torch.ones(5))) == pytest.approx(1)
    # Energies 9 : 1 : 0, so exp(-0.9 ln 0.9 - 0.1 ln 0.1).
    expected = math.exp(0.9 * math.log(10 / 9) + 0.1 * math.log(10))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(expected)
    assert expected == pytest.approx(1.38415, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150, -3.0])
def test_effective_rank_knows_no_scale_and_no_orientation(scale: float) -> None:
    matrix = random(7, 4, 1)
    rank = effective_rank(matrix)
    assert 1 < rank < 4
    assert effective_rank(matrix * scale) == pytest.approx(rank, rel=1e-9)
    assert effective_rank(matrix.T) == pytest.approx(rank, rel=1e-9)


def test_effective_rank_against_singular_values() -> None:
    matrix = random(6, 9, 2)
    energies = torch.linalg.svdvals(matrix).square()
    shares = energies / energies.sum()
    entropy = -(shares * shares.log()).sum()
    assert effective_rank(matrix) == pytest.approx(math.exp(float(entropy)), rel=1e-9)
    assert effective_rank(matrix.to(torch.float32)) == pytest.approx(effective_rank(matrix), 1e-5)


def test_nothing_has_no_rank_and_no_contrast() -> None:
    assert effective_rank(torch.zeros(3, 4)) == 0.0
    assert effective_rank(torch.zeros(0, 4)) == 0.0
    assert rank_contrast(torch.eye(3), torch.zeros(3, 3)) == 0.0


def test_contrast_is_high_where_the_change_has_structure() -> None:
    base = torch.eye(6)
    assert rank_contrast(base, random(6, 1, 3) @ random(1, 6, 4)) == pytest.approx(6.0)
    assert rank_contrast(base, 0.01 * base) == pytest.approx(1.0)


def test_tiers_by_hand() -> None:
    scores = {0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0, 4: 6.0, 5: 4.0}
    assert tiers(scores, (0.8, 1.0, 1.2)) == {1: 0.8, 3: 0.8, 2: 1.0, 5: 1.0, 0: 1.2, 4: 1.2}
    assert tiers(scores, (0.5,)) == dict.fromkeys(scores, 0.5)
    assert tiers({0: 2.0, 1: 2.0, 2: 1.0, 3: 2.0}, (0.0, 1.0)) == {2: 0.0, 0: 0.0, 1: 1.0, 3: 1.0}
    assert tiers({3: 1.0}, (0.9, 1.0, 1.1)) == {3: 1.0}
    assert tiers({3: 1.0, 5: 0.5}, (0.9, 1.0, 1.1)) == {5: 0.9, 3: 1.1}
    assert tiers({}, (0.9, 1.1)) == {}


def test_scales_by_hand() -> None:
    names = ["emb", "h.0.q", "h.0.v", "h.0.bias", "h.1.q", "h.2.q", "h.2.bias", "h.3.q"]
    contrasts = {
        "emb": 99.0,  # in no layer: does not count
        "h.0.q": 2.0,
        "h.0.v": 4.0,  # mean 3: the highest
        "h.1.q": 1.0,
        "h.2.q": 2.5,
        "h.3.q": 0.0,  # did not move
    }
    assert layer_scales(contrasts, layers(names), (0.9, 1.0, 1.1)) == {
        "emb": 1.0,
        "h.0.q": 1.1,
        "h.0.v": 1.1,
        "h.0.bias": 1.1,
        "h.1.q": 0.9,
        "h.2.q": 1.0,
        "h.2.bias": 1.0,
        "h.3.q": 1.0,
    }
