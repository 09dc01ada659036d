"""What a daemon and its training process say to each other.

One message is a length in four bytes and a JSON object. The daemon asks
(`{"do": "train", ...}`); the process answers each request once, with
`{"answer": ...}` or `{"error": ...}`, and between them shows that it lives with
`{"heartbeat": true}`. Both ends are of one installation: there are no versions.
Nothing here imports torch or touches a socket.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from weft import errors
from weft.errors import TrainingFailed, WeftError
from weft.node.trainer import Metrics, Scalar
from weft.protocol.run import Align

LENGTH: Final = struct.Struct("!I")
LIMIT_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """One round of training: a pure function of these files and the seed.

    Attributes:
        round: handed to the trainer.
        seed: of (run, node, round); up to 64 bits.
        model_in: the checkpoint that training starts from.
        state_in: what the trainer kept from an earlier round, or None.
        model_out: where the trained checkpoint goes, in one durable step.
        state_out: where the trainer's state goes; removed where it has none.
        fresh_optimizer: leave the optimizer's state out of what is handed over.
    """

    round: int
    seed: int
    model_in: Path
    state_in: Path | None
    model_out: Path
    state_out: Path
    fresh_optimizer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a round of training gave, besides its files.

    Attributes:
        metrics: finite numbers, as the trainer returned them.
        seconds: spent in the trainer's `train`.
        data_size: how many samples the trainer says it has, if it does.
        has_state: whether `state_out` was written.
    """

    metrics: Metrics
    seconds: float
    data_size: int | None = None
    has_state: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignRequest:
    """Models to be brought into the order of another one's units.

    Attributes:
        how: by "activations" on the node's calibration data, or by "weights".
        anchor: the checkpoint whose order is taken.
        models: those to be permuted.
        out: where each goes, in the order of `models`.
    """

    how: Align
    anchor: Path
    models: tuple[Path, ...]
    out: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignResult:
    """What an alignment gave, besides its files.

    Attributes:
        moved: for each model the share of its units that changed places; None where it
            could not be matched (what it computes overflows), and there is no file.
        seconds: that it took.
    """

    moved: tuple[float | None, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFacts:
    """What of a trainer's model can change places.

    Attributes:
        groups: of units.
        units: in all groups together.
        unruled: operators that keep in order what they touch, since nothing is known of them.
    """

    groups: int
    units: int
    unruled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerFacts:
    """What a trainer can do, known before the first round."""

    name: str
    device: str
    evaluates: bool = False
    calibrates: bool = False
    keeps_state: bool = False
    data_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """What a training process is started with.

    Attributes:
        target: `module:Class` of the trainer.
        folder: where its module is looked for first.
        options: the constructor's keyword arguments.
        overrides: a file that pins and splits groups of units, for alignment.
        device: a torch device, or "auto": cuda where there is one.
        threads: torch threads; results depend on their number.
        descriptor: the child's end of the socket.
        parent: process id of the daemon.
        heartbeat_s: how often a working process shows that it lives.
    """

    target: str
    folder: Path
    options: Mapping[str, Scalar] = field(default_factory=dict)
    overrides: Path | None = None
    device: str = "auto"
    threads: int = 1
    descriptor: int = -1
    parent: int = 0
    heartbeat_s: float = 5.0


REQUEST: Final = TypeAdapter(TrainRequest)
RESULT: Final = TypeAdapter(TrainResult)
ALIGN: Final = TypeAdapter(AlignRequest)
ALIGNED: Final = TypeAdapter(AlignResult)
UNITS: Final = TypeAdapter(UnitFacts)
FACTS: Final = TypeAdapter(TrainerFacts)
SETTINGS: Final = TypeAdapter(ProcessSettings)


def frame(message: Mapping[str, object]) -> bytes:
    """A message as it travels."""
    body = json.dumps(message, default=_absolute).encode()
    return LENGTH.pack(len(body)) + body


def _absolute(value: object) -> str:
    if isinstance(value, Path):  # the two ends work in different folders
        return str(value.absolute())
    raise TypeError(f"a message cannot hold a {type(value).__name__}")


def body_length(header: bytes) -> int:
    """How many bytes follow the four of a header.

    Raises:
        TrainingFailed: more than a message may have: the stream is out of step.
    """
    (length,) = LENGTH.unpack(header)
    if length > LIMIT_BYTES:
        raise TrainingFailed(f"a message of {length} bytes from the training process; out of step")
    return int(length)


def message_of(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a message's body."""
    message: dict[str, Any] = json.loads(body)
    return message


def fields_of(request: TrainRequest | AlignRequest) -> dict[str, object]:
    """A request as JSON values."""
    return asdict(request)


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback says it; long ones are cut."""
    words = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def error_message(error: WeftError, details: str = "") -> dict[str, object]:
    """An error as it travels: the nearest family, the one line, the traceback."""
    family = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _FAMILIES)
    return {"error": {"family": family, "text": str(error), "details": details}}


def error_of(said: Mapping[str, str]) -> WeftError:
    """The error that `error_message` wrote down, as its family."""
    return _FAMILIES.get(said["family"], TrainingFailed)(said["text"])


_FAMILIES: Final[Mapping[str, type[WeftError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, WeftError)
}
