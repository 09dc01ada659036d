"""`weft apply`: a base and what was taken from it or trained on it, as a model folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.byte_sizes import byte_size
from weft.cli.output import JsonFlag, emit, progress, size
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from weft.checkpoints.blocks import RangeReader
    from weft.checkpoints.output import OutputFolder

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is printed; the fields are those of the JSON document.

    Attributes:
        merged: digest of the merged model that an expert was restored from.
    """

    folder: Path
    digest: str
    base: str
    merged: str | None
    applied: str
    tensors: int
    model_bytes: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is about to be written.

    Attributes:
        base, merged, applied: digests, as in `Written`.
    """

    model: "RangeReader"
    base: str
    merged: str | None
    applied: str


Base = Annotated[
    Path,
    typer.Argument(metavar="BASE", help="The base: a file or a folder. Of an expert: the merged."),
]
Delta = Annotated[
    Path,
    typer.Argument(
        metavar="DELTA", help="A delta folder, a PEFT adapter's folder, or an expert's file."
    ),
]
ExpertBase = Annotated[
    Path | None,
    typer.Option("--base", help="Of an expert: the base that the merge was made with."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The model's folder; made new.")]
ShardSize = Annotated[str, typer.Option(help="The most bytes of tensors in one file: 5GB, ...")]
Prefix = Annotated[
    str, typer.Option(help="Of a torch.distributed base: only tensors that begin with it.")
]


@app.command(epilog="Example: weft apply base delta -o finetuned --shard-size 2GB")
def apply(
    base: Base,
    delta: Delta,
    out: Out,
    expert_base: ExpertBase = None,
    shard_size: ShardSize = "5GB",
    prefix: Prefix = "",
    as_json: JsonFlag = False,
) -> None:
    """A base and a delta or an adapter, as the full model; or a merged model and an expert.

    A lossless delta gives back every bit; an adapter is added in float64 and rounded once
    to the base's dtype. Configuration and tokenizer files of the base's folder go along.

    An expert (`weft merge --experts`) gives one contribution back, nearly:
    weft apply MERGED experts/a.safetensors --base BASE -o a.
    """
    shard_bytes = byte_size(shard_size, "--shard-size", 1)
    with _opened(base, delta, expert_base, prefix) as opened:
        plan = {"command": "apply", "base": opened.base, "delta": opened.applied}
        if opened.merged is not None:
            plan["merged"] = opened.merged
        with _output(out, base, opened.model, shard_bytes, plan) as output:
            _copy(opened.model, output)
        schema = opened.model.schema
    written = Written(
        folder=out,
        digest=output.digest,
        base=opened.base,
        merged=opened.merged,
        applied=opened.applied,
        tensors=len(schema),
        model_bytes=schema.size_bytes,
    )
    emit(written, as_json, _text)


@contextmanager
def _opened(base: Path, delta: Path, expert_base: Path | None, prefix: str) -> Iterator[Opened]:
    from weft.checkpoints.expert_files import Origin
    from weft.checkpoints.expert_reader import ExpertReader, is_expert
    from weft.checkpoints.inputs import format_of, model_digest, open_input

    found = format_of(delta)
    if not is_expert(delta):
        if expert_base is not None:
            raise InvalidInput(f"--base goes with an expert's file, and {delta} is none")
        if not found.needs_base:
            raise InvalidInput(
                f"{delta}: found a whole model, expected a delta, an adapter or an expert"
            )
        with open_input(base, prefix=prefix) as origin:
            digest = model_digest(origin)
            with open_input(delta, origin, base_digest=digest) as model:
                yield Opened(model, digest, None, _identity(model))
        return
    if expert_base is None:
        raise InvalidInput(f"{delta}: an expert stands on a merged model and its base; give --base")
    with open_input(base) as merged, open_input(expert_base, prefix=prefix) as origin:
        ends = Origin(merged, model_digest(merged)), Origin(origin, model_digest(origin))
        with ExpertReader(delta, *ends) as model:
            yield Opened(model, ends[1].digest, ends[0].digest, model.identity())


def _identity(reader: "RangeReader") -> str:
    """A digest of what is applied: a further kind of delta needs a line here."""
    from weft.checkpoints.adapters import AdapterReader
    from weft.checkpoints.delta_folders import DeltaFolderReader

    if isinstance(reader, AdapterReader):
        return reader.identity()
    return reader.digest if isinstance(reader, DeltaFolderReader) else ""


def _output(
    out: Path, base: Path, model: "RangeReader", shard_bytes: int, plan: dict[str, str]
) -> "OutputFolder":
    from weft.checkpoints.output import OutputFolder
    from weft.checkpoints.sidecars import find_sidecars

    sidecars = find_sidecars(base) if base.is_dir() else ()
    return OutputFolder(
        out, model.schema, shard_bytes=shard_bytes, plan=dict(plan), sidecars=sidecars
    )


def _copy(reader: "RangeReader", output: "OutputFolder") -> None:
    with progress("applying", reader.schema.size_bytes) as advance:
        for spec in output.remaining:
            output.write(spec.name, reader.blocks(spec.name))
            advance(spec.size_bytes)


def _text(written: Written) -> str:
    merged = f"  merged   {written.merged}\n" if written.merged is not None else ""
    return (
        f"{written.folder}: {written.tensors} tensors, {size(written.model_bytes)}\n"
        f"  digest   {written.digest}\n"
        f"  base     {written.base}\n{merged}"
        f"  applied  {written.applied}"
    )
