"""`weft methods`: every merge method, and one of them in full.

The list comes from the table of methods alone; what a method needs and takes is known
to its class, which is loaded for the one that is asked for.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.output import JsonFlag, emit

if TYPE_CHECKING:
    from rich.table import Table

    from weft.merging.method import Fold, Method
    from weft.merging.table import Entry

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

NEEDS = {
    "base": "a common base model, given with --base",
    "norm": "the norm of each task vector, measured beforehand",
    "sums": "sums over each tensor of each task vector, measured beforehand",
    "key": "a key of each contribution's content, for draws that anybody can repeat",
    "scale": "a factor for each tensor, found beforehand",
    "layer": "the place of each tensor in the model's depth, from the tensors' names",
}
CUTS = "the magnitude at some ranks of each task vector, measured beforehand"
ROLES = {
    "combination": "combination: a weighted sum; the coefficients come from the inner products of "
    "all task vectors, taken beforehand",
    "sequential": "sequential: takes one contribution after another; their order matters",
    "joint": "joint: sees all contributions of a block at once",
    "transform": "transform: changes one task vector at a time; for --before (each contribution) "
    "or --after (the merged model)",
    "calibration": "calibration: changes the merged model in view of all contributions; for "
    "--after",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method in the list; the fields are those of the JSON document."""

    name: str
    kind: str
    experimental: bool
    about: str
    paper: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameter:
    """What may be set; `range` is empty where every value of the type will do."""

    name: str
    type: str
    default: object
    range: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Details(Line):
    """One method in full.

    Attributes:
        role: what its kind means for whoever uses it.
        needs: what it must be given besides the models.
        documentation: formula, hyperparameters and source, as in the code.
        example: a command line.
    """

    role: str
    needs: Sequence[str]
    options: Sequence[Hyperparameter]
    documentation: str
    example: str


@app.command(epilog="Example: weft methods task_arithmetic")
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method in full; without it the list of all.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/methods.md: every method's source.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """What models can be merged with: the methods, their needs and hyperparameters.

    The methods that are marked experimental rest on a formula that is our own reading or
    proposal.
    """
    from weft.merging.registry import TABLE, entry

    if markdown:
        from weft.cli.methods_page import page

        emit(None, False, lambda _: page(TABLE))
        return
    if name is None:
        lines = [_line(line) for line in TABLE]
        emit({"methods": lines}, as_json, lambda _: _table(lines))
        return
    line = entry(name)
    emit(_details(line), as_json, _text)


def _line(line: "Entry") -> Line:
    return Line(
        name=line.name,
        kind=line.kind.value,
        experimental=line.experimental,
        about=line.about,
        paper=line.paper,
    )


def _table(lines: Sequence[Line]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("method", "kind", "what it does", "paper"):
        table.add_column(heading, no_wrap=heading in {"method", "kind"})
    for line in lines:
        # Text: a bracket in a description is a bracket, not markup.
        table.add_row(line.name, line.kind, Text(_about(line)), Text(line.paper))
    return table


def _about(line: Line) -> str:
    return f"{line.about} (experimental)" if line.experimental else line.about


def _details(line: "Entry") -> Details:
    kind = line.load()
    method = kind()
    return Details(
        name=line.name,
        kind=line.kind.value,
        experimental=line.experimental,
        about=line.about,
        paper=line.paper,
        role=_role(method, line.kind.value),
        needs=_needs(method),
        options=_options(kind),
        documentation=inspect.cleandoc(kind.__doc__ or ""),
        example=_example(method, line.name, line.kind.value),
    )


def _options(kind: "type[Method]") -> list[Hyperparameter]:
    from weft.merging.hyperparameters import options_of

    return [
        Hyperparameter(name=name, type=type_, default=default, range=said.range, about=said.about)
        for name, type_, default, said in options_of(kind)
    ]


def _needs(method: "Method") -> list[str]:
    needs = [NEEDS.get(need.value, need.value) for need in sorted(method.needs)]
    return [*needs, CUTS] if method.cuts else needs


def _role(method: "Method", kind: str) -> str:
    from weft.merging.method import Combination, Fold, Joint

    role = _fold_role(method) if isinstance(method, Fold) else ROLES[kind]
    if isinstance(method, Combination | Joint):
        role += f"; their order {'matters' if method.ordered else 'does not matter'}"
    return role if method.most is None else f"{role}; takes at most {method.most} contributions"


def _fold_role(method: "Fold") -> str:
    fields = [
        field
        for phase in range(method.phases)
        for field in method.fields("weight", (2, 2), phase).values()
    ]
    looks = f" in {method.phases} passes" if method.phases > 1 else ""
    removal = "can" if all(field.removable for field in fields) else "cannot"
    return (
        f"fold: merges in any order to the same bytes, streams{looks} in memory that does not "
        f"grow with the contributions; a contribution {removal} be taken out again"
    )


def _example(method: "Method", name: str, kind: str) -> str:
    if kind in {"transform", "calibration"}:
        where = "before" if kind == "transform" else "after"
        return f"weft merge --method mean --{where} {name} --base BASE A B -o OUT"
    base = " --base BASE" if "base" in method.needs else ""
    return f"weft merge --method {name}{base} A B -o OUT"


def _text(found: Details) -> str:
    options = [_option(option) for option in found.options] or ["  none"]
    needs = [f"  {need}" for need in found.needs] or ["  nothing but the models"]
    parts = [
        f"{found.name}: {_about(found)}",
        found.role,
        found.documentation,
        "\n".join(["Hyperparameters (--set NAME=VALUE):", *options]),
        "\n".join(["Needs:", *needs]),
        f"Paper: {found.paper}",
        f"Example: {found.example}",
    ]
    return "\n\n".join(parts)


def _option(option: Hyperparameter) -> str:
    """`  rate    float, default 0.1, a number above 0: share of a new contribution`."""
    allowed = f", {option.range}" if option.range else ""
    kind = f"{option.type}, default {option.default}{allowed}"
    return f"  {option.name:<16} {kind}: {option.about}"
