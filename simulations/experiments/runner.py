"""Runs what is not there yet, one cell after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from weft.errors import InvalidInput
from weft.simulations.engines.blocks import Blocks
from weft.simulations.errors import BadExperiment, Diverged
from weft.simulations.experiments.build import build
from weft.simulations.experiments.cells import Cell, Experiment
from weft.simulations.experiments.host import ALONE, Host
from weft.simulations.experiments.records import Record, ResultsFolder
from weft.simulations.study import Moment

Watch = Callable[[Cell, Moment], None]
"""Told each round as it is over."""


def pending(experiment: Experiment, folder: ResultsFolder, host: Host = ALONE) -> list[Cell]:
    """The cells that are not in the folder yet, one for each id; over ranks a collective.

    Of several ranks the first one's folder counts: others need not see it.
    """
    cells = experiment.studies
    meeting = host.meeting
    if meeting is None:
        return [cell for cell in cells if folder.load(cell.id) is None]
    mine = [float(meeting.leads and folder.load(cell.id) is None) for cell in cells]
    return [cell for cell, is_missing in zip(cells, mine, strict=True) if meeting.first(is_missing)]


def run(
    cells: list[Cell],
    folder: ResultsFolder,
    watch: Watch = lambda cell, moment: None,
    host: Host = ALONE,
) -> None:
    """Run cells; each is kept whole when it is done, so a kill costs the one under way.

    Of several ranks the first one keeps them.

    Raises:
        BadExperiment: a device or ranks that are not here, before the first cell.
        Diverged: training left something that is not finite, and the cell does not
            say that this is to be recorded; names the cell, the node and the round.
        WeftError: whatever else a study meets.
    """
    for cell in cells:
        _check_host(cell, host)
    for cell in cells:
        with _noted(cell):
            record = perform(cell, watch, host)
        if host.leads:
            folder.save(record)


def perform(cell: Cell, watch: Watch = lambda cell, moment: None, host: Host = ALONE) -> Record:
    """Run one cell.

    Raises:
        Diverged, WeftError: as `run`.
    """
    settings = cell.settings.experiment
    moments: list[Moment] = []
    diverged = None
    with torch_threads(settings.threads if settings.engine == "stacked" else 1):
        built = build(cell, host)
        try:
            for moment in built.study.moments(evaluation(settings.rounds, settings.evaluate_every)):
                moments.append(moment)
                watch(cell, moment)
        except Diverged as error:
            if settings.diverged == "stop":
                raise Diverged(f"{cell.title}: {error}") from error
            diverged = str(error)
        finally:
            built.close()
    return Record(
        cell=cell.id,
        settings=cell.settings.plain(),
        parameters=built.parameters,
        moments=moments,
        diverged=diverged,
    )


def _check_host(cell: Cell, host: Host) -> None:
    """Refuse a cell that could be run elsewhere."""
    settings, meeting = cell.settings.experiment, host.meeting
    try:
        if meeting is not None:
            Blocks(nodes=cell.settings.task.nodes, ranks=meeting.size)
        elif settings.device == "cuda" and not torch.cuda.is_available():
            raise BadExperiment(
                "experiment.device: found 'cuda' and no CUDA device here, expected cpu"
            )
    except InvalidInput as error:
        raise BadExperiment(f"{cell.title}: {error}") from error


@contextmanager
def _noted(cell: Cell) -> Iterator[None]:
    """Let an error say which cell it ended, where it does not itself: a note at its end."""
    try:
        yield
    except Diverged:
        raise
    except Exception as error:
        error.add_note(f"in {cell.title}")
        raise


def evaluation(rounds: int, every: int) -> Callable[[int], bool]:
    """Whether accuracies are measured after a round: each `every`-th, and the last.

    >>> [round for round in range(10) if evaluation(10, 4)(round)]
    [3, 7, 9]
    """

    def evaluated(round: int) -> bool:
        return round == rounds - 1 or (every > 0 and (round + 1) % every == 0)

    return evaluated


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch while the context lasts: another number gives other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
