"""A run's TOML file: the keys of a run's specification, and where its base comes from.

    name = "digits"
    nodes = 4
    rounds = 20
    [topology]
    graph = "ring"
    [base]
    trainer = "digits:Digits"          # or path = "base.safetensors"
    [base.options]                     # or none = true, schema = "any.safetensors"
    hidden = 64

Relative paths, and the trainer's module, are looked for beside the file.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weft.errors import InvalidInput
from weft.protocol.configuration import FilePath, explain, load_toml
from weft.protocol.run import RunSpec, Scalar

if TYPE_CHECKING:
    from weft.checkpoints.reader import TensorReader
    from weft.checkpoints.schema import Schema


class BaseSection(BaseModel):
    """Where the model comes from that every node starts with.

    Attributes:
        path: a checkpoint.
        trainer: `module:Class`, whose model() with the run's seed is the base.
        options: of the trainer.
        none: nodes start apart, with models of their own; `schema` is told instead.
        schema_path: any checkpoint of such a model; key `schema`.
        upload: false: the base is in the coordinator's store already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: FilePath | None = None
    trainer: str | None = None
    options: dict[str, Scalar] = Field(default_factory=dict)
    none: bool = False
    schema_path: FilePath | None = Field(default=None, alias="schema")
    upload: bool = True

    @model_validator(mode="after")
    def _one_way(self) -> "BaseSection":
        given = [key for key in ("path", "trainer", "none") if getattr(self, key)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"wants exactly one of path, trainer, none = true; found {found}")
        if self.none != (self.schema_path is not None):
            raise ValueError("none = true wants schema = PATH of any checkpoint, and only that")
        if self.options and self.trainer is None:
            raise ValueError("options are the trainer's, and there is no trainer")
        return self


class RunFile(RunSpec):
    """What a run's file holds: a specification whose base is still to be made."""

    base: BaseSection  # type: ignore[assignment]


def load_run_file(path: Path, base: str | None = None) -> RunFile:
    """Read a run's file; blocks.

    Args:
        path: the file.
        base: instead of the file's base: a path, or `module:Class`.

    Raises:
        InvalidInput: no such file, a wrong key (with the nearest valid one) or value.
    """
    if base is None:
        return load_toml(path, RunFile)
    loaded = load_toml(path, _AnyBase)
    section = BaseSection(trainer=base) if _names_class(base) else BaseSection(path=Path(base))
    return RunFile.model_validate({**loaded.model_dump(exclude={"base"}), "base": section})


class _AnyBase(RunSpec):
    base: BaseSection | None = None  # type: ignore[assignment]

    @model_validator(mode="after")
    def _base_or_schema(self) -> "_AnyBase":
        return self


def _names_class(base: str) -> bool:
    module, colon, name = base.partition(":")
    return bool(colon) and name.isidentifier() and not Path(base).exists() and "/" not in module


@contextmanager
def prepared(file: RunFile, folder: Path) -> "Iterator[tuple[RunSpec, TensorReader | None]]":
    """The specification of a run, and a reader of its base while the context lasts.

    The base's digest is not in the specification yet: it is known once the base is
    in a store. Imports torch; a trainer's code runs in this process.

    Args:
        file: what was read.
        folder: where the trainer's module is looked for.

    Raises:
        WeftError: a method, a graph or an option that does not exist; the base cannot
            be read, the trainer not be loaded or its model not be built.
    """
    from weft.checkpoints.reader import open_checkpoint

    _check(file)
    if file.base.schema_path is not None:
        with open_checkpoint(file.base.schema_path) as reader:
            yield _spec(file, reader.schema), None
        return
    with _base_path(file, folder) as path, open_checkpoint(path) as reader:
        yield _spec(file, reader.schema), reader


def without_base(file: RunFile) -> RunSpec:
    """The specification as far as it is known without looking at the base."""
    if file.merge.mode == "continual":
        _check_continual(file)
    values = file.model_dump(exclude={"base", "schema_digest"})
    return RunSpec.model_validate({**values, "schema_digest": file.schema_digest or "0" * 64})


def with_base(spec: RunSpec, digest: str) -> RunSpec:
    """The specification with the digest of its base."""
    return spec.model_copy(update={"base": digest})


def _check(file: RunFile) -> None:
    """What can be told before a model is built, let alone sent."""
    from weft.merging import registry
    from weft.protocol.scheduling import schedule_before

    registry.create(file.merge.method, **file.merge.options)
    if file.merge.mode == "continual":
        _check_continual(file)
    final = registry.create(file.final.method, **file.final.options)
    if file.final.enabled and final.sees_models:
        raise InvalidInput(
            f"final.method {file.final.method!r} looks at whole models with these options, and in"
            " the global merge each member folds a share of the tensors: choose another, or an"
            " extent of 'tensor' where it has one"
        )
    schedule_before(file).check()


def _check_continual(file: RunFile) -> None:
    """Refuse what no node could take into a stream of its own."""
    from weft.merging import registry
    from weft.merging.errors import CannotMerge
    from weft.merging.streaming import require_streaming

    if file.base.none:
        raise InvalidInput(
            "merge.mode 'continual' needs a base, which each node's stream begins on: give"
            " [base] path or trainer, or take mode 'rounds'"
        )
    try:
        require_streaming(registry.create(file.merge.method, **file.merge.options))
    except CannotMerge as error:
        raise InvalidInput(
            f"merge.method {file.merge.method!r} does not go with merge.mode 'continual': {error}"
        ) from error


def _spec(file: RunFile, schema: "Schema") -> RunSpec:
    values = file.model_dump(exclude={"base", "schema_digest"})
    try:
        return RunSpec.model_validate({**values, "schema_digest": schema.digest})
    except ValidationError as error:
        raise InvalidInput(f"run {file.name}: {explain(error, RunSpec)}") from error


@contextmanager
def _base_path(file: RunFile, folder: Path) -> Iterator[Path]:
    if file.base.path is not None:
        yield file.base.path
        return
    with tempfile.TemporaryDirectory(prefix="weft-base-") as made:
        path = Path(made) / "base.safetensors"
        _build(file, folder, path)
        yield path


def _build(file: RunFile, folder: Path, path: Path) -> None:
    """Write the trainer's first model, drawn with the run's seed."""
    from weft.node.model_files import save_model
    from weft.node.trainer import load_trainer
    from weft.node.training_worker import seed_everything

    # Whatever the user's code prints must not get between the lines of --json.
    with redirect_stdout(sys.stderr):
        seed_everything(file.seed)
        trainer = load_trainer(str(file.base.trainer), file.base.options, folder)
        seed_everything(file.seed)
        save_model(trainer.model(), path)
