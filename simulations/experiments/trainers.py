"""The trainers of a cell: the built-in one on shares of one task, or the user's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial

from weft.errors import TrainingFailed, WeftError
from weft.node.trainer import Trainer, load_trainer
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.settings import Scalar
from weft.simulations.references import TaskOptions
from weft.simulations.tasks.dealt import DealtTask

PLACEHOLDERS = ("node", "nodes", "seed")


def task_options(cell: Cell) -> TaskOptions:
    """What all nodes share, for the built-in trainer."""
    task = cell.settings.task
    given = {
        field.name: getattr(task, field.name)
        for field in fields(TaskOptions)
        if field.name in type(task).model_fields
    }
    return TaskOptions(**given, seed=cell.settings.experiment.seed)


def trainers(cell: Cell) -> list[Trainer]:
    """One a node; examples are held once for all of them.

    Raises:
        InvalidInput: data, split, an option or a trainer that cannot be used.
    """
    made = trainer_source(cell)
    return [made(node) for node in range(cell.settings.task.nodes)]


def trainer_source(cell: Cell) -> Callable[[int], Trainer]:
    """Makes the trainer of a node; examples are held once for all that it makes.

    Raises:
        InvalidInput: as `trainers`.
    """
    if cell.settings.task.trainer is not None:
        return partial(own_trainer, cell)
    options = task_options(cell)
    return DealtTrainers(options, options.dealt())


@dataclass(frozen=True, slots=True)
class DealtTrainers:
    """Makes the built-in trainers on one task that was dealt out once."""

    options: TaskOptions
    task: DealtTask

    def __call__(self, node: int) -> Trainer:
        """The trainer of a node."""
        return self.options.trainer(node, self.task)


def trainer(cell: Cell, node: int) -> Trainer:
    """One node's trainer alone.

    Raises:
        InvalidInput: as `trainers`.
    """
    if cell.settings.task.trainer is not None:
        return own_trainer(cell, node)
    return task_options(cell).trainer(node)


def own_trainer(cell: Cell, node: int) -> Trainer:
    """A node's trainer of the user's, as a daemon would load it.

    Its options are those of the file, where `{node}`, `{nodes}` and `{seed}` stand for
    the node's number from 0, how many there are, and the seed: `node = "{node}"` gives
    a whole number, `path = "part-{node}.npz"` a text.

    Raises:
        BadExperiment: no option depends on the node, so that all would train alike.
        BadTrainer: the trainer cannot be loaded.
        TrainingFailed: its constructor failed; says how, and for which node.
    """
    task = cell.settings.task
    values = {"node": node, "nodes": task.nodes, "seed": cell.settings.experiment.seed}
    if task.nodes > 1 and not any("{node}" in str(value) for value in task.options.values()):
        raise BadExperiment(
            f"task.options: found none that depends on the node, so all {task.nodes} would train"
            ' alike; give one such as node = "{node}" or path = "part-{node}.npz"'
        )
    options = {key: _filled(value, values) for key, value in task.options.items()}
    try:
        return load_trainer(str(task.trainer), options, cell.folder)
    except WeftError:
        raise
    except Exception as error:
        raise TrainingFailed(
            f"trainer {task.trainer!r}, node {node}: its constructor failed: "
            f"{type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class OwnTrainers:
    """Makes the user's trainers in a worker; may be pickled."""

    cell: Cell

    def __call__(self, nodes: range) -> list[Trainer]:
        """Those of some nodes."""
        return [own_trainer(self.cell, node) for node in nodes]


def _filled(value: Scalar, values: Mapping[str, int]) -> Scalar:
    if not isinstance(value, str):
        return value
    for name in PLACEHOLDERS:
        if value == f"{{{name}}}":
            return values[name]
        value = value.replace(f"{{{name}}}", str(values[name]))
    return value
