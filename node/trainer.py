"""The plug-in: what a user's training code looks like, and how it is found.

    class Digits:
        def __init__(self, path: str = "digits.npz") -> None: ...
        def model(self) -> nn.Module: ...
        def train(self, model: nn.Module, round: int) -> Metrics: ...

named in the configuration as `module:Class`. Four more methods are optional, each
with a protocol of its own below. This module imports no torch; stable.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, runtime_checkable

from weft.node.errors import BadTrainer

if TYPE_CHECKING:
    from torch import Tensor, nn

Metrics: TypeAlias = Mapping[str, float]
Scalar: TypeAlias = bool | int | float | str
Batch: TypeAlias = "Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]"
"""What a model is called with: a tensor; a tuple or list whose first item is the
input (labels may follow, they are left alone); or a mapping of keyword arguments."""

REQUIRED = ("model", "train")


class Trainer(Protocol):
    """What every trainer has. Written down next to it: what a node promises.

    Before `train` the parameters are loaded from a file, `torch`, `numpy` and
    `random` are seeded from (run, node, round), and the model stands on its
    device in training mode; batches belong on `next(model.parameters()).device`.
    Train in place. What must outlive a round and is not in the model belongs in
    `state` (see `Stateful`): a node may be restarted between any two rounds, and
    a round may be trained again from the same files.

    An attribute or method `data_size` (how many samples this node has), where
    there is one, is what merges weighted by data use.
    """

    def model(self) -> "nn.Module":
        """A new model, its parameters drawn from torch's generator as seeded."""
        ...

    def train(self, model: "nn.Module", round: int) -> Metrics:
        """Train one round in place; returns what to show, such as `{"loss": 0.3}`."""
        ...


@runtime_checkable
class Evaluates(Protocol):
    """Optional: measures a model, for curves and for the score gate."""

    def evaluate(self, model: "nn.Module") -> Metrics:
        """Measure the model, which stands in evaluation mode, without gradients."""
        ...


@runtime_checkable
class Calibrates(Protocol):
    """Optional: gives batches for running statistics and activations."""

    def calibration(self) -> Iterable[Batch]:
        """A finite number of batches, the same each time it is asked."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Optional: optimizer and other state, saved with the round.

    Tensors, numbers, strings, None, and lists, tuples and dicts of these: what
    `torch.load(weights_only=True)` reads. `load_state` comes before `train`, on the
    CPU. The optimizer's state belongs under the entry "optimizer": where a run
    starts optimizers afresh after a merge, that entry is left out, so a dict
    without it means: start with a new one.
    """

    def state(self) -> dict[str, object]:
        """What the next round needs."""
        ...

    def load_state(self, state: dict[str, object]) -> None:
        """Take back what `state` gave, without "optimizer" if that starts afresh."""
        ...


def load_trainer(target: str, options: Mapping[str, Scalar], folder: Path) -> Trainer:
    """Import a user's trainer class and build it.

    Puts `folder` first on `sys.path` and leaves it there: the user's code may
    import its neighbours later.

    Args:
        target: `module:Class`.
        options: the constructor's keyword arguments.
        folder: where the module is looked for first.

    Raises:
        BadTrainer: no such module or class, its import fails, it lacks a method,
            or the options do not fit its constructor. What the constructor
            itself raises comes through as it is.
    """
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name.isidentifier():
        raise BadTrainer(
            f"trainer {target!r} is not of the form module:Class; "
            'write for example trainer = "digits:DigitsTrainer"'
        )
    trainer = _class_of(target, _import(target, module_name, folder), class_name)
    _require_methods(target, trainer)
    _require_options(target, trainer, options)
    return cast(Trainer, trainer(**options))


def data_size_of(trainer: object) -> int | None:
    """How many samples a trainer says it has; None where it does not say.

    Raises:
        BadTrainer: it says something that is no count.
    """
    said = getattr(trainer, "data_size", None)
    size = said() if callable(said) else said
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        name = type(trainer).__name__
        raise BadTrainer(f"{name}.data_size is {size!r}; expected a whole number of samples")
    return size


def _import(target: str, module_name: str, folder: Path) -> ModuleType:
    path = str(folder.resolve())
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)
    importlib.invalidate_caches()
    _forget_namesake(module_name, folder.resolve())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise BadTrainer(
                f"trainer {target!r}: no module {missing!r} in {path} or on the Python path; "
                f"put {missing.replace('.', '/')}.py there, or mend the name"
            ) from error
        raise BadTrainer(
            f"trainer {target!r}: importing {module_name} needs the module {missing!r}, "
            "which is not installed here"
        ) from error
    except Exception as error:
        raise BadTrainer(
            f"trainer {target!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error


def _forget_namesake(module_name: str, folder: Path) -> None:
    """Where `folder` has the module, one of that name from elsewhere is not it."""
    parts = module_name.split(".")
    if parts[0] in sys.stdlib_module_names or not _is_at(folder.joinpath(*parts)):
        return
    for depth in range(1, len(parts) + 1):
        name, place = ".".join(parts[:depth]), folder.joinpath(*parts[:depth])
        cached = sys.modules.get(name)
        if cached is not None and not _is_from(cached, place):
            for other in [key for key in sys.modules if f"{key}.".startswith(f"{name}.")]:
                del sys.modules[other]
            return


def _is_at(place: Path) -> bool:
    return place.with_name(f"{place.name}.py").is_file() or (place / "__init__.py").is_file()


def _is_from(module: ModuleType, place: Path) -> bool:
    file = getattr(module, "__file__", None)
    origins = list(getattr(module, "__path__", ())) if file is None else [file]
    wanted = (place, place / "__init__.py", place.with_name(f"{place.name}.py"))
    return any(Path(origin).resolve() in {one.resolve() for one in wanted} for origin in origins)


def _class_of(target: str, module: ModuleType, class_name: str) -> type:
    found = getattr(module, class_name, None)
    if isinstance(found, type):
        return found
    classes = [name for name, value in vars(module).items() if isinstance(value, type)]
    near = difflib.get_close_matches(class_name, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its classes: {sorted(classes) or 'none'}"
    raise BadTrainer(f"trainer {target!r}: {module.__name__} has no class {class_name!r}; {hint}")


def _require_methods(target: str, trainer: type) -> None:
    missing = [name for name in REQUIRED if not callable(getattr(trainer, name, None))]
    if missing:
        raise BadTrainer(
            f"trainer {target!r} lacks {' and '.join(f'{name}()' for name in missing)}; "
            "a trainer has model() and train(model, round)"
        )
    if hasattr(trainer, "state") != hasattr(trainer, "load_state"):
        raise BadTrainer(
            f"trainer {target!r} has only one of state() and load_state(state); add the other"
        )


def _require_options(target: str, trainer: type, options: Mapping[str, Scalar]) -> None:
    parameters = inspect.signature(trainer).parameters
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    unknown = [name for name in options if name not in parameters]
    if unknown and not takes_any:
        near = difflib.get_close_matches(unknown[0], parameters, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes: {list(parameters) or 'none'}"
        raise BadTrainer(f"trainer {target!r} has no option {unknown[0]!r}; {hint}")
    try:
        inspect.signature(trainer).bind(**options)
    except TypeError as error:
        raise BadTrainer(
            f"trainer {target!r}: {error}; give it among the trainer's options"
        ) from error
