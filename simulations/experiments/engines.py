"""The table of engines: what makes a ready study of a cell's settings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.engines.crew import Crew, Looped
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
from weft.simulations.experiments.host import Host
from weft.simulations.experiments.settings import EngineName
from weft.simulations.experiments.starts import fleet_of
from weft.simulations.experiments.trainers import (
    DealtTrainers,
    OwnTrainers,
    task_options,
    trainer,
    trainer_source,
    trainers,
)
from weft.simulations.learning.push_sum import WEIGHT_BYTES
from weft.simulations.learning.rule import Rule
from weft.simulations.learning.traffic import FLOAT32
from weft.simulations.references import initial_model
from weft.simulations.study import Moment, Study
from weft.topology.schedules import Schedule


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


SMALL = 2e10
"""Examples times parameters, seconds of one core: beyond it the engine `local` starts workers."""

Engine = Callable[[Cell, Schedule, Rule, Host], Built]


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
        SharedTrainers.of(made_by.options, made_by.task)
        if isinstance(made_by, DealtTrainers)
        else OwnTrainers(cell)
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
        # A model that is trained in place cannot live in rows on a device.
        crew=Looped if cell.settings.experiment.device == "cpu" else Stacked,
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
    size = parameters_of(initial_model(trainer(cell, 0), cell.settings.experiment.seed)).size
    study = Daemons(settings, DemoFolder(path=Path(folder.name) / "run"), host.recall)
    return Built(study=study, parameters=size, close=folder.cleanup)


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
