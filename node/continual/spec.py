"""What a stream merges and how: fixed when it is begun."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from weft.checkpoints.schema import Schema
from weft.merging import registry
from weft.merging.method import Method
from weft.merging.precision import Precision
from weft.merging.streaming import kept_bytes, require_streaming
from weft.node.continual.errors import BadStream

DEFAULT_METHOD: Final = "wudi"
DEFAULT_OPTIONS: Final[Mapping[str, object]] = {"filter": "ridge", "side": "smaller"}
"""What keeps most of many contributions for its state; see docs/streams.md."""

DEFAULT_NORM_FACTOR: Final = 10.0
DEFAULT_SHARD_BYTES: Final = 5 * 10**9


class Keep(StrEnum):
    """What is kept of contributions once they are absorbed."""

    NONE = "none"
    """Nothing: no contribution can be revoked or replaced."""

    LOSSLESS = "lossless"
    """The task vector, bit for bit."""

    COMPRESSED = "compressed"
    """The task vector in eight bits an element; what is absorbed is what is kept."""

    @property
    def codec(self) -> str:
        """In which full checkpoints are stored."""
        return "int8" if self is Keep.COMPRESSED else "lossless"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """What a stream is; see `weft stream init`.

    Attributes:
        method: name of a fold of one phase, or of a sequential method.
        options: its hyperparameters, where they are not the defaults.
        precision: of sums.
        scale: factor of the merged task vector; "auto": see `scales.py`.
        keep: what is kept of contributions.
        retain: how many generations can be gone back to at once, and stay readable.
        norm_factor: a task vector this many times longer than the median is set aside.
        gate: a command that scores a checkpoint; empty: none.
        gate_bound: by how much a contribution may lower the score.
        shard_bytes: the most bytes of tensors in one file of the head.
    """

    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    precision: Precision = Precision.EXACT
    scale: float | str = 1.0
    keep: Keep = Keep.LOSSLESS
    retain: int = 4
    norm_factor: float = DEFAULT_NORM_FACTOR
    gate: str = ""
    gate_bound: float = 0.0
    shard_bytes: int = DEFAULT_SHARD_BYTES

    def __post_init__(self) -> None:
        require_streaming(self.create())
        _require(self.scale == "auto" or isinstance(self.scale, float | int), "scale", self.scale)
        _require(self.retain >= 1, "retain", self.retain)
        _require(self.norm_factor > 1, "norm_factor", self.norm_factor)
        _require(self.gate_bound >= 0, "gate_bound", self.gate_bound)
        _require(self.shard_bytes >= 1, "shard_bytes", self.shard_bytes)

    def create(self) -> Method:
        """The method.

        Raises:
            UnknownMethod, BadOption: there is none, or not with these hyperparameters.
        """
        return registry.create(self.method, **self.options)

    def state_bytes(self, schema: Schema) -> int:
        """Bytes of state for a model, however many contributions come."""
        method = self.create()
        return sum(
            kept_bytes(method, tensor.name, tensor.shape, self.precision)
            for tensor in schema.parameters
        )

    def document(self) -> dict[str, object]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, object]) -> "StreamSpec":
        """What `document` gave."""
        fields = dict(document)
        fields["precision"] = Precision(str(fields["precision"]))
        fields["keep"] = Keep(str(fields["keep"]))
        return StreamSpec(**fields)  # type: ignore[arg-type]


def _require(good: bool, name: str, value: object) -> None:
    if not good:
        raise BadStream(f"a stream cannot have {name} = {value!r}")
