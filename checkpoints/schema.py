"""What a model is made of: names, dtypes, shapes; no bytes and no torch.

A schema stands between every parser and every merge: `check` compares what was
found with what was expected before a tensor is read. Dtypes carry the names that
safetensors gives them ("F32", "BF16", ...).

    >>> schema = Schema((TensorSpec("fc.weight", "F32", (2, 3)),))
    >>> schema.size_bytes, schema["fc.weight"].kind
    (24, 'parameter')
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from blake3 import blake3

from weft.checkpoints.errors import BadSchema, MissingTensor, SchemaMismatch

BLOCK_ELEMENTS: Final = 2**20
"""Tensors are read, encoded and merged in flat blocks of so many elements."""

DTYPE_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "U16": 2,
        "I16": 2,
        "F16": 2,
        "BF16": 2,
        "U32": 4,
        "I32": 4,
        "F32": 4,
        "U64": 8,
        "I64": 8,
        "F64": 8,
    }
)
"""Bytes of one element of every dtype that is read and written."""

FLOATING: Final = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})
STATISTICS: Final = ("running_mean", "running_var")

MAX_NAME_BYTES: Final = 1024
MAX_RANK: Final = 32
MAX_EXTENT: Final = 2**60
"""Cap on the product of the dimensions that are not zero: it fits torch's strides."""

SHOWN_DIFFERENCES: Final = 10

TensorKind: TypeAlias = Literal["parameter", "statistic", "buffer"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one tensor; valid by construction.

    Raises:
        BadSchema: an unknown dtype, a name that could be taken for a path or
            hides characters, or a shape that no tensor has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise BadSchema(f"tensor {self.name}: dtype {self.dtype!r} is not one of {known}")
        _check_shape(self.name, self.shape)

    @property
    def elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor as it lies in a file."""
        return self.elements * DTYPE_BYTES[self.dtype]

    @property
    def blocks(self) -> int:
        """Number of flat blocks; 0 for a tensor without elements."""
        return -(-self.elements // BLOCK_ELEMENTS)

    @property
    def kind(self) -> TensorKind:
        """What a merge does with the tensor; the one place that decides it.

        Integers and booleans are *buffers*: copied, never merged. Floating
        tensors named `running_mean` or `running_var`, alone or after a dot, are
        *statistics* of activations: estimated again after a merge. All others
        are *parameters*: merged.
        """
        if self.dtype not in FLOATING:
            return "buffer"
        return "statistic" if self.name.rpartition(".")[2] in STATISTICS else "parameter"

    def describe(self) -> str:
        """Dtype and shape in a word, for messages."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Schema:
    """The tensors of a model, sorted by name; no name occurs twice.

    Raises:
        BadSchema: a name occurs twice.
    """

    tensors: tuple[TensorSpec, ...]
    _by_name: Mapping[str, TensorSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.tensors, key=lambda spec: spec.name))
        for before, after in pairwise(ordered):
            if before.name == after.name:
                raise BadSchema(f"tensor {after.name} occurs twice; names must be unique")
        object.__setattr__(self, "tensors", ordered)
        object.__setattr__(self, "_by_name", {spec.name: spec for spec in ordered})

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> TensorSpec:
        try:
            return self._by_name[name]
        except KeyError:
            raise MissingTensor(
                f"no tensor named {name!r} among the {len(self)} of this checkpoint"
            ) from None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(spec.name for spec in self.tensors)

    @property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """The tensors that are merged."""
        return self._of_kind("parameter")

    @property
    def statistics(self) -> tuple[TensorSpec, ...]:
        """The tensors that are estimated again after a merge."""
        return self._of_kind("statistic")

    @property
    def buffers(self) -> tuple[TensorSpec, ...]:
        """The tensors that are copied."""
        return self._of_kind("buffer")

    def _of_kind(self, kind: TensorKind) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.tensors if spec.kind == kind)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all tensors as they lie in a file."""
        return sum(spec.size_bytes for spec in self.tensors)

    @cached_property
    def elements(self) -> int:
        """Elements of all tensors."""
        return sum(spec.elements for spec in self.tensors)

    @cached_property
    def digest(self) -> str:
        """Blake3 of the canonical JSON of (name, dtype, shape), hexadecimal."""
        document = [[spec.name, spec.dtype, list(spec.shape)] for spec in self.tensors]
        return blake3(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


def check(found: Schema, expected: Schema, where: str) -> None:
    """Compare two schemas; silent when they are equal.

    Args:
        found: the schema of what was read or announced.
        expected: the schema of the model that it must fit, usually the base's.
        where: what was read (a path, a digest, a peer), for the message.

    Raises:
        SchemaMismatch: they differ; the message lists the first ten differences.
    """
    differences = list(differences_of(found, expected))
    if not differences:
        return
    shown = "; ".join(differences[:SHOWN_DIFFERENCES])
    more = len(differences) - SHOWN_DIFFERENCES
    tail = f"; and {more} more" if more > 0 else ""
    raise SchemaMismatch(f"{where}: not the expected model: {shown}{tail}")


def differences_of(found: Schema, expected: Schema, *, dtypes: bool = True) -> Iterator[str]:
    """What sets two schemas apart, a line a tensor, by name.

    Args:
        found: the schema of what was read or announced.
        expected: the schema of the model that it must fit.
        dtypes: whether dtypes count that leave a tensor of its kind.
    """
    for name in sorted({*found.names, *expected.names}):
        if name not in found:
            yield f"{name} is missing ({expected[name].describe()} expected)"
        elif name not in expected:
            yield f"{name} ({found[name].describe()}) is not part of it"
        elif found[name] != expected[name] and (dtypes or not _alike(found[name], expected[name])):
            yield f"{name} is {found[name].describe()}, {expected[name].describe()} expected"


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    return (one.shape, one.kind) == (other.shape, other.kind)


def _check_name(name: str) -> None:
    """Names never become paths; refuse those that could be taken for one all the same."""
    if not name or not name.isprintable():
        raise BadSchema(f"tensor name {name[:80]!r} is empty or holds unprintable characters")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise BadSchema(
            f"tensor name {name[:40]!r}... is longer than the limit of {MAX_NAME_BYTES} bytes"
        )
    if name.startswith("/") or ".." in name.split("/") or name == "__metadata__":
        raise BadSchema(f"tensor name {name!r} is not allowed; expected a dotted module path")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) > MAX_RANK:
        raise BadSchema(f"tensor {name}: {len(shape)} dimensions; at most {MAX_RANK} are read")
    if any(type(dimension) is not int or dimension < 0 for dimension in shape):
        raise BadSchema(f"tensor {name}: shape {shape} is not made of whole numbers from 0")
    if math.prod(dimension or 1 for dimension in shape) > MAX_EXTENT:
        raise BadSchema(f"tensor {name}: shape {shape} is beyond what a tensor can address")
