"""Hyperparameters as a person types them: texts, read by the field's annotated type.

    parse_options(Ema, {"rate": "0.2"})         {"rate": 0.2}

What lies outside a method's range is refused where the method is built, as always.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from weft.merging.errors import BadOption
from weft.merging.hyperparameters import options_of
from weft.merging.registry import entry, no_option

if TYPE_CHECKING:
    from weft.merging.method import Method

_FLAGS: Final = {"true": True, "false": False}


def parse_options(
    method: "type[Method]", texts: Mapping[str, str], called: str = ""
) -> dict[str, object]:
    """The texts as values of the types that the method's fields say.

    Args:
        method: the method's class.
        texts: by hyperparameter; `float` and `int` as Python reads them, `bool` as
            true or false, `str` as it stands.
        called: the method's name in messages; without it the class's.

    Raises:
        BadOption: no such hyperparameter (names the nearest), or a text that is no
            value of its type.
    """
    name = called or method.__name__
    kinds = {option: kind for option, kind, _, _ in options_of(method)}
    return {option: _parsed(name, kinds, option, text) for option, text in texts.items()}


def create_from_text(name: str, texts: Mapping[str, str]) -> "Method":
    """A method with hyperparameters that are texts, such as `--set key=value` gives.

    Raises:
        UnknownMethod: no such method.
        BadOption: no such hyperparameter, or not with this value.
    """
    method = entry(name).load()
    return method(**parse_options(method, texts, called=name))


def _parsed(name: str, kinds: Mapping[str, str], option: str, text: str) -> object:
    if option not in kinds:
        raise no_option(name, option, list(kinds))
    read, expected = _READ[kinds[option]]
    try:
        return read(text.strip())
    except (ValueError, KeyError):
        raise BadOption(f"{name}: {option} is {text[:80]!r}, expected {expected}") from None


_READ: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "float": (float, "a number, such as 0.5"),
    "int": (int, "a whole number, such as 8"),
    "bool": (lambda text: _FLAGS[text.lower()], "true or false"),
    "str": (str, "a text"),
}
