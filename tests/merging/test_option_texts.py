import math
from dataclasses import dataclass

import pytest

from weft.merging.errors import BadOption, UnknownMethod
from weft.merging.hyperparameters import option, options_of
from weft.merging.method import Method
from weft.merging.methods.ema import Ema
from weft.merging.option_texts import create_from_text, parse_options
from weft.merging.registry import TABLE, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything(Method):
    """One option of each type."""

    share: float = option(0.5, "a share", least=0, most=1)
    rounds: int = option(3, "how often", least=1)
    exact: bool = option(False, "whether")
    over: str = option("tensor", "over what", choices=("tensor", "model"))


def test_each_type_is_read_as_its_own() -> None:
    texts = {"share": " 1e-1", "rounds": "7", "exact": "True", "over": "model"}
    found = parse_options(Everything, texts)
    assert found == {"share": 0.1, "rounds": 7, "exact": True, "over": "model"}
    assert [type(value) for value in found.values()] == [float, int, bool, str]
    assert Everything(**found) == Everything(share=0.1, rounds=7, exact=True, over="model")  # type: ignore[arg-type]


def test_nothing_given_is_nothing() -> None:
    assert parse_options(Everything, {}) == {}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("share", "", "a number, such as 0.5"),
        ("share", "1,5", "a number, such as 0.5"),
        ("share", "true", "a number, such as 0.5"),
        ("rounds", "2.0", "a whole number, such as 8"),
        ("rounds", "9" * 5000, "a whole number, such as 8"),
        ("exact", "1", "true or false"),
        ("exact", "yes", "true or false"),
    ],
)
def test_a_text_of_another_type(name: str, text: str, expected: str) -> None:
    with pytest.raises(BadOption, match=rf"everything: {name} is .*, expected {expected}$") as got:
        parse_options(Everything, {name: text}, called="everything")
    assert len(str(got.value)) < 200


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(
        BadOption,
        match=r"method 'Everything' has no option 'shrae'; did you mean 'share'\? "
        r"\(known: share, rounds, exact, over\)",
    ):
        parse_options(Everything, {"shrae": "1"})


def test_a_field_that_is_no_option_cannot_be_set() -> None:
    with pytest.raises(BadOption, match="has no option 'needs'"):
        parse_options(Everything, {"needs": "base"})


def test_a_method_from_texts() -> None:
    assert create_from_text("ema", {"rate": "0.25"}) == Ema(rate=0.25)
    with pytest.raises(BadOption, match=r"rate is 2\.0, expected a number above 0 and at most 1"):
        create_from_text("ema", {"rate": "2"})
    with pytest.raises(BadOption, match="rate is nan"):
        create_from_text("ema", {"rate": "nan"})
    with pytest.raises(UnknownMethod, match="did you mean 'ema'"):
        create_from_text("emma", {})


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.name)
def test_every_default_survives_its_own_text(line: Entry) -> None:
    method = line.load()
    defaults = {name: default for name, _, default, _ in options_of(method)}
    texts = {name: str(default).lower() for name, default in defaults.items()}
    found = parse_options(method, texts)
    assert found == defaults
    assert all(not isinstance(value, float) or math.isfinite(value) for value in found.values())
