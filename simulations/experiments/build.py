"""A study of a cell: the one place where settings become engines, rules and schedules."""

from weft.node.trainer import data_size_of
from weft.simulations.engines.crew import judge
from weft.simulations.engines.fleet import parameters_of
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.engines import ENGINES, Built, Engine
from weft.simulations.experiments.host import ALONE, Host
from weft.simulations.experiments.starts import check_engine
from weft.simulations.experiments.trainers import trainer, trainers
from weft.simulations.learning.registry import rule
from weft.simulations.learning.rule import Rule
from weft.simulations.references import initial_model
from weft.topology import weights
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule

ON_DEVICES = ("stacked", "distributed")

MIXES = ("gossip", "push_sum")
"""Rules that are nothing but their schedule's mixing: those of the engine `gossip`."""


def build(cell: Cell, host: Host = ALONE) -> Built:
    """The study of a cell, with the engine that it names.

    Args:
        cell: which.
        host: who runs it.

    Raises:
        InvalidInput: settings that cannot be.
        BadExperiment: an engine that is not there.
    """
    return engine_of(cell)(cell, schedule_of(cell), rule_of(cell), host)


def engine_of(cell: Cell) -> Engine:
    """What makes the study.

    Raises:
        BadExperiment: an engine that is not there, or does not know the device.
    """
    name, device = cell.settings.experiment.engine, cell.settings.experiment.device
    if name not in ENGINES:
        raise BadExperiment(
            f"experiment.engine: found {name!r}, which is not here; expected {' | '.join(ENGINES)}"
        )
    if device != "cpu" and name not in ON_DEVICES:
        raise BadExperiment(
            f"experiment.device: found {device!r} with the engine {name}, expected cpu; "
            f"{' and '.join(ON_DEVICES)} take others"
        )
    check_engine(cell, rule_of(cell))
    rule = cell.settings.learning.rule
    if name == "gossip" and rule not in MIXES:
        raise BadExperiment(
            f"learning.rule: found {rule!r} with the engine gossip, which trains nothing; "
            f"expected {' | '.join(MIXES)}"
        )
    if name == "daemons" and (rule != "gossip" or cell.settings.task.trainer is not None):
        raise BadExperiment(
            f"experiment.engine: daemons, with the rule {rule!r}; expected the rule gossip and one "
            "of the built-in tasks: `weft demo` and `weft run` start daemons for all else"
        )
    return ENGINES[name]


def schedule_of(cell: Cell) -> Schedule:
    """Who mixes with whom, round by round.

    Raises:
        InvalidInput: a graph, weights, a schedule or options that cannot be.
    """
    settings = cell.settings
    nodes = settings.task.nodes
    params = ScheduleParams(
        graph=settings.topology.graph,
        graph_options=tuple(sorted(settings.topology.options.items())),
        weights=settings.topology.weights,
        schedule=settings.schedule.name,
        schedule_options=tuple(sorted(settings.schedule.options.items())),
    )
    return build_schedule(
        params,
        nodes=nodes,
        rounds=settings.experiment.rounds,
        seed=settings.experiment.seed,
        data_sizes=_sizes(cell) if weights.rule(params.weights).needs_sizes else None,
    )


def rule_of(cell: Cell) -> Rule:
    """What is made of trained models, new for each run.

    Raises:
        InvalidInput: a rule or options that cannot be.
    """
    learning = cell.settings.learning
    return rule(learning.rule, learning.options)


def model_size(cell: Cell) -> int:
    """Parameters of a cell's model; builds the trainer of one node, and asks whether it judges.

    Raises:
        InvalidInput: data, split, model or trainer that cannot be used.
    """
    if cell.settings.experiment.engine == "gossip":
        return cell.settings.gossip.model_size
    first = trainer(cell, 0)
    judge(first)
    return parameters_of(initial_model(first, cell.settings.experiment.seed)).size


def _sizes(cell: Cell) -> list[float]:
    sizes = [data_size_of(made) for made in trainers(cell)]
    if None in sizes:
        raise BadExperiment(
            f"topology.weights: {cell.settings.topology.weights} weighs nodes by their data, and"
            " the trainer has no data_size"
        )
    return [float(size or 0) for size in sizes]
