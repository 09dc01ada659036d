"""`weft certs`: a federation's authority, and the certificates of its members."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.output import JsonFlag, emit

app = typer.Typer(
    help="The federation's certificates: an authority, members, revocations.",
    epilog="Example: weft certs init ca --federation hospitals",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


class RoleName(StrEnum):
    """The roles of `weft.protocol.identity`, which would load gRPC for `--help`."""

    NODE = "node"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"


AuthorityDir = Annotated[
    Path, typer.Argument(metavar="DIR", help="The authority's folder; its key stays there.")
]
MemberName = Annotated[
    str, typer.Argument(metavar="NAME", help="A member: lower-case letters, digits, hyphens.")
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How many days it holds.")]


@app.command(epilog="Example: weft certs init ca --federation hospitals")
def init(
    folder: AuthorityDir,
    federation: Annotated[
        str, typer.Option(help="The federation's name; every certificate carries it.")
    ],
    days: Days = 3650,
    as_json: JsonFlag = False,
) -> None:
    """Make the authority of a new federation."""
    from weft.protocol.authority import Authority

    made = Authority.init(folder, federation, days=days)
    document = {
        "folder": folder,
        "federation": made.federation,
        "expires_at": _day(made.certificate.not_valid_after_utc),
    }
    emit(document, as_json, _initialised)


@app.command(epilog="Example: weft certs issue ca node-a --role node")
def issue(
    folder: AuthorityDir,
    name: MemberName,
    role: Annotated[RoleName, typer.Option(help="What the member may do.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the member's files here, not to DIR/issued/NAME.")
    ] = None,
    days: Days = 365,
    renew: Annotated[
        bool, typer.Option("--renew", help="The member has a certificate; make another.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and a certificate for a member.

    The folder that is written goes to the member's machine; its configuration
    names it as `credentials`.
    """
    from weft.protocol.authority import Authority
    from weft.protocol.identity import Role

    issued = Authority.open(folder).issue(name, Role(role), out=out, days=days, renew=renew)
    document = {
        "name": issued.identity.name,
        "role": issued.identity.role,
        "uri": issued.identity.uri,
        "serial": issued.identity.serial,
        "folder": issued.folder,
        "expires_at": _day(issued.expires_at),
    }
    emit(document, as_json, _issued)


@app.command(epilog="Example: weft certs revoke ca node-a")
def revoke(folder: AuthorityDir, name: MemberName, as_json: JsonFlag = False) -> None:
    """Revoke every certificate of a member.

    A coordinator whose configuration names DIR/revoked.json as `revoked` refuses
    the member from then on and tells the nodes; elsewhere, copy the file there.
    """
    from weft.protocol.authority import Authority

    serials = Authority.open(folder).revoke(name)
    document = {"name": name, "serials": sorted(serials), "file": folder / "revoked.json"}
    emit(document, as_json, _revoked)


@app.command("list", epilog="Example: weft certs list ca")
def list_(folder: AuthorityDir, as_json: JsonFlag = False) -> None:
    """List what was issued, oldest first, and what of it is revoked."""
    from weft.protocol.authority import Authority, read_revoked

    revoked = read_revoked(folder / "revoked.json")
    document = [
        {
            "name": entry.name,
            "role": entry.role,
            "serial": entry.serial,
            "issued_at": _day(entry.at),
            "revoked": entry.serial in revoked,
        }
        for entry in Authority.open(folder).register()
    ]
    emit(document, as_json, _listed)


def _day(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _initialised(made: dict[str, Any]) -> str:
    return (
        f"authority of {made['federation']} in {made['folder']}, until {made['expires_at'][:10]}\n"
        f"keep {made['folder']}/ca.key here; next: "
        f"weft certs issue {made['folder']} coordinator --role coordinator"
    )


def _issued(made: dict[str, Any]) -> str:
    return (
        f"{made['uri']}, until {made['expires_at'][:10]}\n"
        f"copy {made['folder']} to that member's machine and keep node.key secret"
    )


def _revoked(done: dict[str, Any]) -> str:
    count = len(done["serials"])
    what = "1 certificate" if count == 1 else f"{count} certificates"
    return f"revoked {what} of {done['name']}; coordinators read {done['file']}"


def _listed(entries: list[dict[str, Any]]) -> str:
    if not entries:
        return "nothing was issued yet"
    width = max(len(entry["name"]) for entry in entries)
    return "\n".join(
        f"{entry['name']:{width}}  {entry['role']:11}  {entry['issued_at'][:10]}  "
        f"{'revoked' if entry['revoked'] else 'holds  '}  {entry['serial']}"
        for entry in entries
    )
