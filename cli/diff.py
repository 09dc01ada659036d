"""`weft diff`: what a fine-tuned model changes of its base, as a delta folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.output import JsonFlag, emit, size

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is printed; the fields are those of the JSON document."""

    folder: Path
    digest: str
    against: str
    codec: str
    tensors: int
    model_bytes: int
    delta_bytes: int


Base = Annotated[Path, typer.Argument(metavar="BASE", help="The base: a file or a folder.")]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The fine-tuned model, or an adapter on the base.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The delta's folder; made new.")]
CodecName = Annotated[
    str,
    typer.Option(help="lossless (every bit comes back) or raw (float32 differences, readable)."),
]
Prefix = Annotated[
    str, typer.Option(help="Of torch.distributed checkpoints: only tensors that begin with it.")
]


@app.command(epilog="Example: weft diff base finetuned -o delta")
def diff(
    base: Base,
    model: Model,
    out: Out,
    codec: CodecName = "lossless",
    prefix: Prefix = "",
    as_json: JsonFlag = False,
) -> None:
    """What a fine-tuned model changes of its base, as one artifact in a folder.

    It names the base's digest and is refused on any other. `weft apply` makes the model
    again; a store takes the folder in as it is.
    """
    from weft.checkpoints.delta_folders import read_manifest, write_delta
    from weft.checkpoints.inputs import model_digest, open_input
    from weft.checkpoints.new_folder import require_new

    _require_codec(codec)
    require_new(out)
    with open_input(base, prefix=prefix) as origin:
        against = model_digest(origin)
        with open_input(model, origin, base_digest=against, prefix=prefix) as finetuned:
            digest = write_delta(out, finetuned, origin, against, codec)
            schema = finetuned.schema
    written = Written(
        folder=out,
        digest=digest,
        against=against,
        codec=codec,
        tensors=len(schema),
        model_bytes=schema.size_bytes,
        delta_bytes=read_manifest(out).total_bytes,
    )
    emit(written, as_json, _text)


def _require_codec(name: str) -> None:
    from weft.checkpoints.codecs.registry import create
    from weft.checkpoints.errors import UnknownCodec

    try:
        create(name)
    except UnknownCodec as error:
        raise UnknownCodec(f"--codec: {error}") from None


def _text(written: Written) -> str:
    share = 100 * written.delta_bytes / max(written.model_bytes, 1)
    return (
        f"{written.folder}: delta of {written.tensors} tensors, {size(written.delta_bytes)} "
        f"({share:.0f} % of {size(written.model_bytes)}), {written.codec}\n"
        f"  digest   {written.digest}\n"
        f"  against  {written.against}"
    )
