import math

import pytest
import torch

from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.mean_norm import ToNorm, factor_to, mean_norm
from weft.merging.method import Facts

BLOCK = torch.tensor([3.0, -4.0], dtype=torch.float64)


def test_by_hand() -> None:
    assert mean_norm([1.0, 2.0, 6.0]) == 3.0
    assert mean_norm([]) == 0.0
    assert factor_to(3.0, 6.0, "here") == 0.5
    assert factor_to(3.0, 0.0, "here") == 1.0
    changed = ToNorm(norm=10.0).apply("w", BLOCK, Facts(contribution="all", norm=5.0))
    assert changed.tolist() == [6.0, -8.0]
    assert BLOCK.tolist() == [3.0, -4.0]


@pytest.mark.parametrize(
    ("norm", "found"), [(1.0, math.inf), (1.0, math.nan), (math.nan, 1.0), (1e300, 1e-300)]
)
def test_what_is_not_finite_is_refused(norm: float, found: float) -> None:
    with pytest.raises(NonFinite, match="the merge: its norm over the model is"):
        ToNorm(norm=norm).apply("w", BLOCK, Facts(contribution="the merge", norm=found))


def test_the_norm_must_be_known() -> None:
    with pytest.raises(CannotMerge, match="all, tensor 'w': the method needs a norm, none given"):
        ToNorm(norm=1.0).apply("w", BLOCK, Facts(contribution="all"))
