"""What one cell of an experiment is asked for: the sections of its file, checked.

A file holds lists where it sweeps; a cell holds one value of each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from weft.protocol.configuration import FOLDER
from weft.simulations.tasks.classification import DIGITS

Scalar: TypeAlias = bool | int | float | str
EngineName: TypeAlias = Literal["local", "stacked", "distributed", "daemons", "gossip"]

LARGEST_SEED = 2**63 - 1
"""What a TOML file, torch and numpy all take."""

MOST_THREADS = 1024
"""torch falls over some thousands without a word."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def _beside_the_file(value: object, info: ValidationInfo) -> object:
    folder = (info.context or {}).get(FOLDER)
    if not isinstance(value, str) or value == DIGITS or not isinstance(folder, Path):
        return value
    return str(folder / Path(value).expanduser())


DataName = Annotated[str, BeforeValidator(_beside_the_file)]
"""`digits`, or the path of a data file; a relative one counts from the experiment's file."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ExperimentSection(_Section):
    """What is run, and how it is watched.

    Attributes:
        name: of the experiment; its results' folder belongs to it.
        engine: where the nodes live and train.
        rounds: of training, each with an exchange where the schedule says so.
        seed: of the split, the models, the batches and the schedule; key `seeds`.
        evaluate_every: accuracies are measured after every so many rounds, and after
            the last one; 0: after the last one only.
        final_merge: all nodes merge once after the last round. It changes what is made
            of a cell, not what is run: cells that differ in it alone are run once.
        threads: of torch, with the engine `stacked`, whose last bits they change; with the
            others a process has one.
        workers: processes of the engine `local`, 0: one a core; they change nothing that
            comes out.
        device: where rows lie with the engines `stacked` and `distributed`.
        tune: a swept key, such as "task.lr", of which summary and pictures show the best
            value of each line alone; see `weft.simulations.experiments.tuning`.
        diverged: what a model that is not finite any more does: "stop" the experiment,
            or be a "record" of the cell, which ends there.
    """

    name: str = Field(pattern=NAME)
    engine: EngineName = "local"
    rounds: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, alias="seeds")
    evaluate_every: int = Field(default=1, ge=0)
    final_merge: bool = True
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    workers: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    tune: str | None = None
    diverged: Literal["stop", "record"] = "stop"


class TaskSection(_Section):
    """What the nodes learn: the options of the built-in trainer, or a trainer of the user's.

    Attributes:
        nodes: how many.
        data: "digits", or an .npz; see `weft.simulations.tasks.arrays`.
        split, alpha: how examples are dealt out; see `weft.simulations.tasks.splits`.
        steps, batch: of a round.
        optimizer, lr, decay, model, model_options, limit, test_limit: as of
            `weft.simulations.tasks.classification.ClassificationTrainer`.
        starts: all nodes from one model ("together"), or each from its own ("apart").
        trainer: `module:Class`, looked for beside the file, instead of all of these.
        options: of that trainer; see `weft.simulations.experiments.build.own_trainer`.
    """

    nodes: int = Field(default=8, ge=1)
    data: DataName = DIGITS
    split: str = "dirichlet"
    alpha: float = 0.3
    steps: int = 20
    batch: int = 32
    optimizer: str = "sgd"
    lr: float = 0.0
    decay: float = Field(default=0.93, ge=0)
    model: str = "mlp"
    model_options: dict[str, int] = Field(default_factory=dict)
    limit: int = Field(default=0, ge=0)
    test_limit: int = Field(default=0, ge=0)
    starts: Literal["together", "apart"] = "together"
    trainer: str | None = None
    options: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> "TaskSection":
        if self.options and self.trainer is None:
            raise ValueError("options are those of a trainer, and there is none")
        others = sorted(self.model_fields_set - {"nodes", "starts", "trainer", "options"})
        if self.trainer is not None and others:
            raise ValueError(f"a trainer knows its own {others[0]}: give it among its options")
        return self


class TopologySection(_Section):
    """Who could talk to whom, and with which weights; as of `weft topology`."""

    graph: str = "ring"
    options: dict[str, Scalar] = Field(default_factory=dict)
    weights: str = "own"


class ScheduleSection(_Section):
    """When they do."""

    name: str = "every"
    options: dict[str, Scalar] = Field(default_factory=dict)


class LearningSection(_Section):
    """What is made of trained models; see `weft.simulations.learning`.

    Attributes:
        optimizer: what a node's optimizer knows is kept over an exchange, or "reset" after
            every round in which the schedule mixes.
    """

    rule: str = "gossip"
    options: dict[str, Scalar] = Field(default_factory=dict)
    optimizer: Literal["keep", "reset"] = "keep"


class PartitionTable(_Section):
    """Rounds `start` to `stop - 1`, in which the nodes are in parts; see `engines.failures`."""

    start: int = Field(ge=0)
    stop: int = Field(ge=1)
    parts: int = Field(default=2, ge=2)

    @model_validator(mode="after")
    def _some_rounds(self) -> "PartitionTable":
        if self.start >= self.stop:
            raise ValueError("start must be below stop")
        return self


class GossipSection(_Section):
    """What nodes hold with the engine `gossip`, which trains nothing, and what goes wrong.

    Attributes:
        vector: numbers a node holds, independent ones of variance 1.
        model_size: parameters of the model that they stand for, for bytes alone.
        loss, one_sided, churn, absence, partitions: as of
            `weft.simulations.engines.failures.Failures`.
    """

    vector: int = Field(default=16, ge=1)
    model_size: int = Field(default=1_000_000, ge=1)
    loss: float = Field(default=0.0, ge=0, le=1)
    one_sided: bool = False
    churn: float = Field(default=0.0, ge=0, le=1)
    absence: int = Field(default=1, ge=1)
    partitions: list[PartitionTable] = Field(default_factory=list)


class TimeSection(BaseModel):
    """Machines and links, for a forecast of the wall-clock; nothing of it changes a study.

    All other keys are those of `weft.simulations.clock.written`: `up_mbit`, `latency_ms`,
    `slowness`, `stragglers` and so on.

    Attributes:
        step_seconds: of an optimizer step, on a node whose slowness is one.
        round_seconds: of a round's training instead; with a trainer of the user's, which
            alone knows its steps, it has to be given.
        model_bytes: of a model that may be larger than the one that is trained, as a number
            or as text such as "140 GB"; without it that of the study, in float32.
        policy, deadline_s: whether nodes wait; what is missed has no effect on the study.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    step_seconds: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    round_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    model_bytes: float | str | None = None
    policy: Literal["wait", "deadline"] = "wait"
    deadline_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)

    @property
    def machines_and_links(self) -> dict[str, Any]:
        """The other keys, as they were written."""
        return dict(self.model_extra or {})


class CellSettings(_Section):
    """All of a cell."""

    experiment: ExperimentSection
    task: TaskSection = Field(default_factory=TaskSection)
    topology: TopologySection = Field(default_factory=TopologySection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    learning: LearningSection = Field(default_factory=LearningSection)
    gossip: GossipSection = Field(default_factory=GossipSection)
    time: TimeSection | None = None

    def plain(self) -> dict[str, Any]:
        """As a document of plain values, with the keys of a file."""
        return self.model_dump(mode="json", by_alias=True)

    def value(self, key: str) -> Any:
        """What a dotted key of a file holds; None where it is an option that is not given."""
        found: Any = self.plain()
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found
