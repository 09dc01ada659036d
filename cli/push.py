"""`weft push`: a checkpoint into a stream on another machine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli.exits import MISTAKE
from weft.cli.output import JsonFlag, emit, note, progress, size

if TYPE_CHECKING:
    from weft.protocol.push import Patience, Target
    from weft.protocol.serve_artifacts import Source
    from weft.protocol.v1.continual_pb2 import CommitReply, Contribution, Offer

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)

DEFAULT_NAME = "stream"


What = Annotated[
    Path, typer.Argument(metavar="PATH", help="A model, shards, an adapter, a DCP folder, a delta.")
]
To = Annotated[
    str,
    typer.Option("--to", envvar="WEFT_STREAM", metavar="HOST:PORT", help="Its server."),
]
Credentials = Annotated[
    Path,
    typer.Option(envvar="WEFT_CREDENTIALS", metavar="FOLDER", help="A node's or an operator's."),
]
Name = Annotated[
    str, typer.Option(help="In the server's certificate; who has another name is not spoken to.")
]
Base = Annotated[
    Path | None,
    typer.Option(help="The stream's base, where it is at hand: only a lossless delta is sent."),
]
Prefix = Annotated[
    str, typer.Option(help="Of a torch.distributed checkpoint: only tensors that begin with it.")
]
Weight = Annotated[float, typer.Option(help="In the merge.")]
Lineage = Annotated[
    str, typer.Option(help="The training run: a later checkpoint of it replaces this one.")
]
Step = Annotated[int, typer.Option(min=0, help="Of that run.")]
StartedFrom = Annotated[
    int | None, typer.Option(min=0, help="The generation whose head it was trained from.")
]
Again = Annotated[
    bool, typer.Option("--again", help="Although the same was revoked or set aside before.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is absorbed, or set aside.")]
Seconds = Annotated[
    float, typer.Option(min=0, help="Seconds without any progress until it gives up.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What is printed; the fields are those of the JSON document.

    Attributes:
        seq: number of the contribution.
        status: waiting, absorbed, set aside, or what became of it later.
        known: the same content had come before.
        generation: the first one that it is part of; None: not absorbed.
        reason: why it was not taken.
        digest: of what was pushed.
        sent_bytes: so many were sent, those of cuts too.
    """

    seq: int
    name: str
    status: str
    known: bool
    generation: int | None
    reason: str
    digest: str
    sent_bytes: int


@app.command(epilog="Example: weft push run/checkpoint-500 --to 10.0.0.5:9600 --lineage run")
def push(
    path: What,
    to: To,
    credentials: Credentials,
    name: Name = DEFAULT_NAME,
    base: Base = None,
    prefix: Prefix = "",
    weight: Weight = 1.0,
    lineage: Lineage = "",
    step: Step = 0,
    started_from: StartedFrom = None,
    again: Again = False,
    wait: Wait = True,
    patience: Seconds = 120.0,
    as_json: JsonFlag = False,
) -> None:
    """Send a checkpoint to a stream's server, and say what becomes of it.

    Only what the server lacks is sent: what a cut left there is not sent again, and the
    same content twice is one contribution. Exit code 2: it was set aside.
    """
    from weft.protocol.v1.continual_pb2 import Offer

    offer = Offer(
        name=path.resolve().name,
        weight=weight,
        lineage=lineage,
        step=step,
        started_from=started_from,
        again=again,
    )
    with _source(path, base, prefix) as source:
        pushed = _asked(source, offer, to, name, credentials, wait, patience)
    emit(pushed, as_json, _words)
    if pushed.status == "set aside":
        raise typer.Exit(MISTAKE)


@contextmanager
def _source(path: Path, base: Path | None, prefix: str) -> "Iterator[Source]":
    """What is sent; a delta is made in a temporary folder beside nobody's data."""
    from weft.checkpoints.inputs import format_of
    from weft.protocol.sources import source_of

    with ExitStack() as stack:
        if base is not None and not format_of(path).needs_base:
            path = stack.enter_context(_delta(path, base, prefix))
        advance = stack.enter_context(progress(f"reading {path.name}", _bytes_at(path)))
        yield stack.enter_context(source_of(path, advance, prefix))


@contextmanager
def _delta(path: Path, base: Path, prefix: str) -> Iterator[Path]:
    """A lossless delta folder, gone at the end; its digest is the same each time."""
    import tempfile

    from weft.checkpoints.delta_folders import write_delta
    from weft.checkpoints.inputs import model_digest, open_input

    with (
        tempfile.TemporaryDirectory(prefix="weft-push-") as folder,
        open_input(base, prefix=prefix) as origin,
        open_input(path, prefix=prefix) as finetuned,
    ):
        made = Path(folder) / path.name
        write_delta(made, finetuned, origin, model_digest(origin), "lossless")
        yield made


def _asked(
    source: "Source",
    offer: "Offer",
    to: str,
    name: str,
    credentials: Path,
    wait: bool,
    patience: float,
) -> Pushed:
    import asyncio

    from weft.protocol.channel import ChannelPool
    from weft.protocol.identity import Credentials
    from weft.protocol.push import Patience, Target, settled

    async def run() -> Pushed:
        pool = ChannelPool(Credentials.load(credentials))
        trying = Patience(patience, say=note)
        try:
            target = Target(pool=pool, address=to, name=name)
            reply, sent = await _sent(source, offer, target, trying)
            each = reply.contribution
            if wait and each.status == "waiting":
                each = await settled(target, each.seq, patience=trying, say=note)
            return _pushed(each, reply.known, source.manifest.digest, sent)
        finally:
            await pool.close()

    return asyncio.run(run())


async def _sent(
    source: "Source", offer: "Offer", target: "Target", patience: "Patience"
) -> "tuple[CommitReply, int]":
    """Push it with a bar for each attempt; returns the answer and the bytes that were sent."""
    from weft.protocol.push import Push

    sent, total = 0, source.manifest.total_bytes
    with progress(f"sending {offer.name}", total) as advance:

        def on_sent(count: int) -> None:
            nonlocal sent
            sent += count
            advance(count)

        def on_missing(count: int) -> None:
            if count < total:
                note(f"{size(total - count)} of {size(total)} are there already")

        pushing = Push(
            source, offer, target, patience=patience, on_sent=on_sent, on_missing=on_missing
        )
        return await pushing.run(), sent


def _pushed(each: "Contribution", known: bool, digest: str, sent: int) -> Pushed:
    return Pushed(
        seq=each.seq,
        name=each.name,
        status=each.status,
        known=known,
        generation=each.generation if each.HasField("generation") else None,
        reason=each.reason,
        digest=digest,
        sent_bytes=sent,
    )


def _words(pushed: Pushed) -> str:
    known = ", known: it had come before" if pushed.known else ""
    what = pushed.status
    if pushed.status == "waiting":
        what = "durable, and waits for its turn"
    elif pushed.status == "absorbed":
        what = f"absorbed in generation {pushed.generation}"
    reason = f": {pushed.reason}" if pushed.reason else ""
    return f"contribution {pushed.seq} ({pushed.name}){known}: {what}{reason}"


def _bytes_at(path: Path) -> int:
    """About how many bytes will be read."""
    from weft.checkpoints.errors import MissingCheckpoint

    if not path.exists():
        raise MissingCheckpoint(f"{path}: no such file or folder")
    files: list[Any] = [path] if path.is_file() else list(path.glob("*"))
    return sum(each.stat().st_size for each in files if each.is_file())
