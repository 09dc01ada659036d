"""`weft demo`: a coordinator and some nodes on this machine, real data, a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli import demo_starts
from weft.cli.output import JsonFlag, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from weft.cli.demo_screen import Screen
    from weft.simulations.demo.daemons import Fleet
    from weft.simulations.demo.outcome import Outcome, Story, Traffic
    from weft.simulations.demo.settings import DemoFolder, DemoSettings

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

DifferentStarts = Annotated[
    bool,
    typer.Option(
        "--different-starts",
        help="Nodes start apart and merge at the end: once as they are, once aligned.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="How data is dealt out: dirichlet, iid, classes, quantity; by default dirichlet, "
        "with --different-starts iid."
    ),
]


@app.command(
    epilog="Example: weft demo\n\n"
    "Example: weft demo --different-starts\n\n"
    "Example: weft demo --nodes 6 --schedule sparse --data fashion_mnist.npz --limit 6000"
)
def demo(
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 4,
    different_starts: DifferentStarts = False,
    topology: Annotated[str, typer.Option(help="The graph that joins them.")] = "ring",
    schedule: Annotated[str, typer.Option(help="When they merge.")] = "every",
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = 20,
    steps: Annotated[int, typer.Option(help="Optimizer steps a round.")] = 20,
    split: Split = None,
    alpha: Annotated[float, typer.Option(help="Skew of the split: the smaller, the more.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Of split, base and batches.")] = 0,
    model: Annotated[str, typer.Option(help="mlp, or cnn (with BatchNorm).")] = "mlp",
    data: Annotated[
        Path | None,
        typer.Option(help="An .npz with x_train, y_train, x_test, y_test; else the digits."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Train on the first so many examples; 0: all.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("weft-demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep certificates, configurations and stores as well.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Some nodes learn together on this machine; a report with pictures.

    Starts a coordinator and the nodes as processes that talk over mutual TLS,
    each with its own share of the data. Then compares: each node alone, after
    merging with neighbours, after the global merge, and all data in one place.
    Accuracies are fractions of a test set that all share. Ctrl-C stops everything.
    """
    from weft.simulations.demo.settings import DemoFolder, DemoSettings
    from weft.simulations.references import TaskOptions

    task = TaskOptions(
        data="digits" if data is None else str(data.resolve()),
        nodes=nodes,
        split=split or ("iid" if different_starts else "dirichlet"),
        alpha=alpha,
        seed=seed,
        steps=steps,
        model=model,
        limit=limit,
    )
    settings = DemoSettings(
        nodes=nodes, topology=topology, schedule=schedule, rounds=rounds, task=task
    )
    folder = DemoFolder(path=out)
    if different_starts:
        endings = demo_starts.compare(settings, folder, keep=keep)
        emit(demo_starts.document(endings), as_json, lambda _: demo_starts.table(endings))
    else:
        _show(_perform(settings, folder), folder, keep=keep, as_json=as_json)


def _show(outcome: "Outcome", folder: "DemoFolder", *, keep: bool, as_json: bool) -> None:
    if not keep:
        _tidy(folder)
    document = outcome.document() | {"report": folder.report, "model": folder.merged_model}
    emit(document, as_json, lambda _: _summary(outcome, folder))


def _perform(settings: "DemoSettings", folder: "DemoFolder") -> "Outcome":
    """Run the demo and write its report and its model."""
    from weft.cli.demo_screen import screen
    from weft.simulations.demo.daemons import fleet
    from weft.simulations.demo.figures import require_matplotlib
    from weft.simulations.demo.report import write_report
    from weft.simulations.demo.stage import clear, keep_model

    require_matplotlib()
    clear(folder)
    with screen(settings) as shown, fleet() as daemons:
        stories, traffic, seconds = _run(settings, folder, daemons, shown)
        shown.say("comparing with nodes alone and with all data in one place")
        outcome = _examined(settings, folder, stories, traffic, seconds)
    keep_model(folder, settings.names[0])
    folder.report.write_text(write_report(settings, outcome), encoding="utf-8")
    return outcome


def _run(
    settings: "DemoSettings", folder: "DemoFolder", daemons: "Fleet", shown: "Screen"
) -> "tuple[list[Story], Traffic, float]":
    """The daemons' part: from certificates to stopped processes."""
    from weft.cli.demo_history import read_story
    from weft.simulations.demo.performance import perform
    from weft.simulations.errors import DaemonDied

    try:
        traffic, seconds = perform(settings, folder, daemons, say=shown.say, show=shown.show)
    except DaemonDied:
        _tell_last_words(daemons, shown)
        raise
    return [read_story(folder, name) for name in settings.names], traffic, seconds


def _tell_last_words(daemons: "Fleet", shown: "Screen") -> None:
    dead = daemons.died()
    if dead is not None:
        shown.say(f"the last lines of {dead.log}:")
        for line in dead.tail():
            shown.say(f"  {line}")


def _examined(
    settings: "DemoSettings",
    folder: "DemoFolder",
    stories: "list[Story]",
    traffic: "Traffic",
    seconds: float,
) -> "Outcome":
    import torch

    from weft.cli.demo_history import PublishedModels, base_digest
    from weft.simulations.demo.outcome import examine

    torch.set_num_threads(1)  # as the nodes do: the same bits

    published = PublishedModels(folder, settings.names, base_digest(folder))
    return examine(
        settings,
        stories,
        model_of=published.model,
        size_of=published.size,
        traffic=traffic,
        seconds=seconds,
    )


def _tidy(folder: "DemoFolder") -> None:
    from weft.simulations.demo.stage import tidy

    tidy(folder)


def _summary(outcome: "Outcome", folder: "DemoFolder") -> "RenderableType":
    """The table at the end."""
    from rich.console import Group
    from rich.table import Table

    from weft.cli.output import size

    table = Table(title="accuracy on the shared test set", title_justify="left")
    for column in ("", "mean", "lowest", "highest"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in (
        ("each node alone", outcome.local_only),
        ("after merging with neighbours", outcome.neighbour_merged),
        ("global merge", outcome.global_merged),
        ("all data in one place", [outcome.together[-1]]),
    ):
        mean = sum(values) / len(values)
        table.add_row(name, f"{mean:.1%}", f"{min(values):.1%}", f"{max(values):.1%}")
    return Group(
        table,
        f"mean of all contributions, had it been merged: {_over_time(outcome.counterfactual)}",
        f"{outcome.seconds:.1f} s, {size(sum(outcome.traffic.sent.values()))} sent",
        f"neighbour merges adopted: {_share(outcome.adopted_share)}",
        f"report: {folder.report}",
        f"model:  {folder.merged_model}",
    )


def _over_time(values: "Sequence[float]") -> str:
    """A handful of a curve's points, the last one among them."""
    count = len(values)
    rounds = sorted({max(1, round(count * part / 4)) for part in range(5)})
    return ", ".join(f"{values[at - 1]:.1%} after round {at}" for at in rounds)


def _share(share: float | None) -> str:
    return "none were due" if share is None else f"{100 * share:.1f} %"
