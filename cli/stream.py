"""`weft stream`: a continual merge in a folder, with a server or without."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.output import JsonFlag, emit, note, size
from weft.cli.stream_commands import register as register_commands
from weft.cli.stream_folder import Memory, Threads, head_of, head_text, opened
from weft.cli.stream_serve import register as register_serve

if TYPE_CHECKING:
    from weft.node.continual.spec import StreamSpec
    from weft.node.continual.stream import Receipt, Stream

app = typer.Typer(
    help="Checkpoints stream in, one merged model is always there.",
    epilog="Example: weft stream init merged --base base && weft stream add merged checkpoint-500",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The stream's folder.")]
Prefix = Annotated[
    str, typer.Option(help="Of a torch.distributed checkpoint: only tensors that begin with it.")
]


@app.command(epilog="Example: weft stream init merged --base base --method wudi --scale 0.5")
def init(
    folder: Dir,
    base: Annotated[Path, typer.Option(help="What the checkpoints are fine-tuned from.")],
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="How to merge; `weft methods` lists all.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hyperparameter; repeat it."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Factor of the merged task vector: a number, or auto.")
    ] = "auto",
    sums: Annotated[
        str | None,
        typer.Option(
            help="exact: free of order, taken out by subtraction; float32: a state of a quarter."
            " float32 without --method, exact with one."
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Of contributions: lossless, compressed or none.")
    ] = "lossless",
    retain: Annotated[
        int, typer.Option(min=1, help="Generations before the newest that stay at hand.")
    ] = 4,
    norm_factor: Annotated[
        float, typer.Option(help="How many times the median norm a task vector may have.")
    ] = 10.0,
    gate: Annotated[
        str, typer.Option(help="A command that scores a checkpoint: 'python eval.py {checkpoint}'.")
    ] = "",
    gate_bound: Annotated[
        float, typer.Option(min=0, help="By how much a contribution may lower the score.")
    ] = 0.0,
    shard_size: Annotated[str, typer.Option(help="The most bytes of tensors in one file.")] = "5GB",
    as_json: JsonFlag = False,
) -> None:
    """Begin a stream: the base is its first head.

    Says how many bytes of state the method will keep, however many checkpoints come.
    """
    from weft.cli.stream_options import spec_of
    from weft.node.continual.files import begin

    spec = spec_of(
        method=method,
        settings=settings or [],
        scale=scale,
        sums=sums,
        keep=keep,
        retain=retain,
        norm_factor=norm_factor,
        gate=gate,
        gate_bound=gate_bound,
        shard_size=shard_size,
    )
    begin(folder, base, spec)
    with opened(folder, 0, None, "weft push") as stream:
        emit(_begun(stream, spec), as_json, _begun_text)


@app.command(epilog="Example: weft stream add merged runs/a/checkpoint-500 --lineage a --step 500")
def add(
    folder: Dir,
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint, adapter or delta: file or folder.")
    ],
    name: Annotated[str, typer.Option(help="What it is called in the history.")] = "",
    weight: Annotated[float, typer.Option(help="In the merge.")] = 1.0,
    lineage: Annotated[
        str, typer.Option(help="The training run that it is of: it replaces an older checkpoint.")
    ] = "",
    step: Annotated[int, typer.Option(min=0, help="Of that run.")] = 0,
    started_from: Annotated[
        int | None,
        typer.Option(
            metavar="GENERATION", help="The head that it was trained from; the base without."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also if the same was revoked or set aside before.")
    ] = False,
    prefix: Prefix = "",
    threads: Threads = 0,
    memory: Memory = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a checkpoint in and absorb it; no server is needed."""
    instead = f"weft push {shlex.quote(str(checkpoint))}"
    with opened(folder, threads, memory, instead) as stream:
        receipt = stream.offer(
            checkpoint,
            name=name,
            weight=weight,
            lineage=lineage,
            step=step,
            started_from=started_from,
            again=again,
            prefix=prefix,
        )
        stream.drain()
        _say_what_became(stream, receipt)
        emit(head_of(folder, stream.queue), as_json, head_text)


register_commands(app)
register_serve(app)


def _begun(stream: "Stream", spec: "StreamSpec") -> dict[str, object]:
    schema = stream.parts.base.schema
    state = spec.state_bytes(schema)
    return {
        "path": stream.folder,
        "method": spec.method,
        "options": spec.options,
        "scale": spec.scale,
        "keep": spec.keep,
        "base": stream.identity.base,
        "model_bytes": schema.size_bytes,
        "state_bytes": state,
        "state_to_model": state / max(schema.size_bytes, 1),
        "head": stream.parts.heads.path.absolute(),
    }


def _begun_text(begun: dict[str, object]) -> str:
    state, model = float(str(begun["state_bytes"])), float(str(begun["model_bytes"]))
    return (
        f"{begun['path']}: a stream by {begun['method']}; the head is {begun['head']}\n"
        f"state: {size(state)} however many come, {state / max(model, 1):.1f} times the model"
    )


def _say_what_became(stream: "Stream", receipt: "Receipt") -> None:
    """A contribution that was set aside is this command's error."""
    from weft.node.continual.errors import Unfit
    from weft.node.continual.records import Status

    each = stream.queue.contribution(receipt.contribution.seq)
    if receipt.known:
        hint = "" if each.status is Status.ABSORBED else "; --again takes it anew"
        came = f"the same content came before as contribution {each.seq}"
        note(f"{each.name}: {came}: {each.status}{hint}")
    if each.status is Status.SET_ASIDE:
        raise Unfit(f"{each.name}: set aside: {each.reason}")
    for warning in stream.queue.generation.warnings:
        note(f"warning: {warning}")
