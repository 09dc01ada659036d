"""What the nodes of a cell start from, and which engines can bring different starts together."""

from weft.node.trainer import Trainer
from weft.simulations.engines.fleet import Fleet
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell
from weft.simulations.learning.aligned import NONE, Dimat
from weft.simulations.learning.rule import Rule
from weft.simulations.references import initial_model, initial_model_of

ALIGNING = ("local", "stacked")
"""Engines that hold all rows in one process's reach."""


def fleet_of(cell: Cell, first: Trainer) -> Fleet:
    """What all nodes start from: one model, or each one of its own.

    Args:
        cell: says which.
        first: some node's trainer, whose model is drawn.
    """
    seed, task = cell.settings.experiment.seed, cell.settings.task
    nodes = range(task.nodes)
    if task.starts == "apart":
        return Fleet.of((initial_model_of(first, seed, node) for node in nodes), nodes)
    return Fleet.alike(initial_model(first, seed), nodes)


def check_engine(cell: Cell, rule: Rule) -> None:
    """Refuse an engine that cannot do what the nodes' starts or the rule ask for.

    Raises:
        BadExperiment: says which.
    """
    name = cell.settings.experiment.engine
    if name in ALIGNING:
        return
    if isinstance(rule, Dimat) and rule.align != NONE:
        raise BadExperiment(
            f"learning.rule: found dimat with the engine {name}, which does not match units; "
            f"expected {' | '.join(ALIGNING)}"
        )
    if cell.settings.task.starts == "apart":
        raise BadExperiment(
            f"task.starts: found apart with the engine {name}; expected {' | '.join(ALIGNING)}"
        )
