"""Models by name, and the options that each takes.

>>> model = build_model("mlp", shape=(8, 8), classes=10, hidden=32)
>>> sum(parameter.numel() for parameter in model.parameters())
2410
"""

import difflib
import inspect
from collections.abc import Callable, Mapping

from torch import nn

from weft.simulations.errors import BadOption
from weft.simulations.tasks.models.convolutional import cnn, vgg
from weft.simulations.tasks.models.language import transformer
from weft.simulations.tasks.models.perceptron import mlp
from weft.simulations.tasks.models.residual import resnet18, resnet20
from weft.simulations.tasks.models.vision import vit_tiny

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "vgg": vgg,
    "vit_tiny": vit_tiny,
    "transformer": transformer,
}


def build_model(name: str, *, shape: tuple[int, ...], classes: int, **options: int) -> nn.Module:
    """A model for examples of one shape, its parameters drawn from torch's generator.

    Args:
        name: of `MODELS`; each function there says what it is.
        shape: of one example: (features,), (height, width), (height, width,
            channels), or (context,) for a text.
        classes: outputs.
        options: of the model, whole numbers from 1.

    Raises:
        BadOption: an unknown name or option, one out of range, or a model that
            examples of this shape do not fit.
    """
    if name not in MODELS:
        raise BadOption(f"no model {name!r}; known are {_listed(MODELS)}")
    builder = MODELS[name]
    _check(name, options_of(builder), options)
    return builder(shape, classes, **options)


def options_of(builder: Builder) -> dict[str, int]:
    """The options of a model and their usual values."""
    parameters = inspect.signature(builder).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def parse_options(text: str | Mapping[str, int]) -> dict[str, int]:
    """Options as a mapping, or written as "width=8, depth=2", as one line of a file can say them.

    Raises:
        BadOption: a part that is no NAME=NUMBER.
    """
    if not isinstance(text, str):
        return dict(text)
    return dict(_parsed(part) for part in text.replace(",", " ").split())


def written(options: str | Mapping[str, int]) -> str:
    """What `parse_options` reads."""
    return ", ".join(f"{name}={value}" for name, value in parse_options(options).items())


def _parsed(part: str) -> tuple[str, int]:
    name, _, number = part.partition("=")
    if not name.isidentifier() or not number.isdecimal():
        raise BadOption(f'model option {part!r}: expected NAME=NUMBER, such as "width=8, depth=2"')
    return name, int(number)


def _check(name: str, known: Mapping[str, int], options: Mapping[str, int]) -> None:
    for option, value in options.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {_listed(known)}"
            raise BadOption(f"model {name!r} has no option {option!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadOption(f"model {name!r}: {option} = {value!r}; expected a whole number from 1")


def _listed(names: Mapping[str, object]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
