"""TOML files into pydantic models, with errors that a person can act on.

Every program of weft that reads a configuration reads it here, so that a typo
is told in one way: file, dotted key, the nearest valid key, what was expected.

    config = load_toml(Path("node.toml"), NodeConfig)

Nothing here knows any model in particular. Stable.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from weft.protocol.errors import BadConfiguration, MissingFile

Model = TypeVar("Model", bound=BaseModel)

FOLDER = "folder"
"""Key of the validation context that holds the configuration file's folder."""

_SHOWN_CHARACTERS = 40


def _beside_the_file(value: object, info: ValidationInfo) -> object:
    folder = (info.context or {}).get(FOLDER)
    if isinstance(value, str | Path) and isinstance(folder, Path):
        return folder / Path(value).expanduser()
    return value


FilePath = Annotated[Path, BeforeValidator(_beside_the_file)]
"""A path in a configuration file: relative ones count from the file's folder."""


def load_toml(path: Path, model: type[Model]) -> Model:
    """Read a TOML file and check it against a pydantic model.

    The model should forbid extra fields; each unknown key is then answered with
    the nearest valid one. Blocks on the disk.

    Args:
        path: the file.
        model: what the file must hold. `FilePath` fields are resolved against
            the file's folder.

    Raises:
        MissingFile: there is no such file.
        BadConfiguration: not readable, not TOML, or not what the model expects;
            one line that names the file and every wrong key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: cannot be read: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfiguration(f"{path}: not TOML: {error}") from error
    return validated(document, model, where=str(path), folder=path.resolve().parent)


def validated(
    document: Mapping[str, object], model: type[Model], *, where: str, folder: Path | None = None
) -> Model:
    """Check a parsed document against a model; errors name `where` and the keys.

    Raises:
        BadConfiguration: the document is not what the model expects.
    """
    try:
        return model.model_validate(document, context={FOLDER: folder})
    except ValidationError as error:
        raise BadConfiguration(f"{where}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All of pydantic's errors as one line: `key: what was expected; key: ...`."""
    problems: dict[str, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        problems.setdefault(_dotted(_real(details["loc"], model)), []).append(details)
    lines = [_explain_key(key, details, model) for key, details in problems.items()]
    return "; ".join(lines)


def _explain_key(key: str, details: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    """One key's errors; a union gives several, one for each of its types."""
    first = details[0]
    if first["type"] == "extra_forbidden":
        return _unknown(key, first["loc"], model)
    if first["type"] == "missing":
        return f"{key}: missing; it has no default"
    complaints = dict.fromkeys(_complaint(one) for one in details)
    text = " or ".join(complaints) + _shown(first["input"])
    text = text.replace(" or expected ", " or ")
    return f"{key}: {text}" if key else text


def _complaint(details: ErrorDetails) -> str:
    """Pydantic's sentence in our words: `expected a valid string`."""
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] in ("model_type", "dict_type"):
        return "expected a table"
    message = message.replace("Input should be ", "expected ", 1).partition(", unable")[0]
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    """What was found, where it is short and cannot hold a password."""
    if not isinstance(value, bool | int | float | str):
        return ""
    text = repr(value)
    if len(text) > _SHOWN_CHARACTERS or "://" in text:
        return ""
    return f", found {text}"


def _unknown(key: str, location: Sequence[int | str], model: type[BaseModel]) -> str:
    """The nearest valid key: in another section by its exact name, or beside it by spelling."""
    siblings = _siblings(model, location[:-1])
    elsewhere = [name for name in dotted_keys(model) if name.split(".")[-1] == location[-1]]
    if elsewhere:
        return f"{key}: unknown key here, nearest valid key {elsewhere[0]}"
    near = difflib.get_close_matches(str(location[-1]), siblings, n=1, cutoff=0.5)
    if near:
        return f"{key}: unknown key, nearest valid key {_join(key.rpartition('.')[0], near[0])}"
    return f"{key}: unknown key, expected one of {', '.join(sorted(siblings))}"


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that a model knows, sections first, dotted."""
    for name, field in model.model_fields.items():
        key = _join(prefix, field.alias or name)
        yield key
        for inner in _models_in(field.annotation):
            yield from dotted_keys(inner, key)


def _siblings(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The valid keys of the section at a location."""
    models = [model]
    for part in location:
        models = _step(models, part)
    return list(
        dict.fromkeys(
            field.alias or name for one in models for name, field in one.model_fields.items()
        )
    )


def _step(models: Sequence[type[BaseModel]], part: int | str) -> list[type[BaseModel]]:
    """The models one level down; list positions and names of union members stay."""
    deeper = [
        inner
        for one in models
        for name, field in one.model_fields.items()
        if part in (name, field.alias)
        for inner in _models_in(field.annotation)
    ]
    if deeper:
        return deeper
    named = [one for one in models if _is_named(one, part)]
    return named or list(models)


def _real(location: Sequence[int | str], model: type[BaseModel]) -> list[int | str]:
    """A location without the names of union members, which no file holds."""
    real: list[int | str] = []
    annotation: object = model
    for part in location:
        members = _members(annotation)
        if len(members) > 1 and not isinstance(part, int):
            annotation = next((one for one in members if _is_named(one, part)), None)
            continue
        real.append(part)
        annotation = _child(members[0], part) if members else None
    return real


def _members(annotation: object) -> list[object]:
    """What a value may be, None left out: pydantic adds no name for `X | None`."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [] if annotation in (None, type(None)) else [annotation]


def _is_named(annotation: object, name: int | str) -> bool:
    """Whether pydantic calls a member of a union so: its class, or its discriminator's value."""
    if not isinstance(annotation, type):
        return False
    fields = annotation.model_fields.values() if issubclass(annotation, BaseModel) else ()
    tags = [get_args(f.annotation) for f in fields if get_origin(f.annotation) is Literal]
    return annotation.__name__ == name or any(name in values for values in tags)


def _child(annotation: object, part: int | str) -> object:
    """The annotation that one part of a location leads to; None where it leads nowhere."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return next((f.annotation for name, f in fields if part in (name, f.alias)), None)
    arguments = get_args(annotation)
    return arguments[-1] if get_origin(annotation) is dict else next(iter(arguments), None)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """Every model inside an annotation: unions, lists and tables are looked through."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner: tuple[Any, ...] = get_args(annotation)
    return [model for one in inner for model in _models_in(one)]


def _dotted(location: Sequence[int | str]) -> str:
    """`train.steps`, `peers[0].address`."""
    text = ""
    for part in location:
        text = f"{text}[{part}]" if isinstance(part, int) else _join(text, part)
    return text


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
