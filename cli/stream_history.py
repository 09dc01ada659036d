"""The history of a stream: as a document, as tables, as a picture."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from weft.node.continual.records import Contribution, Generation


class Known(Protocol):
    """What is known of a stream: of one in a folder, or of one that is served."""

    @property
    def contributions(self) -> "Sequence[Contribution]":
        """All, by their numbers."""
        ...

    @property
    def generations(self) -> "Sequence[Generation]":
        """All, by their numbers."""
        ...


def document(known: Known) -> dict[str, object]:
    """What is known of all contributions and generations."""
    return {"contributions": known.contributions, "generations": known.generations}


def table(known: Known) -> "Group":
    """The same for a person."""
    from rich.console import Group
    from rich.table import Table

    came = Table(title="contributions", title_justify="left", box=None)
    for column in ("number", "name", "status", "norm", "overlap", "came", "digest", "reason"):
        came.add_column(column)
    for each in known.contributions:
        lineage = f" ({each.lineage} {each.step})" if each.lineage else ""
        came.add_row(
            str(each.seq),
            _told(f"{each.name}{lineage}"),
            each.status.value,
            _number(each.norm),
            _number(each.overlap),
            _when(each.at),
            each.digest[:8],
            _told(each.reason),
        )
    made = Table(title="generations", title_justify="left", box=None)
    for column in ("number", "cause", "about", "contributions", "norm", "score", "at", "digest"):
        made.add_column(column)
    for generation in known.generations:
        made.add_row(
            str(generation.number),
            generation.cause.value,
            "" if generation.contribution is None else str(generation.contribution),
            str(len(generation.members)),
            _number(generation.norm),
            _number(generation.score),
            _when(generation.at),
            generation.head[:8],
        )
    return Group(came, made)


def drawn(known: Known, path: Path) -> None:
    """Norms, overlap with what was merged before, and score over the stream.

    Raises:
        InvalidInput: matplotlib is missing, or the file's kind is none that it draws.
    """
    from weft.errors import InvalidInput

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidInput("--plot needs matplotlib: pip install 'weft[plots]'") from None
    came = [each for each in known.contributions if each.norm is not None]
    made = known.generations
    scored = [each for each in made if each.score is not None]
    figure = Figure(figsize=(8, 8), layout="constrained")
    norms, overlaps, scores = figure.subplots(3, 1)
    norms.plot([c.seq for c in came], [c.norm for c in came], ".", label="task vectors")
    norms.plot([g.number for g in made], [g.norm for g in made], "-", label="merged")
    norms.set(ylabel="norm", xlabel="contribution, generation")
    norms.legend()
    met = [each for each in came if each.overlap is not None]
    overlaps.plot([c.seq for c in met], [c.overlap for c in met], ".")
    overlaps.set(ylabel="cosine to what was merged before", xlabel="contribution")
    scores.plot([g.number for g in scored], [g.score for g in scored], ".-")
    scores.set(ylabel="score of the gate" if scored else "no gate", xlabel="generation")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise InvalidInput(f"--plot {path}: {error}") from error


def _told(text: str) -> "Text":
    """What others named, as it is: no markup, and nothing that a terminal would obey."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""
