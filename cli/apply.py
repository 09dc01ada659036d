"""`weft apply`: a base and what was taken from it or trained on it, as a model folder."""

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
    """What is printed; the fields are those of the JSON document."""

    folder: Path
    digest: str
    base: str
    applied: str
    tensors: int
    model_bytes: int


Base = Annotated[Path, typer.Argument(metavar="BASE", help="The base: a file or a folder.")]
Delta = Annotated[
    Path, typer.Argument(metavar="DELTA", help="A delta folder, or a PEFT adapter's folder.")
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
    shard_size: ShardSize = "5GB",
    prefix: Prefix = "",
    as_json: JsonFlag = False,
) -> None:
    """A base and a delta or an adapter, as the full model.

    A lossless delta gives back every bit; an adapter is added in float64 and rounded once
    to the base's dtype. Configuration and tokenizer files of the base's folder go along.
    """
    from weft.checkpoints.inputs import format_of, model_digest, open_input

    shard_bytes = byte_size(shard_size, "--shard-size")
    if not format_of(delta).needs_base:
        raise InvalidInput(f"{delta}: found a whole model, expected a delta or an adapter")
    with open_input(base, prefix=prefix) as origin:
        digest = model_digest(origin)
        with open_input(delta, origin, base_digest=digest) as finetuned:
            applied = _identity(finetuned)
            plan = {"command": "apply", "base": digest, "delta": applied}
            with _output(out, base, finetuned, shard_bytes, plan) as output:
                _copy(finetuned, output)
            schema = finetuned.schema
    written = Written(
        folder=out,
        digest=output.digest,
        base=digest,
        applied=applied,
        tensors=len(schema),
        model_bytes=schema.size_bytes,
    )
    emit(written, as_json, _text)


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
    return (
        f"{written.folder}: {written.tensors} tensors, {size(written.model_bytes)}\n"
        f"  digest   {written.digest}\n"
        f"  base     {written.base}\n"
        f"  applied  {written.applied}"
    )
