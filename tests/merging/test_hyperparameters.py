import math

import pytest
import torch

from weft.merging.errors import BadOption
from weft.merging.hyperparameters import GRID, options_of
from weft.merging.methods.ema import Ema
from weft.merging.methods.knots import Knots
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.registry import TABLE
from weft.merging.sums import Sum


@pytest.mark.parametrize("scale", [math.nan, math.inf, True, "0.3", None, 10**400])
def test_numbers(scale: object) -> None:
    with pytest.raises(BadOption, match=r"task_arithmetic: scale is .*, expected a finite number"):
        TaskArithmetic(scale=scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -0.1, 1.0001])
def test_fractions(rate: float) -> None:
    with pytest.raises(
        BadOption, match=r"ema: rate is .*, expected a number above 0 and at most 1"
    ):
        Ema(rate=rate)


@pytest.mark.parametrize("bound", [0, -4096, 4095, 1e-200])
def test_bounds(bound: float) -> None:
    with pytest.raises(BadOption, match=r"mean: bound is .*, expected a power of two"):
        Mean(bound=bound)


def test_every_bound_says_what_it_costs() -> None:
    """As its text and the guide have it: half a unit is all that is lost."""
    for entry in TABLE:
        for name, _, default, said in options_of(entry.load()):
            assert said.power_of_two == said.about.endswith(GRID), (entry.name, name)
            assert not said.power_of_two or default in (2.0**12, 2.0**16)
    small = torch.full((3,), 1e-8 / 3, dtype=torch.float64)
    for bound, lost in ((2.0**12, 2.0**-40), (2.0**-4, 2.0**-56)):
        field = Sum(bound=bound)
        total = field.zero((3,))
        field.combine(total, field.element(small, "here"), "here")
        assert 0 < (field.value(total) - small).abs().max() <= lost


def test_whole_numbers_will_do() -> None:
    assert Ema(rate=1).rate == 1
    assert Mean(bound=8192).bound == 8192
    assert TaskArithmetic(scale=-1).scale == -1


@pytest.mark.parametrize("tables", ["(", "[a", "*", "a{2,1}", "(?P<x>a)(?P<x>b)"])
def test_patterns(tables: str) -> None:
    with pytest.raises(BadOption, match=r"knots: tables is .*, expected a regular expression \("):
        Knots(tables=tables)


def test_a_pattern_is_a_text() -> None:
    with pytest.raises(BadOption, match=r"expected a regular expression$"):
        Knots(tables=3)  # type: ignore[arg-type]
