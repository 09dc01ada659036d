"""`weft status`: what the members of a run are doing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

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
from weft.cli.output import Json, JsonFlag, emit, plain, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weft.protocol.v1.coordinator_pb2 import RunStatus

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)

_METRICS_SHOWN = 3
_WORDS_SHOWN = 60


@app.command(epilog="Example: weft status digits")
def status(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run's name; without it, all runs.")
    ] = None,
    coordinator: CoordinatorOption = None,
    credentials: CredentialsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """What the members of a run are doing, as the coordinator last heard.

    Without a name: all runs; where there is only one, its members as well.
    """
    who = operator(coordinator, credentials)
    if run is not None:
        document = asked(lambda session: _document(session, run), who)
        emit(document, as_json, _table)
        return
    runs, only = asked(_all, who)
    emit({"runs": runs}, as_json, lambda _: _all_tables(runs, only))


async def _all(session: Session) -> "tuple[list[dict[str, Json]], dict[str, Any] | None]":
    runs = await summaries(session)
    only = await _document(session, str(runs[0]["run"])) if len(runs) == 1 else None
    return runs, only


async def _document(session: Session, run: str) -> dict[str, Any]:
    return document_of(await run_status(session, run))


def document_of(found: "RunStatus") -> dict[str, Any]:
    """A run's status as JSON: its specification, its plan, its members, and what is odd."""
    from weft.protocol.convert import plan_of, report_of
    from weft.protocol.run import RunSpec

    spec, plan = RunSpec.from_bytes(found.spec), plan_of(found.plan)
    members = [
        {
            "node": member.node,
            "address": member.address,
            "report": plain(report_of(member.report)),
            "silent_s": round(member.silent_s, 1),
            "lease_valid": member.lease_valid,
            "left": member.left,
        }
        for member in found.members
    ]
    document: dict[str, Any] = {
        "run": spec.name,
        "spec": spec.model_dump(mode="json"),
        "plan": plan_document(plan),
        "members": members,
    }
    said = [found.message] if found.message else []
    return {**document, "notes": [*said, *_notes(document)]}


def _notes(document: dict[str, Any]) -> Iterator[str]:
    """What a person should know, and no column says."""
    plan, members = document["plan"], document["members"]
    missing = document["spec"]["nodes"] - sum(not member["left"] for member in members)
    if plan["state"] == "waiting" and missing > 0:
        yield f"waits for {missing} more node(s) to join"
    ahead = [m["node"] for m in members if m["report"]["plan_version"] > plan["version"]]
    if ahead:
        yield (
            f"halted: {', '.join(ahead)} hold(s) a newer plan than the coordinator's "
            f"{plan['version']}; its database is older than the run: put the newer one back, or "
            "stop the run"
        )
    results = {m["report"]["result"] for m in members if m["report"]["result"] and not m["left"]}
    if document["spec"]["final"]["enabled"] and len(results) > 1:
        yield "the results of the global merge differ, they should be one digest"
    for chosen in plan["proposed"]:
        yield (
            f"the global merge of {chosen['phase']} waits for promises of "
            f"{', '.join(chosen['contributors'])}"
        )


def _all_tables(runs: list[dict[str, Json]], only: dict[str, Any] | None) -> "RenderableType | str":
    from rich.console import Group

    from weft.cli.run import runs_table

    return runs_table(runs) if only is None else Group(runs_table(runs), _table(only))


def _table(document: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    plan, spec = document["plan"], document["spec"]
    reached = max((member["report"]["round"] for member in document["members"]), default=0)
    table = Table(
        title=f"{document['run']}: {plan['state']}, round {reached} of {spec['rounds']}, "
        f"plan {plan['version']}",
        title_justify="left",
    )
    for name in ("node", "state", "round", "heard", "merges", "moved", "metrics", "message"):
        table.add_column(name)
    for member in document["members"]:
        table.add_row(*(escape(cell) for cell in _cells(member)), style=_style(member))
    notes = [f"[bold]![/bold] {escape(text)}" for text in document["notes"]]
    return Group(table, *notes)


def _cells(member: dict[str, Any]) -> tuple[str, ...]:
    report = member["report"]
    figures = [
        f"{name} {value:.4g}"
        for name, value in sorted(report["metrics"].items())
        if value is not None
    ]
    return (
        member["node"],
        _state(member),
        str(report["round"]),
        f"{member['silent_s']:.0f} s ago",
        f"{report['merges_adopted']}, {report['merges_rejected']} refused",
        f"{size(report['bytes_sent'])} out, {size(report['bytes_received'])} in",
        ", ".join(figures[:_METRICS_SHOWN]),
        report["message"][:_WORDS_SHOWN],
    )


def _state(member: dict[str, Any]) -> str:
    if member["left"]:
        return "left"
    if not member["lease_valid"]:
        return f"silent ({member['report']['state'] or 'not heard'})"
    return str(member["report"]["state"] or "not heard yet")


def _style(member: dict[str, Any]) -> str:
    if member["left"]:
        return "dim"
    return "" if member["lease_valid"] else "red"
