"""The demo's report: one HTML file with everything in it, no script, no network."""

import html
import statistics
from collections.abc import Iterable, Sequence

from weft.simulations.demo import figures
from weft.simulations.demo.outcome import Outcome
from weft.simulations.demo.settings import DemoSettings

SHORT = 12

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa;
       margin: 0 auto; padding: 2rem 1rem; max-width: 64rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; } .faint { color: #616e7c; }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 8px;
          padding: 1rem 1.25rem; margin: 1rem 0; overflow-x: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > section { flex: 1 1 18rem; margin: 0; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #cbd2d9; font-weight: 600; } td.n, th.n { text-align: right; }
tr.sum td { border-top: 1px solid #cbd2d9; font-weight: 600; }
code { font: .88em ui-monospace, monospace; } details > summary { cursor: pointer; }
"""


def write_report(settings: DemoSettings, outcome: Outcome) -> str:
    """The page, as text."""
    names = [story.node for story in outcome.stories]
    body = [
        _heading(settings, outcome),
        _section("Accuracy", _accuracies(outcome)),
        _section("Accuracy over the rounds", figures.accuracy(outcome)),
        _section("Consensus distance", _ABOUT_DISTANCE + figures.distance(outcome)),
        '<div class="row">',
        _section("Topology", figures.topology(names, outcome.edge_bytes)),
        _section("Contributions by edge, KiB", figures.bytes_by_edge(names, outcome.edge_bytes)),
        "</div>",
        _section("Bytes on the wire", _wire(outcome)),
        _section("Ledger", _ledger(outcome)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>weft demo</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


_ABOUT_DISTANCE = (
    "<p>How far the nodes are from agreeing: the root of the mean squared distance of their "
    "models from the mean model. Training pulls them apart, merging draws them together.</p>"
)


def _heading(settings: DemoSettings, outcome: Outcome) -> str:
    task = settings.task
    skew = f"{task.split}({task.alpha:g})" if task.split == "dirichlet" else task.split
    verdict = (
        f"All ended with one model, <code>{outcome.stories[0].result[:SHORT]}</code>."
        if outcome.agreed
        else "The nodes did not end with one model."
    )
    return (
        f"<h1>{settings.nodes} nodes, one model, no data shared</h1>"
        f'<p class="faint">{_text(task.data)}, {_text(skew)} over the nodes, '
        f"{_text(settings.topology)}, {_text(settings.schedule)}, {settings.rounds} rounds of "
        f"{task.steps} steps, seed {task.seed}; {outcome.seconds:.1f} s.</p>"
        f"<p>Each node trained on its own share, took what its neighbours had learnt, and merged "
        f"it with its own after every round that the schedule names; at the end all merged "
        f"once. {verdict}</p>"
    )


def _accuracies(outcome: Outcome) -> str:
    rows = [
        [_text(story.node), f"{alone:.1%}", f"{merged:.1%}", f"{story.accuracy:.1%}"]
        for story, alone, merged in zip(
            outcome.stories, outcome.local_only, outcome.neighbour_merged, strict=True
        )
    ]
    total = [
        "mean",
        f"{statistics.fmean(outcome.local_only):.1%}",
        f"{statistics.fmean(outcome.neighbour_merged):.1%}",
        f"{statistics.fmean(outcome.global_merged):.1%}",
    ]
    heads = ["node", "trained alone", "after neighbour merges", "after the global merge"]
    return (
        _table(heads, rows, total=total)
        + f"<p>All data in one place, which these nodes cannot have: {outcome.together[-1]:.1%}. "
        f"The mean of the last round's contributions: {outcome.counterfactual[-1]:.1%}.</p>"
    )


def _wire(outcome: Outcome) -> str:
    rows = [
        [
            _text(story.node),
            f"{outcome.traffic.sent.get(story.node, 0) / 1024:,.0f}",
            f"{outcome.traffic.received.get(story.node, 0) / 1024:,.0f}",
        ]
        for story in outcome.stories
    ]
    return (
        "<p>Everything that a node sent and received, messages to the coordinator "
        "included, as it last reported.</p>" + _table(["node", "sent, KiB", "received, KiB"], rows)
    )


def _ledger(outcome: Outcome) -> str:
    rows = []
    for round in range(len(outcome.together)):
        for story in outcome.stories:
            done = story.rounds[round]
            merged = ", ".join(
                f"{_text(node)} {weight:.3f} <code>{done.parents.get(node, '')[:SHORT]}</code>"
                for node, weight in done.weights.items()
            )
            missed = ", ".join(f"{_text(n)}: {_text(why)}" for n, why in done.missed.items())
            rows.append(
                [
                    str(round + 1),
                    _text(story.node),
                    merged + (f"<br>missed {missed}" if missed else ""),
                    "" if done.loss is None else f"{done.loss:.3f}",
                    "" if done.accuracy is None else f"{done.accuracy:.1%}",
                ]
            )
    heads = ["round", "node", "merged, with weights", "loss", "accuracy after"]
    return (
        "<p>Who merged whom, with which weights; the code is the digest of the contribution."
        f"</p><details><summary>{len(rows)} merges</summary>"
        + _table(heads, rows, numbers_from=3)
        + "</details>"
    )


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{inside}</section>"


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] = (),
    numbers_from: int = 1,
) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>'
            if place >= numbers_from
            else f"<{tag}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    last = f'<tr class="sum">{line(total, "td")}</tr>' if total else ""
    return f"<table><tr>{line([_text(head) for head in heads], 'th')}</tr>{body}{last}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
