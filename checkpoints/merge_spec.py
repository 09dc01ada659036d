"""What a merge does with the parameters: the method, the steps around it, how exactly.

contributions -> before -> method (-> to the mean norm) -> after -> + base
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.survey import passes
from weft.checkpoints.task_vectors import PIECE_ELEMENTS, widest
from weft.merging.method import Calibration, Fold, Method, Scope, Sequential, Transform
from weft.merging.precision import Precision

After = Transform | Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Tailored:
    """A method and the weights as they are for one tensor."""

    method: Method
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """A transform whose hyperparameters vary from tensor to tensor.

    Attributes:
        usual: says what it needs, and asks for all that any of them asks for; of the same
            class as all that `at` gives.
        at: the transform for a tensor, by its name.
    """

    usual: Transform
    at: Callable[[str], Transform]


Stage = Transform | Varied | None
"""What one contribution goes through at one point before the merge; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSpec:
    """What is done with the parameters.

    Attributes:
        method: merges; any kind but a transform or a calibration.
        before: change each contribution's task vector, in this order.
        own: further ones for single contributions, by name; ahead of `before`.
        after: change the merged task vector, in this order.
        precision: of the sums.
        device: where it is computed: "cpu", "cuda" or "cuda:N". Bytes do not depend on the
            number of threads, but may on the device.
        tailor: method and weights by tensor, where they are not the same for all: the
            same method with other hyperparameters, weights in the contributions' order.
            `method` then asks for all that any of them asks for.
    """

    method: Method
    before: tuple[Transform | Varied, ...] = ()
    own: Mapping[str, tuple[Transform | Varied, ...]] = field(default_factory=dict)
    after: tuple[After, ...] = ()
    precision: Precision = Precision.EXACT
    device: str = "cpu"
    tailor: Callable[[str], Tailored] | None = None

    @property
    def steps(self) -> tuple[Method, ...]:
        """All of them; of those that vary the one that says what is needed."""
        transforms = [step.usual if isinstance(step, Varied) else step for step in self._transforms]
        return (*transforms, self.method, *self.after)

    def steps_at(self, name: str) -> tuple[Method, ...]:
        """All of them, as they are for a tensor."""
        transforms = [
            step.at(name) if isinstance(step, Varied) else step for step in self._transforms
        ]
        return (*transforms, self.at(name, ()).method, *self.after)

    @property
    def _transforms(self) -> tuple[Transform | Varied, ...]:
        return (*(step for steps in self.own.values() for step in steps), *self.before)

    @property
    def surveys(self) -> bool:
        """Whether facts are looked for before the first byte is written."""
        return any(passes([step]) for step in self.steps)

    @property
    def passes(self) -> int:
        """How often a contribution is read, all told: in each phase of a fold anew."""
        return self._readings(self.method.phases if isinstance(self.method, Fold) else 1)

    @property
    def passes_over_base(self) -> int:
        """How often the base is read, all told: once for all phases of a fold."""
        return self._readings(1)

    def _readings(self, each: int) -> int:
        """How often that is read which merging a piece, also for a survey, reads `each` times."""
        stages = self.stages(tuple(self.own) or ("any",))
        total = sum(passes([usual(step) for step in stage]) for stage in stages)
        total += passes([self.method]) + each * self.keeps_mean_norm
        for step in self.after:
            total += each * passes([step])
            each += isinstance(step, Calibration)
        return total + each

    @property
    def keeps_mean_norm(self) -> bool:
        """Whether the merged task vector is brought to the mean norm, which takes a pass."""
        return isinstance(self.method, Sequential) and self.method.keeps_mean_norm

    @property
    def passes_on(self) -> bool:
        """Whether a NaN or an infinity in an input always shows in the result."""
        return self.method.passes_on and len(self.steps) == 1

    @property
    def piece_elements(self) -> int:
        """Elements worked on at a time: what a cache holds, or what keeps a GPU busy."""
        return PIECE_ELEMENTS if self.device == "cpu" else 64 * PIECE_ELEMENTS

    def stages(self, names: Sequence[str]) -> list[tuple[Stage, ...]]:
        """What the contributions go through: one step each, stage by stage."""
        own = [self.own.get(name, ()) for name in names]
        depth = max((len(steps) for steps in own), default=0)
        padded = [(*steps, *[None] * (depth - len(steps))) for steps in own]
        mine: list[tuple[Stage, ...]] = list(zip(*padded, strict=True))
        return mine + [(step,) * len(names) for step in self.before]

    def scope(self, spec: TensorSpec) -> Scope:
        """How much of a tensor the steps must see at a time."""
        return widest([step.scope(spec.name, spec.shape) for step in self.steps_at(spec.name)])

    def at(self, name: str, weights: Sequence[float]) -> Tailored:
        """Method and weights for a tensor."""
        if self.tailor is None:
            return Tailored(method=self.method, weights=tuple(weights))
        return self.tailor(name)


def usual(step: Method | Varied | None) -> Method | None:
    """The step itself, or the one that says what a varied one needs."""
    return step.usual if isinstance(step, Varied) else step


def step_at(step: Method | Varied | None, name: str) -> Method | None:
    """The step as it is for a tensor."""
    return step.at(name) if isinstance(step, Varied) else step
