"""`weft topology`: a graph and a schedule in figures, before any run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.byte_sizes import byte_size
from weft.cli.output import JsonFlag, emit, note, size
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from weft.topology.options import Scalar
    from weft.topology.schedules import Schedule

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is printed; the fields are those of the JSON document.

    `spectral_gap` is 1 - max(|lambda_2|, |lambda_n|) over the period, see
    `weft.topology.spectrum.gap_over_period`; `degrees` has one entry a node, the most
    neighbours that it takes from in a round.
    """

    name: str
    nodes: int
    weights: str
    schedule: str
    seed: int
    period: int | None
    directed: bool
    push_sum: bool
    spectral_gap: float
    degrees: Sequence[int]
    rounds_to_agreement: int | None
    tolerance: float
    messages_per_round: float
    model_bytes: int
    bytes_per_round: float


Name = Annotated[
    str,
    typer.Argument(
        help="The graph: ring, torus, star, path, complete, hypercube, exponential, "
        "one_peer_exponential, base_k, random_regular, erdos_renyi, watts_strogatz, "
        "random_matching, epidemic, two_hub, or file."
    ),
]
Nodes = Annotated[
    int | None, typer.Option("--nodes", "-n", help="How many; a file knows by itself.")
]
Weights = Annotated[
    str,
    typer.Option(
        help="own (the graph's; else metropolis), metropolis, uniform, sinkhorn, max_degree, "
        "hastings or push_sum."
    ),
]
When = Annotated[str, typer.Option(help="every, window, late, sparse, adaptive or final_only.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        help="KEY=VALUE of the graph, else of the schedule, as often as needed; schedule.KEY "
        "where both have it.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="For what is drawn by chance.")]
Rounds = Annotated[int, typer.Option(min=1, help="Of the run, for windows and the like.")]
ModelBytes = Annotated[str, typer.Option(help="One model: 100MB, 1.5GiB, ...")]
DataSizes = Annotated[
    str | None, typer.Option(help="One number a node, by commas, for hastings weights.")
]
GraphFile = Annotated[
    Path | None,
    typer.Option(
        help="For the graph 'file': .graphml .gexf .gml .json .net .g6 .s6 .adjlist .edgelist"
    ),
]
Plot = Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")]


@app.command(epilog="Example: weft topology ring --nodes 64 --model-bytes 500MB")
def topology(
    name: Name,
    nodes: Nodes = None,
    weights: Weights = "own",
    schedule: When = "every",
    option: Options = None,
    seed: Seed = 0,
    rounds: Rounds = 100,
    model_bytes: ModelBytes = "100MB",
    data_sizes: DataSizes = None,
    file: GraphFile = None,
    plot: Plot = None,
    json: JsonFlag = False,
) -> None:
    """A graph in figures: spectral gap, degrees, rounds to agreement, bytes a round.

    What is not connected over its period, or does not keep the average, is refused.
    """
    from weft.cli.graph_files import read_graph
    from weft.cli.topology_plot import draw
    from weft.topology.schedules import ScheduleParams, build_schedule

    graph_options, schedule_options = _options(option or [], name, schedule)
    if name == "file":
        found, listed = read_graph(file)
        nodes, graph_options = found if nodes is None else nodes, {**graph_options, **listed}
    elif file is not None:
        raise InvalidInput(f"--file: found the graph '{name}', expected 'file'")
    if nodes is None or nodes < 1:
        raise InvalidInput(
            f"--nodes: found {'none' if nodes is None else nodes}, expected a number of at least 1"
        )
    params = ScheduleParams(
        graph=name,
        graph_options=tuple(sorted(graph_options.items())),
        weights=weights,
        schedule=schedule,
        schedule_options=tuple(sorted(schedule_options.items())),
    )
    built = build_schedule(
        params, nodes=nodes, rounds=rounds, seed=seed, data_sizes=_numbers(data_sizes)
    )
    built.check()
    figures = _figures(built, byte_size(model_bytes, "--model-bytes"))
    if built.silent and nodes > 1:
        note("weft: no round of this schedule moves a model: all rests on the final merge")
    if plot is not None:
        draw(built, plot, gap=figures.spectral_gap, rounds=figures.rounds_to_agreement)
    emit(figures, json, _text)


def _figures(schedule: "Schedule", model_bytes: int) -> Figures:
    from weft.topology.agreement import degrees, messages_per_round, rounds_to_agreement
    from weft.topology.spectrum import gap_over_period

    messages = messages_per_round(schedule)
    return Figures(
        name=schedule.params.graph,
        nodes=schedule.nodes,
        weights=schedule.params.weights,
        schedule=schedule.params.schedule,
        seed=schedule.seed,
        period=schedule.period,
        directed=schedule.directed,
        push_sum=schedule.push_sum,
        spectral_gap=gap_over_period(schedule),
        degrees=degrees(schedule),
        rounds_to_agreement=rounds_to_agreement(schedule, TOLERANCE),
        tolerance=TOLERANCE,
        messages_per_round=messages,
        model_bytes=model_bytes,
        bytes_per_round=messages * model_bytes,
    )


def _text(figures: Figures) -> str:
    least, most = min(figures.degrees), max(figures.degrees)
    over = "one round, on average" if figures.period is None else f"{figures.period} round(s)"
    rounds = figures.rounds_to_agreement
    lines = [
        ("spectral gap", _gap(figures.spectral_gap), f"1 - max(|λ2|, |λn|) over {over}"),
        ("degrees", f"{least}" if least == most else f"{least} to {most}", "in one round, at most"),
        (
            "rounds to agreement",
            "not reached" if rounds is None else f"{rounds}",
            f"consensus distance down to {figures.tolerance:g} of its start",
        ),
        ("messages a round", f"{figures.messages_per_round:,.10g}", "models that move"),
        (
            "bytes a round",
            size(figures.bytes_per_round),
            f"models of {size(figures.model_bytes)}, whole",
        ),
    ]
    title = f"{figures.name}, {figures.nodes} nodes, weights {figures.weights}"
    rows = [f"  {label:<21}{value:<14}{meaning}" for label, value, meaning in lines]
    return "\n".join([f"{title}, schedule {figures.schedule}", *rows])


def _gap(gap: float) -> str:
    if gap != gap:
        return "not known"
    return f"{gap:.4f}" if gap >= 1e-3 or gap == 0 else f"{gap:.3g}"


def _options(
    given: Sequence[str], graph: str, schedule: str
) -> "tuple[dict[str, Scalar], dict[str, Scalar]]":
    """The options by whose they are; the graph's where the schedule has one of that name too."""
    import dataclasses

    from weft.topology.errors import BadOption, unknown
    from weft.topology.families import family
    from weft.topology.params import DRIFT
    from weft.topology.timings import timing

    known = {
        "graph": {DRIFT, *(field.name for field in dataclasses.fields(family(graph)))},  # type: ignore[arg-type]
        "schedule": {field.name for field in dataclasses.fields(timing(schedule))},  # type: ignore[arg-type]
    }
    found: dict[str, dict[str, Scalar]] = {"graph": {}, "schedule": {}}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadOption(f"--option: found {text!r}, expected KEY=VALUE")
        owner, _, inner = key.partition(".")
        owners = [owner] if inner and owner in known else [o for o in known if key in known[o]]
        if not owners:
            raise BadOption(f"--option: {unknown('option', key, set().union(*known.values()))}")
        found[owners[0]][inner or key] = _scalar(value)
    return found["graph"], found["schedule"]


def _scalar(text: str) -> "Scalar":
    """As TOML would read it: true, 3, 0.5, else the text itself."""
    if text in {"true", "false"}:
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--data-sizes: found {text!r}, expected numbers by commas") from None
