"""`weft init`: a run of one's own, as files that work as they are."""

import re
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.output import JsonFlag, emit
from weft.errors import InvalidInput

COORDINATOR_PORT = 9300
NODE_PORT = 9501
METRICS_PORT = 9401
LETTERS = "abcdefghijklmnopqrstuvwxyz"

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog="Example: weft init my-run --nodes 3")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write to.")],
    nodes: Annotated[int, typer.Option(min=1, max=26, help="How many nodes.")] = 2,
    name: Annotated[
        str | None, typer.Option(help="The run's name; without it the folder's.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a run of your own: trainer, configurations, certificates.

    It runs as it is, on this machine and on scikit-learn's digits; the README
    in the folder says how. No file is ever overwritten.
    """
    from weft.protocol.convert import run_name_of

    run = run_name_of(name or _run_name(folder))
    files = contents(run, nodes)
    _require_new(folder, files)
    for path, text in files.items():
        folder.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(path).write_text(text, encoding="utf-8")
    _certify(folder / "certs", run, nodes)
    document = {"folder": folder, "run": run, "files": [*files, "certs"]}
    emit(
        document, as_json, lambda _: f"{folder}: run {run}, {nodes} nodes; next: {folder}/README.md"
    )


def contents(run: str, nodes: int) -> dict[str, str]:
    """What is written, by path; certificates not among it."""
    from weft.cli import init_templates as templates

    names = [_node_name(place) for place in range(nodes)]
    port = str(COORDINATOR_PORT)
    files = {
        "trainer.py": templates.TRAINER,
        "run.toml": templates.RUN.substitute(run=run, nodes=nodes),
        "coordinator.toml": templates.COORDINATOR.substitute(port=port),
        "weft.toml": templates.OPERATOR.substitute(port=port),
        "README.md": templates.README.substitute(
            run=run,
            nodes=nodes,
            first=names[0],
            others="\n".join(f"    weft node --config {each}.toml" for each in names[1:])
            or "    (there are none)",
        ),
        ".gitignore": templates.IGNORED,
    }
    for place, node in enumerate(names):
        files[f"{node}.toml"] = templates.NODE.substitute(
            name=node,
            run=run,
            nodes=nodes,
            place=place,
            coordinator_port=port,
            port=NODE_PORT + place,
            metrics_port=METRICS_PORT + place,
        )
    return files


def _require_new(folder: Path, files: dict[str, str]) -> None:
    """Complain about what is there already.

    Raises:
        InvalidInput: names the files; nothing was written.
    """
    there = [path for path in (*files, "certs") if (folder / path).exists()]
    if there:
        raise InvalidInput(
            f"{folder}: has {', '.join(there)} already, and nothing is overwritten; "
            "name a new folder"
        )


def _certify(folder: Path, run: str, nodes: int) -> None:
    from weft.protocol.authority import Authority
    from weft.protocol.identity import COORDINATOR_NAME, Role

    authority = Authority.init(folder, re.sub(r"[^a-z0-9-]+", "-", run).strip("-"))
    authority.issue(COORDINATOR_NAME, Role.COORDINATOR)
    authority.issue("operator", Role.OPERATOR)
    for place in range(nodes):
        authority.issue(_node_name(place), Role.NODE)


def _run_name(folder: Path) -> str:
    """A run's name from a folder's: lower case, letters, digits, dots and hyphens."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")
    return name[:63] or "run"


def _node_name(place: int) -> str:
    return f"node-{LETTERS[place]}"
