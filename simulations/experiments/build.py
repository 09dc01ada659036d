"""A study of a cell: the one place where settings become engines, rules and schedules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from weft.node.trainer import data_size_of
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.engines.crew import Crew, Looped, judge
from weft.simulations.engines.daemons import Daemons
from weft.simulations.engines.distributed import over_ranks
from weft.simulations.engines.exchange import Here
from weft.simulations.engines.failures import Failures, Partition
from weft.simulations.engines.fleet import parameters_of
from weft.simulations.engines.gossip import GossipStudy, drawn_values
from weft.simulations.engines.local import SharedTrainers, stack_of
from weft.simulations.engines.stacked import Stacked
from weft.simulations.engines.stacked_linear import StackedLinear, stackable
from weft.simulations.engines.workers import Workers
from weft.simulations.errors import BadExperiment
from weft.simulations.experiments.cells import Cell
from weft.simulations.experiments.host import ALONE, Host
from weft.simulations.experiments.settings import EngineName
from weft.simulations.experiments.starts import check_engine, fleet_of
from weft.simulations.experiments.trainers import (
    OwnTrainers,
    task_options,
    trainer,
    trainer_source,
    trainers,
)
from weft.simulations.learning.push_sum import WEIGHT_BYTES
from weft.simulations.learning.registry import rule
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import FLOAT32
from weft.simulations.references import initial_model
from weft.simulations.study import Moment, Study
from weft.topology import weights
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule


class Studied(Protocol):
    """Gives a moment after each round."""

    def moments(self, evaluated: Callable[[int], bool]) -> Iterator[Moment]:
        """Run all rounds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A study that is ready to run.

    Attributes:
        study: gives the moments.
        parameters: of one model.
        close: gives back what the engine holds.
    """

    study: Studied
    parameters: int
    close: Callable[[], None]


ON_DEVICES = ("stacked", "distributed")

SMALL = 2e10
"""Examples times parameters, seconds of one core: beyond it the engine `local` starts workers."""

MIXES = ("gossip", "push_sum")
"""Rules that are nothing but their schedule's mixing: those of the engine `gossip`."""

Engine = Callable[[Cell, Schedule, Rule, Host], Built]


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


def _local(cell: Cell, schedule: Schedule, rule: Rule, host: Host) -> Built:
    """One worker a core; a small study in this process, with the same bits."""
    del host
    seed, task = cell.settings.experiment.seed, cell.settings.task
    made_by = trainer_source(cell)
    first = made_by(0)
    model = initial_model(first, seed)
    size = parameters_of(model).size
    stack = stack_of(task.nodes) if stackable(model, first) else 1
    fleet = fleet_of(cell, first)
    if is_small(cell, size):
        made = [made_by(node) for node in fleet.nodes]
        alone = (
            Looped(fleet, made, seed)
            if stack == 1
            else StackedLinear(fleet, made, seed, stack=stack)
        )
        return _built(cell, alone, schedule, rule)
    build_of = (
        OwnTrainers(cell)
        if task.trainer
        else SharedTrainers.of(task_options(cell), task_options(cell).dealt())
    )
    workers = cell.settings.experiment.workers
    crew = Workers(fleet, build_of, seed, workers=workers, stack=stack)
    return _built(cell, crew, schedule, rule)


def _stacked(cell: Cell, schedule: Schedule, rule: Rule, host: Host) -> Built:
    """All nodes at once, in this process."""
    del host
    made, seed = trainers(cell), cell.settings.experiment.seed
    fleet = fleet_of(cell, made[0]).to(cell.settings.experiment.device)
    return _built(cell, Stacked(fleet, made, seed), schedule, rule)


def _distributed(cell: Cell, schedule: Schedule, rule: Rule, host: Host) -> Built:
    """This rank's block of nodes."""
    if host.meeting is None:
        raise BadExperiment(
            "experiment.engine: distributed wants ranks; start it with torchrun "
            "--nproc-per-node N -m weft.cli simulate FILE"
        )
    seed = cell.settings.experiment.seed
    made = trainer_source(cell)
    study = over_ranks(
        host.meeting,
        made,
        model=initial_model(made(0), seed),
        rule=rule,
        schedule=schedule,
        seed=seed,
        resets=cell.settings.learning.optimizer == "reset",
    )
    size = study.crew.fleet.parameters.shape[1]
    return Built(study=study, parameters=size, close=study.crew.close)


def _gossip(cell: Cell, schedule: Schedule, rule: Rule, host: Host) -> Built:
    """Vectors and no training; the rule is the mixing itself."""
    del rule, host
    gossip, seed = cell.settings.gossip, cell.settings.experiment.seed
    weight = WEIGHT_BYTES if schedule.push_sum else 0.0
    study = GossipStudy(
        schedule=schedule,
        values=drawn_values(schedule.nodes, gossip.vector, seed),
        message_bytes=FLOAT32 * gossip.model_size + weight,
        failures=_failures(cell),
    )
    return Built(study=study, parameters=gossip.model_size, close=lambda: None)


def _daemons(cell: Cell, schedule: Schedule, rule: Rule, host: Host) -> Built:
    """Real node daemons and a coordinator, on loopback."""
    del rule
    if host.recall is None:
        raise BadExperiment(
            "experiment.engine: daemons keep journals that only the command `weft simulate` reads"
        )
    folder = TemporaryDirectory(prefix="weft-simulate-")
    settings = DemoSettings(
        nodes=schedule.nodes,
        topology=schedule.params.graph,
        topology_options=schedule.params.graph_options,
        weights=schedule.params.weights,
        schedule=schedule.params.schedule,
        schedule_options=schedule.params.schedule_options,
        rounds=schedule.rounds,
        task=task_options(cell),
    )
    study = Daemons(settings, DemoFolder(path=Path(folder.name) / "run"), host.recall)
    return Built(study=study, parameters=model_size(cell), close=folder.cleanup)


def _failures(cell: Cell) -> Failures:
    gossip = cell.settings.gossip
    return Failures(
        loss=gossip.loss,
        one_sided=gossip.one_sided,
        churn=gossip.churn,
        absence=gossip.absence,
        partitions=tuple(
            Partition(start=cut.start, stop=cut.stop, parts=cut.parts) for cut in gossip.partitions
        ),
        seed=cell.settings.experiment.seed,
    )


ENGINES: dict[EngineName, Engine] = {
    "local": _local,
    "stacked": _stacked,
    "distributed": _distributed,
    "daemons": _daemons,
    "gossip": _gossip,
}


def is_small(cell: Cell, size: int) -> bool:
    """Whether a study is over before workers would have started."""
    task = cell.settings.task
    steps = task.nodes * cell.settings.experiment.rounds * task.steps
    return task.trainer is None and steps * task.batch * size <= SMALL


def _built(cell: Cell, crew: Crew, schedule: Schedule, rule: Rule) -> Built:
    """All rows are in this process's memory."""
    resets = cell.settings.learning.optimizer == "reset"
    study = Study(crew=crew, exchange=Here(), rule=rule, schedule=schedule, resets=resets)
    return Built(study=study, parameters=crew.fleet.parameters.shape[1], close=crew.close)


def _sizes(cell: Cell) -> list[float]:
    sizes = [data_size_of(made) for made in trainers(cell)]
    if None in sizes:
        raise BadExperiment(
            f"topology.weights: {cell.settings.topology.weights} weighs nodes by their data, and"
            " the trainer has no data_size"
        )
    return [float(size or 0) for size in sizes]
