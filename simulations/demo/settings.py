"""What a demo is asked for, checked before anything starts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from weft.protocol.run import (
    Align,
    FinalSpec,
    MergeSpec,
    RunSpec,
    ScheduleSpec,
    TopologySpec,
)
from weft.simulations.errors import BadOption
from weft.simulations.references import TaskOptions
from weft.topology.options import Scalar
from weft.topology.schedules import Schedule, ScheduleParams, build_schedule
from weft.topology.weights import OWN

Options: TypeAlias = tuple[tuple[str, Scalar], ...]

RUN_NAME = "demo"
MOST_NODES = 64
TRAINER = "weft.simulations.tasks.classification:ClassificationTrainer"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """A demo: who, how they are joined, for how long, and what they learn.

    Attributes:
        apart: each node starts from a model of its own.
        align: how nodes bring their neighbours' units into the order of their own.

    Raises:
        InvalidInput: a number out of range, or a topology or schedule that does
            not exist or does not fit.
    """

    nodes: int = 4
    topology: str = "ring"
    topology_options: Options = ()
    weights: str = OWN
    schedule: str = "every"
    schedule_options: Options = ()
    rounds: int = 20
    apart: bool = False
    align: Align = "none"
    task: TaskOptions = field(default_factory=TaskOptions)

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MOST_NODES:
            raise BadOption(f"--nodes {self.nodes}: a demo has 1 to {MOST_NODES} nodes")
        if self.rounds < 1:
            raise BadOption(f"--rounds {self.rounds}: expected at least 1")
        if self.task.nodes != self.nodes:
            raise BadOption(f"the task is dealt out to {self.task.nodes}, the run has {self.nodes}")
        self.mixing_schedule().check()

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names, in the order in which the schedule counts them."""
        digits = len(str(self.nodes))
        return tuple(f"node-{number:0{digits}d}" for number in range(1, self.nodes + 1))

    def mixing_schedule(self) -> Schedule:
        """Who mixes with whom, round by round."""
        params = ScheduleParams(
            graph=self.topology,
            graph_options=self.topology_options,
            weights=self.weights,
            schedule=self.schedule,
            schedule_options=self.schedule_options,
        )
        return build_schedule(params, nodes=self.nodes, rounds=self.rounds, seed=self.task.seed)

    def spec(self, start: str) -> RunSpec:
        """The run's specification, once the model that all start from has a digest.

        Where nodes start apart, that is the digest of the schema that their models share.
        Every contribution is kept to the end: the report looks at all of them.
        """
        return RunSpec(
            name=RUN_NAME,
            nodes=self.nodes,
            rounds=self.rounds,
            seed=self.task.seed,
            base=None if self.apart else start,
            schema_digest=start if self.apart else None,
            merge=MergeSpec(align=self.align, retain_rounds=self.rounds + 1),
            topology=TopologySpec(
                graph=self.topology, options=dict(self.topology_options), weights=self.weights
            ),
            schedule=ScheduleSpec(name=self.schedule, options=dict(self.schedule_options)),
            final=FinalSpec(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFolder:
    """Where a demo's files lie."""

    path: Path

    @property
    def marker(self) -> Path:
        """Says that the folder is a demo's, and may be made anew by the next one."""
        return self.path / ".weft-demo"

    @property
    def authority(self) -> Path:
        """The certificate authority; members' credentials lie beneath."""
        return self.path / "certificates"

    def credentials(self, name: str) -> Path:
        """A member's certificate and key."""
        return self.authority / "issued" / name

    def config(self, name: str) -> Path:
        """The configuration of a daemon."""
        return self.path / f"{name}.toml"

    def data(self, name: str) -> Path:
        """What a daemon keeps."""
        return self.path / "data" / name

    def log(self, name: str) -> Path:
        """What a daemon says."""
        return self.path / "logs" / f"{name}.log"

    @property
    def base(self) -> Path:
        """The model that all nodes start from, or are like where they start apart."""
        return self.path / "base.safetensors"

    @property
    def run_file(self) -> Path:
        """The run, as `weft run create` takes it."""
        return self.path / "run.toml"

    @property
    def outbox(self) -> Path:
        """The operator's store, from which the base is uploaded."""
        return self.path / "data" / "operator"

    @property
    def merged(self) -> Path:
        """The folder of the globally merged model."""
        return self.path / "merged"

    @property
    def merged_model(self) -> Path:
        """The globally merged model."""
        return self.merged / "model.safetensors"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"
