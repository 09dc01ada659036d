"""Written options become fields, or a line that says what to write."""

from dataclasses import dataclass

import pytest

from weft.topology.errors import BadOption
from weft.topology.options import Scalar, require, with_options


@dataclass(frozen=True)
class Thing:
    size: int = 1
    share: float = 0.5
    deep: bool = False
    word: str = "a"

    def __post_init__(self) -> None:
        require(self.size >= 0, "size", self.size, "at least 0")


def test_options_become_fields() -> None:
    options: list[tuple[str, Scalar]] = [("size", 3), ("share", 2), ("deep", True), ("word", "b")]
    thing = with_options("thing", Thing, options)
    assert thing == Thing(size=3, share=2.0, deep=True, word="b")
    assert type(thing.share) is float


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("siez", 1, "thing: option 'siez' is not known; did you mean 'size'?"),
        ("zzz", 1, "thing: option 'zzz' is not known; expected deep | share | size | word"),
        ("size", 1.0, "thing: option size: found 1.0, expected int"),
        ("size", True, "thing: option size: found True, expected int"),
        ("share", "x", "thing: option share: found 'x', expected float"),
        ("deep", 1, "thing: option deep: found 1, expected bool"),
        ("size", -1, "thing: option size: found -1, expected at least 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, value: Scalar, message: str) -> None:
    with pytest.raises(BadOption) as caught:
        with_options("thing", Thing, [(name, value)])
    assert str(caught.value) == message
