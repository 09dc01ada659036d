"""The demo's report."""

import statistics

from weft.simulations.demo import figures
from weft.simulations.demo.outcome import Outcome
from weft.simulations.demo.settings import DemoSettings
from weft.simulations.pages import page, section, table, text

SHORT = 12


def write_report(settings: DemoSettings, outcome: Outcome) -> str:
    """The page, as text."""
    names = [story.node for story in outcome.stories]
    body = [
        _heading(settings, outcome),
        section("Accuracy", _accuracies(outcome)),
        section("Accuracy over the rounds", figures.accuracy(outcome)),
        section("Consensus distance", _ABOUT_DISTANCE + figures.distance(outcome)),
        '<div class="row">',
        section("Topology", figures.topology(names, outcome.edge_bytes)),
        section("Contributions by edge, KiB", figures.bytes_by_edge(names, outcome.edge_bytes)),
        "</div>",
        section("Bytes on the wire", _wire(outcome)),
        section("Ledger", _ledger(outcome)),
    ]
    return page("weft demo", body)


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
        f'<p class="faint">{text(task.data)}, {text(skew)} over the nodes, '
        f"{text(settings.topology)}, {text(settings.schedule)}, {settings.rounds} rounds of "
        f"{task.steps} steps, seed {task.seed}; {outcome.seconds:.1f} s.</p>"
        f"<p>Each node trained on its own share, took what its neighbours had learnt, and merged "
        f"it with its own after every round that the schedule names; at the end all merged "
        f"once. {verdict}</p>"
    )


def _accuracies(outcome: Outcome) -> str:
    rows = [
        [text(story.node), f"{alone:.1%}", f"{merged:.1%}", f"{story.accuracy:.1%}"]
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
        table(heads, rows, total=total)
        + f"<p>All data in one place, which these nodes cannot have: {outcome.together[-1]:.1%}. "
        f"The mean of the last round's contributions: {outcome.counterfactual[-1]:.1%}.</p>"
    )


def _wire(outcome: Outcome) -> str:
    rows = [
        [
            text(story.node),
            f"{outcome.traffic.sent.get(story.node, 0) / 1024:,.0f}",
            f"{outcome.traffic.received.get(story.node, 0) / 1024:,.0f}",
        ]
        for story in outcome.stories
    ]
    return (
        "<p>Everything that a node sent and received, messages to the coordinator "
        "included, as it last reported.</p>" + table(["node", "sent, KiB", "received, KiB"], rows)
    )


def _ledger(outcome: Outcome) -> str:
    rows = []
    for round in range(len(outcome.together)):
        for story in outcome.stories:
            done = story.rounds[round]
            merged = ", ".join(
                f"{text(node)} {weight:.3f} <code>{done.parents.get(node, '')[:SHORT]}</code>"
                for node, weight in done.weights.items()
            )
            missed = ", ".join(f"{text(n)}: {text(why)}" for n, why in done.missed.items())
            rows.append(
                [
                    str(round + 1),
                    text(story.node),
                    merged + (f"<br>missed {missed}" if missed else ""),
                    "" if done.loss is None else f"{done.loss:.3f}",
                    "" if done.accuracy is None else f"{done.accuracy:.1%}",
                ]
            )
    heads = ["round", "node", "merged, with weights", "loss", "accuracy after"]
    return (
        "<p>Who merged whom, with which weights; the code is the digest of the contribution."
        f"</p><details><summary>{len(rows)} merges</summary>"
        + table(heads, rows, numbers_from=3)
        + "</details>"
    )
