"""`weft run`: create, list, show, plan, pause, resume and stop runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.operators import (
    CoordinatorOption,
    CredentialsOption,
    Session,
    asked,
    operator,
    plan_document,
    run_status,
    summaries,
)
from weft.cli.output import Json, JsonFlag, emit, note, size
from weft.errors import NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weft.checkpoints.store import Store
    from weft.cli.run_file import RunFile
    from weft.protocol.run import RunSpec

app = typer.Typer(
    help="Runs: create, list, show, plan, pause, resume, stop.",
    epilog="Example: weft run create run.toml",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)

Name = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="PATH|MODULE:CLASS", help="Instead of the file's section base."),
]


@app.command(epilog="Example: weft run create run.toml --base resnet.safetensors")
def create(
    file: Annotated[Path, typer.Argument(help="The run, a TOML file.")],
    base: BaseOption = None,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a run: check it, upload its base, and tell the coordinator.

    The same file again is the same run. A base that the coordinator holds already is
    not sent again.
    """
    import tempfile

    from weft.checkpoints.artifacts import put_model
    from weft.checkpoints.store import Store
    from weft.cli.run_file import load_run_file, prepared, with_base

    who = operator(coordinator, credentials)
    asking = load_run_file(file, base)
    with prepared(asking, file.resolve().parent) as (spec, reader):
        if reader is None:
            made = asked(lambda session: _create(session, spec), who)
        else:
            with tempfile.TemporaryDirectory(prefix="weft-upload-") as folder:
                store = Store(folder)
                spec = with_base(spec, put_model(store, reader))
                outbox = store if asking.base.upload else None
                made = asked(lambda session: _create(session, spec, outbox), who)
    emit(made, as_json, _created)


async def _create(
    session: Session, spec: "RunSpec", outbox: "Store | None" = None
) -> dict[str, Json]:
    from weft.protocol.v1.coordinator_pb2 import CreateRunRequest

    uploaded = outbox is not None and await _upload(session, str(spec.base), outbox)
    request = CreateRunRequest(spec=spec.to_bytes())
    reply = await session.call(session.stub.CreateRun, request)
    return {
        "run": reply.run,
        "spec_digest": spec.digest,
        "base": spec.base,
        "schema_digest": spec.schema_digest,
        "align": spec.merge.align,
        "uploaded": uploaded,
    }


async def _upload(session: Session, digest: str, outbox: "Store") -> bool:
    """Send a base where the coordinator does not hold it; whether anything was sent."""
    from weft.protocol.fetch import Holder, fetch_manifest
    from weft.protocol.upload import put_artifact

    who = session.operator
    try:
        await fetch_manifest(digest, [Holder(who.name, who.coordinator)], session.pool)
    except NotFound:
        channel = session.pool.to(who.coordinator, who.name, bulk=True)
        total = outbox.manifest(digest).total_bytes
        note(f"uploading the base, {size(total)}")
        await put_artifact(outbox, digest, channel)
        return True
    return False


def _created(made: dict[str, Json]) -> str:
    base = made["base"]
    start = f"base {str(base)[:12]}" if base else "no base: nodes start apart"
    if made["align"] != "none":
        start += f", aligned by {made['align']}"
    elif not base:
        start += ", and merge.align = 'none' merges them as they are"
    sent = " (uploaded)" if made["uploaded"] else ""
    return f"run {made['run']} is made, {start}{sent}; weft status {made['run']} shows it"


@app.command("list", epilog="Example: weft run list --json")
def list_runs(
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """All runs of the coordinator."""
    runs = asked(summaries, operator(coordinator, credentials))
    emit({"runs": runs}, as_json, lambda _: runs_table(runs))


def runs_table(runs: "Sequence[dict[str, Json]]") -> "RenderableType | str":
    """All runs, a line each."""
    from datetime import datetime

    from rich.table import Table

    if not runs:
        return "no runs yet; weft run create FILE makes one"
    table = Table()
    for name in ("run", "state", "round", "members", "created"):
        table.add_column(name)
    for run in runs:
        created = datetime.fromtimestamp(float(str(run["created_at"]))).astimezone()
        table.add_row(
            str(run["run"]),
            str(run["state"]),
            f"{run['round']} of {run['rounds']}",
            str(run["members"]),
            f"{created:%Y-%m-%d %H:%M}",
        )
    return table


@app.command(epilog="Example: weft run show digits --json")
def show(
    run: Name,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """A run's specification, and its plan: members, epochs, sets of the global merge."""
    from weft.protocol.convert import plan_of
    from weft.protocol.run import RunSpec

    status = asked(lambda session: run_status(session, run), operator(coordinator, credentials))
    spec = RunSpec.from_bytes(status.spec)
    document: dict[str, Json] = {
        "run": spec.name,
        "digest": spec.digest,
        "spec": spec.model_dump(mode="json"),
        "plan": plan_document(plan_of(status.plan)),
    }
    emit(document, as_json, _shown)


def _shown(document: dict[str, Json]) -> "RenderableType":
    import json

    from rich.syntax import Syntax

    return Syntax(json.dumps(document, indent=2), "json", background_color="default")


@app.command(epilog="Example: weft run plan run.toml --bandwidth 200Mbit")
def plan(
    target: Annotated[str, typer.Argument(metavar="FILE|RUN", help="A run's file, or its name.")],
    bandwidth: Annotated[
        str | None, typer.Option(help="Of a node's link, each way: 200Mbit, 1Gbit, 25MB.")
    ] = None,
    model_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of a model, instead of looking at the base."),
    ] = None,
    base: BaseOption = None,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Dry run: what each round and the global merge will move. Nothing is made or sent."""
    from weft.cli import run_forecast

    rate = None if bandwidth is None else run_forecast.bandwidth(bandwidth)
    given = None if model_bytes is None else run_forecast.byte_count(model_bytes)
    if Path(target).is_file():
        spec, found = _measured_file(Path(target), base, given)
    else:
        spec, found = _measured_run(target, given, coordinator, credentials)
    made = run_forecast.forecast(spec, found, rate)
    emit(run_forecast.document(made), as_json, lambda _: run_forecast.table(made))


def _measured_file(file: Path, base: str | None, given: int | None) -> "tuple[RunSpec, int]":
    """The run of a file, and the bytes of its model."""
    from weft.checkpoints.reader import open_checkpoint
    from weft.cli.run_file import load_run_file, prepared, without_base

    asking: RunFile = load_run_file(file, base)
    if given is not None:
        return without_base(asking), given
    with prepared(asking, file.resolve().parent) as (spec, reader):
        if reader is not None:
            return spec, reader.schema.size_bytes
        with open_checkpoint(Path(str(asking.base.schema_path))) as other:
            return spec, other.schema.size_bytes


def _measured_run(
    run: str, given: int | None, coordinator: str | None, credentials: Path | None
) -> "tuple[RunSpec, int]":
    """A run that exists, and the bytes of its base."""
    from weft.errors import InvalidInput
    from weft.protocol.fetch import Holder, fetch_manifest
    from weft.protocol.run import RunSpec

    async def measure(session: Session) -> "tuple[RunSpec, int]":
        status = await run_status(session, run)
        spec, who = RunSpec.from_bytes(status.spec), session.operator
        if given is not None:
            return spec, given
        if spec.base is None:
            raise InvalidInput(f"run {run} has no base to measure; give --model-bytes SIZE")
        holder = Holder(who.name, who.coordinator)
        manifest = await fetch_manifest(spec.base, [holder], session.pool)
        return spec, manifest.schema.size_bytes

    return asked(measure, operator(coordinator, credentials))


@app.command(epilog="Example: weft run pause digits")
def pause(
    run: Name,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let nodes end the round that they are in, and wait."""
    _set_state(run, "paused", coordinator, credentials, as_json)


@app.command(epilog="Example: weft run resume digits")
def resume(
    run: Name,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Go on with a run that is paused."""
    _set_state(run, "running", coordinator, credentials, as_json)


@app.command(epilog="Example: weft run stop digits")
def stop(
    run: Name,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """End a run for good; what nodes have so far stays with them."""
    _set_state(run, "stopped", coordinator, credentials, as_json)


def _set_state(
    run: str, state: str, coordinator: str | None, credentials: Path | None, as_json: bool
) -> None:
    from weft.protocol.convert import plan_of
    from weft.protocol.v1.coordinator_pb2 import SetRunStateRequest

    async def ask(session: Session) -> dict[str, Json]:
        request = SetRunStateRequest(run=run, state=state)
        reply = await session.call(session.stub.SetRunState, request)
        found = plan_of(reply.plan)
        return {"run": run, "state": found.state.value, "version": found.version}

    document = asked(ask, operator(coordinator, credentials))
    emit(document, as_json, lambda found: f"run {found['run']} is {found['state']}")
