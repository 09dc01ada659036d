import math

import pytest

from weft.merging.errors import BadOption
from weft.merging.method import Facts, Need, Scope
from weft.merging.methods.ema import Ema
from weft.merging.methods.magmax import MagMax
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_are_numbers(weight: float) -> None:
    with pytest.raises(BadOption, match="node-1: weight"):
        Facts(contribution="node-1", weight=weight)


def test_needs_and_scope_are_said() -> None:
    assert Mean().needs == frozenset()
    for method in (TaskArithmetic(), MagMax(), Ema()):
        assert method.needs == {Need.BASE}
    assert Mean().scope("w", (3, 3)) is Scope.ELEMENT


def test_methods_are_values() -> None:
    assert TaskArithmetic(scale=0.4) == TaskArithmetic(scale=0.4)
    assert TaskArithmetic(scale=0.4) != TaskArithmetic()
    with pytest.raises(AttributeError):
        TaskArithmetic().scale = 1.0  # type: ignore[misc]


def test_state_bytes_of_the_shipped_folds() -> None:
    assert Mean().state_bytes("w", (100, 10)) == 8_000
    assert MagMax().state_bytes("w", (100, 10)) == 16_000
